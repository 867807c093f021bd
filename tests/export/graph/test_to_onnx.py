from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from dphr_infer.engines.onnxruntime import OnnxRuntimeEngine
from dphr_infer.errors import ExportError
from dphr_infer.files.bundle import Precision
from dphr_infer.images.preprocess import Preprocess
from dphr_train.encoder import Encoder
from export.gate.parity import torch_embedder
from export.graph.opset import require_opset
from export.graph.to_onnx import to_onnx
from export.request import OPSET

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")
LIMIT = {"fp32": 1e-6, "fp16": 1e-4}


@pytest.fixture(scope="module")
def models(encoder: Encoder, preprocess: Preprocess, export_once: Callable[..., bytes]) -> dict[str, bytes]:
    return {precision: export_once(encoder, preprocess, precision) for precision in PRECISIONS}


@pytest.fixture
def short(encoder: Encoder) -> Encoder:
    """The encoder without its stages, for exports that are refused: to trace all of it takes twice as long."""
    short = copy.deepcopy(encoder)
    backbone: Any = short.backbone
    backbone.blocks = nn.Sequential()
    backbone.conv_head = nn.Conv2d(backbone.conv_stem.out_channels, backbone.conv_head.out_channels, 1)
    return short.eval()


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


def test_the_opset_is_18_and_no_path_of_this_machine_is_inside(models: dict[str, bytes]) -> None:
    for content in models.values():
        model = onnx.load_model_from_string(content)
        assert [(item.domain, item.version) for item in model.opset_import] == [("", 18)]
        assert b".py" not in content
        assert str(Path(__file__).parents[3]).encode() not in content


def test_equal_weights_give_equal_bytes_and_no_word_on_the_terminal(
    models: dict[str, bytes], encoder: Encoder, preprocess: Preprocess, capfd: pytest.CaptureFixture[str]
) -> None:
    assert to_onnx(encoder, preprocess, "fp32") == models["fp32"]
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_the_export_leaves_the_encoder_in_float32(models: dict[str, bytes], encoder: Encoder) -> None:
    assert {str(value.dtype) for value in encoder.parameters()} == {"torch.float32"}


def test_an_encoder_that_cannot_be_traced_is_named_in_one_line(
    short: Encoder, preprocess: Preprocess, capfd: pytest.CaptureFixture[str]
) -> None:
    class Branching(Encoder):
        def features(self, images: torch.Tensor) -> torch.Tensor:
            return super().features(images) * (2 if float(images.sum()) > 0 else 1)

    short.__class__ = Branching
    with pytest.raises(ExportError, match=r"in fp32 at opset 18: GuardOnDataDepend\w*: Could") as caught:
        to_onnx(short, preprocess, "fp32")
    assert "\n" not in str(caught.value)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


class Eigenvalues(nn.Module):
    """Multiplies a feature map by the sum of the eigenvalues of its channels' products, which ONNX does not have."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        rows = features.flatten(2)
        return features * torch.linalg.eigvalsh(rows @ rows.transpose(1, 2)).sum()


def test_an_operator_without_onnx_is_named_with_the_module_that_calls_it(
    short: Encoder, preprocess: Preprocess
) -> None:
    short.backbone.blocks.add_module("odd", Eigenvalues())
    with pytest.raises(
        ExportError,
        match=r"no ONNX for the operator aten\._linalg_eigh, which the module backbone\.blocks\.odd \(Eigenvalues\) "
        r"calls\. Replace that module",
    ) as caught:
        to_onnx(short, preprocess, "fp32")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (lambda parts: parts, r"float32 \(2, 1, 24\)"),
        (lambda parts: parts.flatten(1).double(), r"float64 \(2, 24\)"),
        (lambda parts: parts.flatten(1)[:, :5], r"float32 \(2, 5\)"),
        (lambda parts: (parts.flatten(1), parts), "tuple"),
    ],
)
def test_an_answer_that_is_no_embedding_is_refused_before_the_export(
    encoder: Encoder, preprocess: Preprocess, answer, found: str
) -> None:
    class Other(Encoder):
        def features(self, images: torch.Tensor):
            return answer(self.parts(images))

    other = copy.deepcopy(encoder).train()
    other.__class__ = Other
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ExportError, match=rf"gives {found} for 2 images; .* float32 \(2, 24\), that is \(B, dim\)"):
        to_onnx(other, preprocess, "fp32")
    assert other.training
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


def test_a_graph_whose_output_is_no_embedding_is_refused(
    short: Encoder, preprocess: Preprocess, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Parts(Encoder):
        def features(self, images: torch.Tensor) -> torch.Tensor:
            return self.parts(images)

    short.__class__ = Parts
    monkeypatch.setattr("export.graph.to_onnx._require_embeddings", lambda *_: None)
    with pytest.raises(ExportError, match=r"gives .*\['B', 1, 24\].* needs one output \"embeddings\", float32"):
        to_onnx(short, preprocess, "fp32")


def test_int8_is_not_exported_as_if_it_were_float(encoder: Encoder, preprocess: Preprocess) -> None:
    with pytest.raises(ExportError, match="int8 model is made from the fp16 export"):
        to_onnx(encoder, preprocess, "int8")


def test_a_newer_opset_is_written_and_answers_the_same(
    models: dict[str, bytes], encoder: Encoder, preprocess: Preprocess, images: np.ndarray, tmp_path: Path
) -> None:
    content = to_onnx(encoder, preprocess, "fp32", opset=21)
    assert [item.version for item in onnx.load_model_from_string(content).opset_import] == [21]
    found = []
    for name, model in (("new", content), ("old", models["fp32"])):
        (tmp_path / name).write_bytes(model)
        with OnnxRuntimeEngine(tmp_path / name, name) as engine:
            found.append(engine.embed(images))
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)


def test_an_opset_below_18_is_refused_with_both_numbers(encoder: Encoder, preprocess: Preprocess) -> None:
    with pytest.raises(ExportError, match="Opset 17 is too low; the graph needs at least 18: LayerNorm"):
        to_onnx(encoder, preprocess, "fp32", opset=17)


def test_an_opset_that_onnx_does_not_know_is_refused_with_both_numbers() -> None:
    newest = onnx.defs.onnx_opset_version()
    with pytest.raises(ExportError, match=f"Opset {newest + 1} is too high: .* knows opsets up to {newest}"):
        require_opset(newest + 1)


def test_an_opset_that_the_runtime_does_not_open_is_refused_with_both_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(onnx.defs, "onnx_opset_version", lambda: 999)
    with pytest.raises(ExportError, match=r"Opset 998 is too high: .* ONNX Runtime.* opens opsets up to") as caught:
        require_opset(998)
    newest = int(str(caught.value).partition("up to ")[2].partition(".")[0])
    assert OPSET < newest < 998
    require_opset(newest)


def test_an_opset_that_the_exporter_leaves_unconverted_is_refused(
    short: Encoder, preprocess: Preprocess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.graph.to_onnx.require_opset", lambda opset: None)
    with pytest.raises(ExportError, match="in opset 18 instead of 99, which it cannot convert to"):
        to_onnx(short, preprocess, "fp32", opset=99)


def test_the_first_convolution_of_the_half_model_keeps_every_bit(models: dict[str, bytes]) -> None:
    def first_weights(precision: str) -> np.ndarray:
        graph = onnx.load_model_from_string(models[precision]).graph
        name = next(node for node in graph.node if node.op_type == "Conv").input[1]
        return next(onnx.numpy_helper.to_array(value) for value in graph.initializer if value.name == name)

    assert np.array_equal(first_weights("fp16"), first_weights("fp32"))
