from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from dphr_infer.errors import ExportError
from export.int8.quantiser import Quantiser
from export.int8.recipes import Recipe
from export.int8.search import give_back
from export.int8.sensitivity import LayerSensitivity

PLAIN = Recipe("plain", "^$", ("Conv",), half=(), weights_only=())
NAMES = tuple("abcdefghijk")
# The later a layer, the worse: the order is k, j, i ...
TABLE = tuple(LayerSensitivity(name, "Conv", float(index), 9) for index, name in enumerate(NAMES))


@pytest.fixture(scope="module")
def quantiser(small_graph: Callable) -> Quantiser:
    graph = small_graph(side=1)
    for index, name in enumerate(NAMES):
        graph.conv(name, np.eye(3) * (1 + index / 16), np.zeros(3))
    return Quantiser(graph.linear("end", np.eye(3)).to_bytes(3), PLAIN, np.full((16, 1, 1, 3), 9, np.uint8))


def layers_in_half(model: bytes) -> int:
    graph = onnx.load_model_from_string(model).graph
    return len(NAMES) - sum(node.op_type == "QuantizeLinear" for node in graph.node)


@pytest.mark.parametrize(
    ("needed", "tried"),
    [
        (0, [0]),
        (1, [0, 1]),
        (2, [0, 1, 2]),
        (3, [0, 1, 2, 4, 3]),
        (6, [0, 1, 2, 4, 8, 6, 5]),
        (8, [0, 1, 2, 4, 8, 6, 7]),
        (11, [0, 1, 2, 4, 8, 11, 9, 10]),
    ],
)
def test_the_fewest_worst_layers_go_back(quantiser: Quantiser, needed: int, tried: list[int]) -> None:
    seen = []

    def passes(model: bytes) -> bool:
        seen.append(layers_in_half(model))
        return seen[-1] >= needed

    found = give_back(quantiser, TABLE, passes)
    assert found.float_layers == tuple(reversed(NAMES))[:needed]
    assert found.model == quantiser.build(found.float_layers)
    assert seen == tried
    assert found.evaluations == len(tried)


def test_a_gate_that_no_model_passes_is_an_error(quantiser: Quantiser) -> None:
    with pytest.raises(ExportError, match="fails with 11 of 11 int8 layers back"):
        give_back(quantiser, TABLE, lambda model: False)


def test_a_table_of_another_model_is_refused(quantiser: Quantiser) -> None:
    with pytest.raises(ExportError, match="names 10 layers that are not the model's 11"):
        give_back(quantiser, TABLE[1:], lambda model: True)
