from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import numpy_helper

from dphr_infer.errors import ExportError
from dphr_infer.files.bundle import open_bundle
from dphr_infer.images.preprocess import read_image
from export.int8.quantiser import Quantiser, quantise_weight
from export.int8.recipes import RECIPES, Recipe, recipe_for
from export.int8.sensitivity import embed_model

SAMPLES = Path(__file__).parents[3] / "samples"
PLAIN = Recipe("plain", "^$", ("Conv", "MatMul"), half=(), weights_only=())
# Rows are output channels of the convolution, columns those of the linear map.
CONV = np.array([[127, 1.5, -1.5], [-127, 64, 0]]) / 128
CONV_BIAS = np.array([254 / 128, 7])
LINEAR = np.array([[127 / 64, -127 / 256], [-1.5 / 64, 2.5 / 256]])
# On images of 254 the pixels reach 254, and the first channel 254 * 127 / 128 + 254 / 128 = 254: both scales are 2.
WHITE = np.full((16, 2, 2, 3), 254, np.uint8)


def fake_quantise(values: np.ndarray, scale: np.ndarray | float, low: int = -128) -> np.ndarray:
    """The plain reference: to int8 and back; numpy rounds ties to even."""
    return np.clip(np.rint(values / scale), low, 127) * scale


def pixel(red: int, green: int, blue: int) -> np.ndarray:
    return np.tile(np.array([red, green, blue], np.uint8), (1, 2, 2, 1))


@pytest.fixture(scope="module")
def placed(small_graph: Callable) -> bytes:
    return small_graph().conv("a", CONV, CONV_BIAS).add("Relu").linear("b", LINEAR).to_bytes(2)


@pytest.fixture(scope="module")
def placed_int8(placed: bytes) -> bytes:
    return Quantiser(placed, PLAIN, WHITE).build()


@pytest.mark.parametrize("weights", ["int8", "float"])
def test_a_convolution_and_a_linear_map_give_the_numbers_placed_by_hand(placed: bytes, weights: str) -> None:
    quantiser = Quantiser(placed, PLAIN, WHITE, weights)
    assert quantiser.layers == ("a", "b")
    # 5, 3, 255 become 4, 4, 254; 1.5 / 128 becomes 2 / 128:
    #   (4 * 127 + 4 * 2 - 254 * 2 + 254) / 128 = 2.046875;  (-4 * 127 + 4 * 64) / 128 + 7 = 5.03125
    # which become 2 and 6:  (2 * 127 - 6 * 2) / 64 = 3.78125;  (-2 * 127 + 6 * 2) / 256 = -0.9453125
    assert embed_model(quantiser.build(), pixel(5, 3, 255)).tolist() == [[3.78125, -0.9453125]]
    # The convolution alone: (2.046875 * 127 - 5.03125 * 1.5) / 64;  (-2.046875 * 127 + 5.03125 * 2.5) / 256
    alone = embed_model(quantiser.build(["b"]), pixel(5, 3, 255))
    assert alone.tolist() == [[3.94384765625, -0.96630859375]]


@settings(max_examples=40, deadline=None)
@given(arrays(np.uint8, (1, 1, 1, 3)))
def test_the_quantised_graph_equals_the_plain_reference_on_any_pixel(placed_int8: bytes, image: np.ndarray) -> None:
    # ONNX Runtime computes halves in float32 on a CPU, in which these numbers are exact.
    x = fake_quantise(image[0, 0, 0].astype(np.float64), 2.0)
    middle = fake_quantise(CONV, 1 / 128) @ x + CONV_BIAS
    expected = fake_quantise(np.maximum(middle, 0), 2.0) @ fake_quantise(LINEAR, np.array([1 / 64, 1 / 256]))
    found = embed_model(placed_int8, np.tile(image, (1, 2, 2, 1)))
    assert found.tolist() == [expected.tolist()]


def test_the_runtime_does_not_round_a_bias_that_leads_to_a_quantised_layer(small_graph: Callable) -> None:
    # 100 / (scale 2 * scale 2^-14) is beyond a half: a runtime that quantises this bias in half precision loses it.
    tiny = np.full((3, 3), 127 * 2.0**-14)
    graph = small_graph().conv("a", tiny, np.full(3, 100.0)).add("Relu").conv("b", np.eye(3), np.zeros(3))
    quantiser = Quantiser(graph.linear("c", np.eye(3)).to_bytes(3), PLAIN, WHITE)
    expected = embed_model(quantiser.build(quantiser.layers), WHITE[:1])
    assert np.abs(embed_model(quantiser.build(), WHITE[:1]) / expected - 1).max() < 0.01


@given(arrays(np.float16, (3, 4), elements=st.floats(-60000, 60000, width=16)), st.integers(0, 1))
def test_a_weight_moves_by_half_a_step_of_its_channel_at_most(weight: np.ndarray, axis: int) -> None:
    found = quantise_weight(weight, axis)
    scale = np.expand_dims(found.scale.astype(np.float64), 1 - axis)
    assert np.abs(found.values.astype(int)).max() <= 127
    assert (np.abs(found.values * scale - weight) <= scale / 2).all()
    assert found.scale.shape == (weight.shape[axis],)


