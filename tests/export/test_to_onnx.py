from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from dphr_infer.bundle import PRECISIONS, Precision
from dphr_infer.engines.onnxrt import OnnxRuntimeEngine
from dphr_infer.errors import ExportError
from dphr_infer.preprocess import Preprocess
from dphr_train.encoder import Encoder
from export.parity import torch_embedder
from export.to_onnx import to_onnx

LIMIT = {"fp32": 1e-6, "fp16": 1e-4}


@pytest.fixture(scope="module")
def models(encoder: Encoder, preprocess: Preprocess) -> dict[str, bytes]:
    return {precision: to_onnx(encoder, preprocess, precision) for precision in PRECISIONS}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("batch", [1, 2, 7, 16])
def test_the_exported_graph_equals_torch_at_every_batch_size(
    models: dict[str, bytes], encoder: Encoder, images: np.ndarray, tmp_path: Path, precision: Precision, batch: int
) -> None:
    (tmp_path / "m.onnx").write_bytes(models[precision])
    with OnnxRuntimeEngine(tmp_path / "m.onnx", precision) as engine:
        found = engine.embed(images[:batch])
    expected = torch_embedder(encoder)(images[:batch])
    assert found.dtype == np.float32
    assert (1 - np.einsum("nd,nd->n", found.astype(np.float64), expected)).max() < LIMIT[precision]


def test_the_graph_casts_before_it_transposes_because_tensorrt_refuses_a_uint8_transpose(
    models: dict[str, bytes],
) -> None:
    for content in models.values():
        nodes = onnx.load_model_from_string(content).graph.node
        assert [node.op_type for node in nodes if "images" in node.input] == ["Cast"]


def test_the_half_precision_model_keeps_its_ends_in_float32_and_is_half_the_size(models: dict[str, bytes]) -> None:
    graph = onnx.load_model_from_string(models["fp16"]).graph
    types = {value.name: value.data_type for value in graph.initializer}
    first, *others = [node for node in graph.node if node.op_type == "Conv"]
    assert types[first.input[1]] == onnx.TensorProto.FLOAT
    assert {types[node.input[1]] for node in others} == {onnx.TensorProto.FLOAT16}
    assert graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    norm = next(node for node in graph.node if node.op_type == "ReduceL2")
    producers = {name: node for node in graph.node for name in node.output}
    assert producers[norm.input[0]].op_type != "Cast", "the projection before the norm runs in float32"
    assert len(models["fp16"]) < 0.65 * len(models["fp32"])


def test_the_opset_is_at_least_18_and_no_path_of_this_machine_is_inside(models: dict[str, bytes]) -> None:
    for content in models.values():
        model = onnx.load_model_from_string(content)
        assert model.opset_import[0].version >= 18
        assert b".py" not in content
        assert str(Path(__file__).parents[2]).encode() not in content


def test_equal_weights_give_equal_bytes(models: dict[str, bytes], encoder: Encoder, preprocess: Preprocess) -> None:
    assert to_onnx(encoder, preprocess, "fp32") == models["fp32"]


def test_the_export_leaves_the_encoder_in_float32(models: dict[str, bytes], encoder: Encoder) -> None:
    assert {str(value.dtype) for value in encoder.parameters()} == {"torch.float32"}


def test_the_exporter_says_nothing(encoder: Encoder, preprocess: Preprocess, capfd: pytest.CaptureFixture[str]) -> None:
    to_onnx(encoder, preprocess, "fp32")
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_an_encoder_that_cannot_be_traced_is_named(encoder: Encoder, preprocess: Preprocess) -> None:
    class Branching(Encoder):
        def features(self, images: torch.Tensor) -> torch.Tensor:
            return super().features(images) * (2 if float(images.sum()) > 0 else 1)

    branching = copy.deepcopy(encoder)
    branching.__class__ = Branching
    with pytest.raises(ExportError, match="cannot export the encoder test_efficientnet in fp32") as caught:
        to_onnx(branching, preprocess, "fp32")
    assert "\n" not in str(caught.value)


def test_the_first_convolution_of_the_half_model_keeps_every_bit(models: dict[str, bytes]) -> None:
    def first_weights(precision: str) -> np.ndarray:
        graph = onnx.load_model_from_string(models[precision]).graph
        name = next(node for node in graph.node if node.op_type == "Conv").input[1]
        return next(onnx.numpy_helper.to_array(value) for value in graph.initializer if value.name == name)

    assert np.array_equal(first_weights("fp16"), first_weights("fp32"))
