"""Encoder -> the bytes of an ONNX file. Knows nothing of checkpoints, data sets or bundles.

The graph takes raw pixels, so that no caller can normalise them differently:

    uint8 (B, height_px, width_px, 3) RGB "images" -> float32 (B, dim) "embeddings", unit length

The batch is free. In half precision only the backbone is half, without its first convolution. Pixels are normalised,
pooled, projected and brought to unit length in float32: a generalised mean or a sum of squares soon leaves the range of
a half, and on real photos a projection in half precision doubled the error of the whole model. The first convolution
takes differences of large terms that cancel where a picture is flat, so rounding its few weights (0.03 % of
tf_efficientnet_lite0) cost as much cosine as rounding all the others together.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import onnx
import torch
from onnx.checker import ValidationError
from torch import nn

from dphr_infer.bundle import Precision
from dphr_infer.engines.onnxrt import INPUT_NAME, OUTPUT_NAME
from dphr_infer.errors import ExportError
from dphr_infer.preprocess import Preprocess
from dphr_train.encoder import Encoder
from export.fold import fold_batch_norms

OPSET = 18
# Two, because torch.export takes an example batch of one for a constant.
_EXAMPLE_BATCH = 2
_MIN_LENGTH = 1e-12
_EXPORTER_LOGGERS = ("torch.onnx", "torch.export", "torch._export", "onnxscript", "onnx_ir")


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
        return embeddings / embeddings.norm(dim=1, keepdim=True).clamp_min(_MIN_LENGTH)


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
    names = backbone.default_cfg["first_conv"]
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
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
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


def to_onnx(encoder: Encoder, preprocess: Preprocess, precision: Precision) -> bytes:
    """Export an encoder as one self-contained ONNX file.

    Args:
        encoder: in float32; it is not changed.
        preprocess: names the input size.
        precision: of the body.

    Returns:
        The bytes of the file; equal weights and versions give equal bytes.

    Raises:
        ExportError: torch cannot trace this encoder, or the graph breaks a rule of ONNX.
    """
    module = ExportedEncoder(encoder, preprocess, precision).eval()
    shape = (_EXAMPLE_BATCH, preprocess.height_px, preprocess.width_px, 3)
    example = torch.zeros(shape, dtype=torch.uint8)
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}},
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        cause = str(error).strip().splitlines()[0]
        raise ExportError(
            f"torch {torch.__version__} cannot export the encoder {encoder.name} in {precision} ({cause}). "
            "Train another encoder, or export with another release of torch."
        ) from error
    if program is None:
        raise ExportError(f"torch {torch.__version__} returned no graph for the encoder {encoder.name}.")
    model = program.model_proto
    _strip(model)
    content: bytes = model.SerializeToString(deterministic=True)
    try:
        onnx.checker.check_model(content, full_check=True)
    except (ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"The exported {precision} graph of {encoder.name} breaks a rule of ONNX: {error}") from error
    return content
