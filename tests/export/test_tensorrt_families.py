"""Every backbone family that is exported builds as an engine in every precision, for real, through TensorRT-RTX.

The models are whole, with random weights, at the smallest input that they take. What TensorRT-RTX makes of an operator
does not depend on the picture's size, and exporting takes most of the time.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
import torch

from dphr_infer.engines.tensorrt.api import Api, describe
from dphr_infer.engines.tensorrt.build import BuildOptions, Plan, build_plan
from dphr_infer.files.bundle import PRECISIONS, Precision
from dphr_infer.images.preprocess import Preprocess
from dphr_train.config import ModelConfig
from dphr_train.encoder import Encoder
from export.graph.to_onnx import to_onnx
from export.int8.quantiser import Quantiser
from export.int8.recipes import recipe_for
from export.to_tensorrt import count_layers

SIDE_PX = 32
FAMILIES = {
    "convnext_tiny": "gem",
    "tf_efficientnet_lite0": "gem",
    "mobilenetv3_large_100": "gem",
    "vit_small_patch16_224": "average",
    "test_resnet": "gem",
}
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


@pytest.fixture(scope="module", params=FAMILIES)
def built(request: pytest.FixtureRequest, rtx: Api) -> Built:
    name = request.param
    torch.manual_seed(0)
    config = ModelConfig(name=name, weights="random", pooling=FAMILIES[name], projection_dim=64)
    encoder, preprocess = Encoder(config, SIDE_PX).eval(), Preprocess(SIDE_PX, SIDE_PX)
    models: dict[Precision, bytes] = {p: to_onnx(encoder, preprocess, p) for p in ("fp32", "fp16")}
    images = np.random.default_rng(0).integers(0, 256, (16, SIDE_PX, SIDE_PX, 3), np.uint8)
    recipe = recipe_for(onnx.load_model_from_string(models["fp16"]), name)
    quantiser = Quantiser(models["fp16"], recipe, images)
    models["int8"] = quantiser.build()
    plans = {p: build_plan(model, OPTIONS, f"{name} {p}", rtx) for p, model in models.items()}
    return Built(models, plans, sum(not layer.weights_only for layer in quantiser.details))


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
