"""The int8 model of a half-precision export: calibrated, measured layer by layer, given back until the gate holds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import onnx

from dphr_infer.bundle import Quantisation
from export.calibration_set import CalibrationSet
from export.int8.quantiser import Quantiser, Weights
from export.int8.recipes import recipe_for
from export.int8.search import give_back
from export.int8.sensitivity import LayerSensitivity, measure_sensitivity

SENSITIVITY_IMAGES = 32
DEFAULT_CALIBRATION_IMAGES = 256


@dataclass(frozen=True, slots=True)
class Int8Options:
    """How to make an int8 model.

    Attributes:
        n_calibration_images: training images that ranges are measured on, half of them of each view.
        weights: "int8" stores them so; "float" stores halves behind Q/DQ pairs, for TensorRT before 10.
    """

    n_calibration_images: int = DEFAULT_CALIBRATION_IMAGES
    weights: Weights = "int8"


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
        ExportError: no recipe for this family, calibration that cannot be used, or no model passes.
        EngineError: ONNX Runtime cannot run a model.
    """
    recipe = recipe_for(onnx.load_model_from_string(half), encoder)
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
