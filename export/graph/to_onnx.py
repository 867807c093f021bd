"""Encoder -> the bytes of an ONNX file. Knows nothing of checkpoints, data sets or bundles.

The graph takes raw pixels, so that no caller can normalise them differently:

    uint8 (B, height_px, width_px, 3) RGB "images" -> float32 (B, dim) "embeddings", unit length

The batch is free. The opset is 18 unless asked otherwise; see opset.py.

In half precision only the backbone is half, without its first convolution. Pixels are normalised, pooled, projected and
brought to unit length in float32: a generalised mean or a sum of squares soon leaves the range of a half, and on real
photos a projection in half precision doubled the error of the whole model. The first convolution takes differences of
large terms that cancel where a picture is flat, so rounding its few weights (0.03 % of tf_efficientnet_lite0) cost as
much cosine as rounding all the others together.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator
from typing import Any

import onnx
import torch
from onnx.checker import ValidationError
from torch import nn

from dphr_infer.engines.onnxruntime import INPUT_NAME, OUTPUT_NAME
from dphr_infer.errors import ExportError
from dphr_infer.files.bundle import Precision
from dphr_infer.images.preprocess import Preprocess
from dphr_train.encoder import Encoder
from export.graph.fold import fold_batch_norms
from export.graph.opset import require_opset
from export.request import OPSET

# Two, because torch.export takes an example batch of one for a constant.
_EXAMPLE_BATCH = 2
_MIN_LENGTH = 1e-12
# How torch's exporter words an operator that it has no ONNX for; the error that says so lies deep in the causes.
_NO_FUNCTION = re.compile(r"No ONNX function found for <OpOverload\(op='(?P<name>[\w.]+)'")
_COLOUR = re.compile(r"\x1b\[\d*m")
_EXPORTER_LOGGERS = (
    "torch.onnx",
    "torch.export",
    "torch._export",
    "torch.fx.experimental.symbolic_shapes",
    "onnxscript",
    "onnx_ir",
)


class ExportedEncoder(nn.Module):
    """An encoder with its normalisation inside, from raw pixels to unit vectors."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, encoder: Encoder, preprocess: Preprocess, precision: Precision) -> None:
        """Copy the encoder; the caller's own stays in float32."""
        super().__init__()
        self.encoder = fold_batch_norms(encoder, preprocess.height_px, preprocess.width_px)
        if precision == "fp16":
            _halve(self.encoder.backbone)
        self.register_buffer("mean", torch.tensor(encoder.mean, dtype=torch.float32).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(encoder.std, dtype=torch.float32).view(1, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (B, H, W, 3), RGB -> float32 (B, dim), unit length."""
        # The cast comes before the transpose: TensorRT's parser refuses to transpose uint8.
        pixels = images.to(torch.float32).permute(0, 3, 1, 2)
        normalised = (pixels / 255.0 - self.mean) / self.std
        embeddings = self.encoder.features(normalised)
        # nn.functional.normalize would expand by the shape of the uint8 input; broadcasting needs no shape.
        unit: torch.Tensor = embeddings / embeddings.norm(dim=1, keepdim=True).clamp_min(_MIN_LENGTH)
        return unit


class _FirstConvolution(nn.Module):
    """The convolution that reads the pixels, in float32, with a half-precision answer for what follows."""

    def __init__(self, convolution: nn.Module) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.convolution(pixels)
        return result.half()


def _halve(backbone: nn.Module) -> None:
    """Bring a backbone to half precision, but for the convolutions that timm names as its first."""
    published: Any = backbone.default_cfg
    names = published["first_conv"]
    first = {name: backbone.get_submodule(name) for name in ([names] if isinstance(names, str) else names)}
    for name in first:  # taken out, because a weight that was half once has lost its bits
        backbone.set_submodule(name, nn.Identity())
    backbone.half()
    for name, convolution in first.items():
        backbone.set_submodule(name, _FirstConvolution(convolution))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress lines and warnings off the user's terminal; errors still travel as exceptions."""
    loggers = [logging.getLogger(name) for name in _EXPORTER_LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        silence = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _strip(model: onnx.ModelProto) -> None:
    """Remove stack traces and file paths of the exporting machine, so that equal weights give equal bytes."""
    model.doc_string = ""
    del model.metadata_props[:]
    for graph in (model.graph, *model.functions):
        graph.doc_string = ""
        del graph.metadata_props[:]
        for node in graph.node:
            node.doc_string = ""
            del node.metadata_props[:]
        for value in graph.value_info:
            del value.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]


def to_onnx(encoder: Encoder, preprocess: Preprocess, precision: Precision, opset: int = OPSET) -> bytes:
    """Export an encoder as one self-contained ONNX file.

    Args:
        encoder: in float32; it is not changed.
        preprocess: names the input size.
        precision: of the body, "fp32" or "fp16"; int8 is made from the fp16 file.
        opset: of the file, 18 up to what the installed onnx and ONNX Runtime know.

    Returns:
        The bytes of the file; equal weights and versions give equal bytes.

    Raises:
        ExportError: the precision is int8, the opset is out of range, the encoder gives no float32 (B, dim), torch
            cannot trace it or has no ONNX for one of its operators (named, with the module that calls it), or the graph
            breaks a rule of ONNX.
    """
    require_opset(opset)
    if precision == "int8":
        raise ExportError("An int8 model is made from the fp16 export and calibration images: export fp16 first.")
    _require_embeddings(encoder, preprocess)
    module = ExportedEncoder(encoder, preprocess, precision).eval()
    example = torch.zeros((_EXAMPLE_BATCH, preprocess.height_px, preprocess.width_px, 3), dtype=torch.uint8)
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                opset_version=opset,
                external_data=False,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_shapes=_dynamic_shapes(),
                verbose=False,
            )
    except RuntimeError as error:  # the base of what torch's exporter and its version converter raise
        raise _cannot_export(error, module, example, f"{encoder.name} in {precision}", opset) from error
    if program is None:
        raise ExportError(f"torch {torch.__version__} returned no graph for the encoder {encoder.name}.")
    model = program.model_proto
    _strip(model)
    content: bytes = model.SerializeToString(deterministic=True)
    try:
        onnx.checker.check_model(content, full_check=True)
    except (ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"The exported {precision} graph of {encoder.name} breaks a rule of ONNX: {error}") from error
    _require_graph(model, encoder, opset)
    return content


def _dynamic_shapes() -> dict[str, Any]:
    return {"images": {0: torch.export.Dim("batch", min=1)}}


def _require_embeddings(encoder: Encoder, preprocess: Preprocess) -> None:
    """Refuse an encoder whose answer is no embedding, before the export spends half a minute on it."""
    training = encoder.training
    encoder.eval()
    with torch.no_grad():
        embeddings = encoder.features(torch.zeros(_EXAMPLE_BATCH, 3, preprocess.height_px, preprocess.width_px))
    encoder.train(training)
    found = (
        f"{str(embeddings.dtype).removeprefix('torch.')} {tuple(embeddings.shape)}"
        if isinstance(embeddings, torch.Tensor)
        else type(embeddings).__name__
    )
    expected = f"float32 {(_EXAMPLE_BATCH, encoder.dim)}"
    if found != expected:
        raise ExportError(
            f"The encoder {encoder.name} gives {found} for {_EXAMPLE_BATCH} images; a bundle needs one embedding an "
            f"image, {expected}, that is (B, dim). Choose a network that pools its features (model.pooling, "
            "model.head), or flatten them in its head."
        )


def _require_graph(model: onnx.ModelProto, encoder: Encoder, opset: int) -> None:
    """Refuse a graph of another opset or signature than was asked for: an exporter may leave the opset as it was."""
    written = {item.domain: item.version for item in model.opset_import}.get("", 0)
    if written != opset:
        raise ExportError(
            f"torch {torch.__version__} wrote {encoder.name} in opset {written} instead of {opset}, which it cannot "
            f"convert to. Export with opset {OPSET}."
        )
    outputs = [(value.name, value.type.tensor_type) for value in model.graph.output]
    found = [(name, of.elem_type, ["B" if d.dim_param else d.dim_value for d in of.shape.dim]) for name, of in outputs]
    if found != [(OUTPUT_NAME, onnx.TensorProto.FLOAT, ["B", encoder.dim])]:
        raise ExportError(
            f"The exported graph of {encoder.name} gives {found} (name, ONNX element type, shape); a bundle needs one "
            f'output "{OUTPUT_NAME}", float32 (type 1), [B, {encoder.dim}]. Report it with the versions of torch and '
            "onnxscript: the export changed the model."
        )


def _cannot_export(error: RuntimeError, module: nn.Module, example: torch.Tensor, what: str, opset: int) -> ExportError:
    """What to raise where torch's exporter gave up: the operator and the module that calls it, or the deepest cause."""
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    start = f"torch {torch.__version__} cannot export the encoder {what} at opset {opset}: "
    for found in filter(None, (_NO_FUNCTION.search(str(cause)) for cause in causes)):
        name = found["name"]
        callers = _callers(module, example, name)
        where = f", which the module {callers[0]} calls" if callers else ""
        more = f" (and {len(callers) - 1} others)" if len(callers) > 1 else ""
        return ExportError(
            f"{start}it has no ONNX for the operator {name}{where}{more}. Replace that module by operators that ONNX "
            "has and train again, choose another encoder, or export with a newer torch and onnxscript."
        )
    lines = [_COLOUR.sub("", line).strip() for line in str(causes[-1]).splitlines()]
    reason = next((line for line in lines if line), type(causes[-1]).__name__).rstrip(".")
    return ExportError(
        f"{start}{type(causes[-1]).__name__}: {reason[:300]}. Train another encoder, export with opset {OPSET}, or "
        "export with another release of torch."
    )


def _callers(module: nn.Module, example: torch.Tensor, operator: str) -> list[str]:
    """Names of the encoder's modules that call an operator such as "aten._linalg_eigh", in the order of their calls."""
    try:
        with _quiet(), torch.no_grad():
            program = torch.export.export(module, (example,), dynamic_shapes=_dynamic_shapes(), strict=False)
            graph = program.run_decompositions().graph
    except RuntimeError:  # only the words of an error depend on it
        return []
    # The exporter takes more operators apart than this, so that theirs may be the inner half of ours.
    inner = operator.rpartition(".")[2].strip("_")
    names = []
    for node in graph.nodes:
        stack = node.meta.get("nn_module_stack")
        if stack and inner in str(node.target):
            path, kind = list(stack.values())[-1]
            kind_name = kind if isinstance(kind, str) else kind.__name__
            names.append(f"{path.removeprefix('encoder.')} ({kind_name.rpartition('.')[2]})")
    return list(dict.fromkeys(names))