def test_nothing_but_the_layers_changes(placed: bytes) -> None:
    before = onnx.load_model_from_string(placed).graph
    after = onnx.load_model_from_string(Quantiser(placed, PLAIN, WHITE).build(["b"])).graph
    kept = {node.name: node for node in after.node}
    for node in before.node:
        same = kept[node.name]
        assert (same.op_type, same.output, same.attribute) == (node.op_type, node.output, node.attribute)
        if not node.name.startswith("Conv"):
            assert same.input == node.input
    new = {value.name: numpy_helper.to_array(value) for value in after.initializer}
    for value in before.initializer:
        if value.name != "encoder.backbone.a.weight":
            assert np.array_equal(new[value.name], numpy_helper.to_array(value))
    assert "encoder.backbone.a.weight" not in new, "the half weight that nothing reads is gone"
    assert new["encoder.backbone.a.weight/int8"].ravel().tolist() == [127, 2, -2, -127, 64, 0]
    assert new["encoder.backbone.a.weight/scale"].dtype == np.float16
    assert new["encoder.backbone.a.weight/scale"].tolist() == [1 / 128, 1 / 128]
    assert new["pixels/scale"].tolist() == new["pixels/wide_scale"].tolist() == 2.0
    assert {value.dtype for name, value in new.items() if name.endswith("zero")} == {np.dtype(np.int8)}
    assert not any(new[name].any() for name in new if name.endswith("zero"))


def test_a_tensor_that_two_layers_read_is_quantised_once(small_graph: Callable) -> None:
    graph = small_graph()
    graph.conv("a", np.eye(3), np.zeros(3))
    left, graph.last = graph.last, "pixels"
    graph.conv("b", np.eye(3), np.zeros(3)).add("Add", left).linear("c", np.eye(3))
    content = Quantiser(graph.to_bytes(3), PLAIN, WHITE).build()
    ops = Counter(node.op_type for node in onnx.load_model_from_string(content).graph.node)
    assert (ops["QuantizeLinear"], ops["DequantizeLinear"]) == (2, 2 + 3)


def test_layers_whose_weights_alone_are_int8_keep_their_half_activations(placed: bytes) -> None:
    quantiser = Quantiser(placed, dataclasses.replace(PLAIN, weights_only=("^a$",)), WHITE)
    nodes = {node.name: node for node in onnx.load_model_from_string(quantiser.build()).graph.node}
    assert list(nodes["Conv_3"].input[:2]) == ["pixels", "encoder.backbone.a.weight/restored"]
    assert [layer.weights_only for layer in quantiser.details] == [True, False]


def test_layers_of_one_name_are_told_apart(small_graph: Callable) -> None:
    graph = small_graph().conv("a", np.eye(3), np.zeros(3))
    graph.add("Conv", "encoder.backbone.a.weight").linear("b", np.eye(3))
    assert Quantiser(graph.to_bytes(3), PLAIN, WHITE).layers == ("a", "a#2", "b")


@pytest.mark.parametrize("family", [recipe.name for recipe in RECIPES])
def test_each_family_is_built_in_both_forms_and_goes_back_exactly(
    exports: dict[str, bytes], calibration: np.ndarray, family: str
) -> None:
    content = exports[family]
    recipe = recipe_for(onnx.load_model_from_string(content), family)
    quantiser = Quantiser(content, recipe, calibration)
    int8 = quantiser.build()
    assert int8 == quantiser.build() == Quantiser(content, recipe, calibration).build(), "equal bytes"
    assert len(int8) < 0.7 * len(content)
    found = embed_model(int8, calibration)
    as_float = Quantiser(content, recipe, calibration, "float").build()
    assert np.array_equal(found, embed_model(as_float, calibration))
    half = embed_model(content, calibration)
    assert np.array_equal(half, embed_model(quantiser.build(quantiser.layers), calibration))
    assert 0.9 < (found.astype(np.float64) * half).sum(axis=1).min() < 0.999999


def test_trained_weights_keep_their_embeddings_in_a_quarter_of_the_bytes() -> None:
    bundle = open_bundle(SAMPLES / "bundle")
    photos = sorted((SAMPLES / "brighton_beach/photos").glob("*.JPG"))
    calibration = np.stack([bundle.manifest.preprocess(read_image(path)) for path in photos])
    images, expected = bundle.read_selftest()
    content = bundle.model_path("fp16").read_bytes()
    int8 = Quantiser(content, recipe_for(onnx.load_model_from_string(content), "lite0"), calibration).build()
    assert len(int8) <= 0.28 * bundle.model_path("fp32").stat().st_size
    cosines = (embed_model(int8, images).astype(np.float64) * expected).sum(axis=1)
    assert cosines.min() > 0.98
    assert cosines.mean() > 0.99


def test_an_opset_below_18_is_refused(small_graph: Callable) -> None:
    content = small_graph().conv("a", np.eye(3), np.zeros(3)).add("Relu").to_bytes(3, opset=17)
    with pytest.raises(ExportError, match="opset is 17; int8 starts from 18"):
        Quantiser(content, PLAIN, WHITE)


def test_a_model_without_layers_to_quantise_is_refused(placed: bytes) -> None:
    with pytest.raises(ExportError, match="no layer that the plain recipe quantises: no Gemm with a constant weight"):
        Quantiser(placed, dataclasses.replace(PLAIN, ops=("Gemm",)), WHITE)


def test_a_layer_that_the_model_has_not_is_refused(placed: bytes) -> None:
    with pytest.raises(ExportError, match="no int8 layer nowhere; its 2 layers begin with a, b"):
        Quantiser(placed, PLAIN, WHITE).build(["a", "nowhere"])


def test_calibration_images_of_another_size_are_refused(placed: bytes) -> None:
    with pytest.raises(ExportError, match=r"the model takes uint8 \(n, 2, 2, 3\)"):
        Quantiser(placed, PLAIN, np.zeros((16, 4, 4, 3), np.uint8))
