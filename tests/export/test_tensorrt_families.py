"""Every backbone family that is exported builds as an engine in every precision, for real, through TensorRT-RTX.

The networks are the smallest with each family's operators, but for the shipped one. What TensorRT-RTX makes of an
operator does not depend on a picture's size or on how often it stands in the graph; exporting takes most of the time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from dphr_infer.engines.tensorrt.api import Api, describe
from dphr_infer.engines.tensorrt.build import BuildOptions, Plan, build_plan
from dphr_infer.files.bundle import PRECISIONS, Precision, open_bundle
from dphr_infer.images.preprocess import Preprocess
from dphr_train.config import ModelConfig
from dphr_train.encoder import Encoder
from export.int8.quantiser import Quantiser
from export.int8.recipes import recipe_for
from export.to_tensorrt import count_layers

SAMPLE = Path(__file__).parents[2] / "samples" / "bundle"
# The smallest network of each family, the shipped EfficientNet-Lite, and a MobileNetV3 with one block a stage.
FAMILIES = ("convnext", "efficientnet", "resnet", "vit", "lite0", "mobilenetv3")
OPTIONS = BuildOptions(max_batch=16, opt_batch=4)
MULTIPLIES = ("CONVOLUTION", "MATRIX_MULTIPLY")


@dataclass(frozen=True)
class Built:
    """A family in all precisions: the files, their plans, and how many layers multiply int8 by int8."""

    models: dict[Precision, bytes]
    plans: dict[Precision, Plan]
    n_int8: int


@pytest.fixture(scope="module")
def rtx() -> Api:
    return describe("TensorRT-RTX", pytest.importorskip("tensorrt_rtx"))


def export_mobilenet(export_once: Callable[..., bytes], precision: Precision, side_px: int = 32) -> bytes:
    """Stages keep their first block, which alone changes channels: every operator once, a third of the graph."""
    torch.manual_seed(0)
    encoder = Encoder(ModelConfig(name="mobilenetv3_small_050", weights="random", projection_dim=64), side_px)
    blocks: Any = encoder.backbone.blocks
    for stage in blocks:
        del stage[1:]
    return export_once(encoder.eval(), Preprocess(side_px, side_px), precision)


def count_int8(model: bytes) -> int:
    """Convolutions and products whose first input comes out of int8."""
    nodes = onnx.load_model_from_string(model).graph.node
    restored = {output for node in nodes if node.op_type == "DequantizeLinear" for output in node.output}
    return sum(node.op_type in ("Conv", "MatMul", "Gemm") and node.input[0] in restored for node in nodes)


@pytest.fixture(scope="module", params=FAMILIES)
def built(
    request: pytest.FixtureRequest,
    rtx: Api,
    family_export: Callable[[str, Precision], bytes],
    export_once: Callable[..., bytes],
    calibration: np.ndarray,
) -> Built:
    name = request.param
    if name == "lite0":
        bundle = open_bundle(SAMPLE)
        models: dict[Precision, bytes] = {p: bundle.model_path(p).read_bytes() for p in PRECISIONS}
    else:
        make = partial(export_mobilenet, export_once) if name == "mobilenetv3" else partial(family_export, name)
        models = {p: make(p) for p in ("fp32", "fp16")}
        recipe = recipe_for(onnx.load_model_from_string(models["fp16"]), name)
        models["int8"] = Quantiser(models["fp16"], recipe, calibration).build()
    plans = {p: build_plan(model, OPTIONS, f"{name} {p}", rtx) for p, model in models.items()}
    return Built(models, plans, count_int8(models["int8"]))


def test_the_engine_holds_the_weights_in_the_precision_of_the_file(built: Built) -> None:
    for precision in PRECISIONS:
        n_model, n_plan = len(built.models[precision]), len(built.plans[precision].content)
        assert 0.95 * n_model < n_plan < n_model + 14e6, precision  # kernels for every GPU, some megabytes, come on top


def test_the_layers_compute_in_the_precisions_of_the_file(built: Built) -> None:
    counts = {precision: count_layers(plan.layers) for precision, plan in built.plans.items()}
    assert set(counts["fp32"]) == {"fp32"}
    assert counts["fp16"]["fp16"] > counts["fp16"]["fp32"]
    kinds = Counter(layer.precision for layer in built.plans["int8"].layers if layer.kind in MULTIPLIES)
    assert kinds["int8"] == counts["int8"]["int8"] == built.n_int8 > 5


def test_the_first_convolution_of_a_half_model_stays_in_float32(built: Built) -> None:
    convolutions = [layer.precision for layer in built.plans["fp16"].layers if layer.kind == "CONVOLUTION"]
    assert convolutions[0] == "fp32" and set(convolutions[1:]) <= {"fp16"}
