"""Gives layers back to half precision, worst first, until a model passes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dphr_infer.errors import ExportError
from export.int8.quantiser import Quantiser
from export.int8.sensitivity import LayerSensitivity, rank


@dataclass(frozen=True, slots=True)
class GiveBack:
    """A model that passed.

    Attributes:
        model: its bytes.
        float_layers: layers that went back, worst first.
        evaluations: how many models were tried.
    """

    model: bytes
    float_layers: tuple[str, ...]
    evaluations: int


def give_back(quantiser: Quantiser, table: Iterable[LayerSensitivity], passes: Callable[[bytes], bool]) -> GiveBack:
    """The first k layers of the ranked table back in half precision, for the smallest k that passes.

    k runs 0, 1, 2, 4, 8 ... until one passes, then bisects down to the last that failed: about 2 log2(k) + 2 models.
    The model with k layers passed and the one with k - 1 failed, both tried. Where `passes` is not monotone in k,
    a smaller k that was not tried may pass too.

    Args:
        table: of `measure_sensitivity`; sets the order.
        passes: the gate, on the bytes of a model.

    Raises:
        ExportError: the table is not of this model, or no model passes, not even with all layers back.
    """
    order = tuple(row.layer for row in rank(table))
    if sorted(order) != sorted(quantiser.layers):
        raise ExportError(
            f"The sensitivity table names {len(order)} layers that are not the model's {len(quantiser.layers)}: "
            "measure it again for this model and recipe."
        )
    best = b""
    evaluations = 0

    def attempt(count: int) -> bool:
        nonlocal best, evaluations
        model = quantiser.build(order[:count])
        evaluations += 1
        if passed := passes(model):
            best = model
        return passed

    failed, count = -1, 0
    while not attempt(count):
        if count == len(order):
            raise ExportError(
                f"The gate fails with {count} of {count} int8 layers back in half precision, so int8 is not the cause. "
                "Mend the fp16 model first, or ship without int8."
            )
        failed, count = count, min(max(1, 2 * count), len(order))
    while count - failed > 1:
        middle = (failed + count) // 2
        if attempt(middle):
            count = middle
        else:
            failed = middle
    return GiveBack(best, order[:count], evaluations)
