"""The int8 model of a half-precision export: calibrated, measured layer by layer, given back until the gate holds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import onnx
from google.protobuf.message import DecodeError

from dphr_infer.errors import ExportError
from dphr_infer.files.bundle import Quantisation
from export.gate.calibration_set import CalibrationSet
from export.int8.quantiser import Quantiser
from export.int8.recipes import Recipe, recipe_for
from export.int8.search import give_back
from export.int8.sensitivity import LayerSensitivity, measure_sensitivity
from export.request import Weights

SENSITIVITY_IMAGES = 32


@dataclass(frozen=True, slots=True)
class Int8Model:
    """An int8 model that passed the gate.

    Attributes:
        content: the bytes of the ONNX file.
        quantisation: for the manifest.
        sensitivity: of every layer that the recipe quantises.
    """

    content: bytes
    quantisation: Quantisation
    sensitivity: tuple[LayerSensitivity, ...]


def require_recipe(half: bytes, encoder: str) -> Recipe:
    """The recipe of the family that an fp16 model belongs to.

    Args:
        half: the model's bytes.
        encoder: name of the backbone, for messages.

    Raises:
        ExportError: the bytes are no ONNX model, or there is no recipe for this family.
    """
    try:
        model = onnx.load_model_from_string(half)
    except DecodeError as error:
        raise _unreadable(half, "it is no ONNX file") from error
    if not model.graph.node or not any(entry.domain == "" for entry in model.opset_import):
        raise _unreadable(half, "it holds no graph")
    return recipe_for(model, encoder)


def _unreadable(half: bytes, reason: str) -> ExportError:
    return ExportError(
        f"The fp16 model of {len(half):,} bytes cannot be read: {reason}. Export the bundle again with fp16."
    )


def make_int8(
    half: bytes, encoder: str, calibration: CalibrationSet, weights: Weights, passes: Callable[[bytes], bool]
) -> Int8Model:
    """Quantise a model; as few layers as hold the gate go back to half precision.

    Args:
        half: the fp16 model's bytes.
        encoder: name of the backbone, for messages.
        calibration: training images; the first of each view also measure what a layer costs.
        weights: how they are stored.
        passes: the gate, on the bytes of a model.

    Raises:
        ExportError: no model or no recipe for this family, calibration that cannot be used, or no model passes.
        EngineError: ONNX Runtime cannot run a model.
    """
    recipe = require_recipe(half, encoder)
    quantiser = Quantiser(half, recipe, calibration.images, weights)
    every = max(1, calibration.n // SENSITIVITY_IMAGES)
    table = measure_sensitivity(quantiser, calibration.images[::every][:SENSITIVITY_IMAGES])
    found = give_back(quantiser, table, passes)
    print(
        f"int8 by the recipe {recipe.name}: {len(quantiser.layers) - len(found.float_layers)} of "
        f"{len(quantiser.layers)} layers, {len(found.float_layers)} back in half precision"
        + (f" ({', '.join(found.float_layers[:3])}…)" if found.float_layers else ""),
        file=sys.stderr,
        flush=True,
    )
    quantisation = Quantisation(
        recipe=recipe.name,
        weights=weights,
        calibration_sha256=calibration.sha256,
        n_calibration_images=calibration.n,
        float_layers=found.float_layers,
    )
    return Int8Model(found.model, quantisation, table)
