"""How large the inputs of layers become on real images, and where int8 should cut them.

A half has 31744 finite magnitudes, so the values of a tensor over all images are one exact table of counts, indexed by
the bits without the sign: one pass over the images, memory for one batch, no bins to choose, and infinities and NaN
show themselves. ONNX Runtime's own calibrators keep the values of all images at once, and where one is not finite they
fail without a layer's name.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from dphr_infer.engines.onnxruntime import INPUT_NAME
from dphr_infer.errors import ExportError
from dphr_infer.measure.progress import Progress
from export.request import MIN_CALIBRATION_IMAGES

INT8_MAX = 127
_BATCH = 4
_MAGNITUDES = 1 << 15
_INFINITY_BITS = 0x7C00
# Clips from the largest magnitude down to 1/256 of it, eight to an octave; four lost 0.004 of
# smallest cosine on a trained EfficientNet-Lite, sixteen gained nothing.
_CLIP_RATIOS = 2.0 ** -(np.arange(65) / 8)


def check_images(model: onnx.ModelProto, images: NDArray[np.uint8]) -> None:
    """Refuse images that the model does not take, or too few.

    Raises:
        ExportError: with what the model takes and how many images are needed.
    """
    dims = model.graph.input[0].type.tensor_type.shape.dim
    expected = tuple(dim.dim_value for dim in dims)[1:]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != expected:
        raise ExportError(
            f"The calibration images are {images.dtype} {images.shape}; the model takes uint8 (n, "
            f"{', '.join(str(size) for size in expected)}). Bring them to model size with the bundle's Preprocess."
        )
    if len(images) < MIN_CALIBRATION_IMAGES:
        raise ExportError(
            f"There are {len(images)} calibration images; at least {MIN_CALIBRATION_IMAGES} are needed, and 100 are "
            "better. Take them from flights or maps like those that the model will see."
        )


def count_magnitudes(
    model: onnx.ModelProto, tensors: Sequence[str], images: NDArray[np.uint8]
) -> dict[str, NDArray[np.int64]]:
    """How often each magnitude of a half occurs in each tensor.

    Args:
        model: runs in ONNX Runtime on the CPU; it is not changed.
        tensors: names of float16 tensors inside the model.
        images: uint8 (n, H, W, 3).

    Returns:
        {tensor: int64 (32768,)}, counts by the bits of the absolute value.

    Raises:
        ExportError: a value is not finite; names the first tensor.
    """
    if not tensors:
        return {}
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in tensors)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    counts = {name: np.zeros(_MAGNITUDES, np.int64) for name in tensors}
    with Progress("int8 calibration", len(images), "images") as progress:
        for start in range(0, len(images), _BATCH):
            batch = np.ascontiguousarray(images[start : start + _BATCH])
            for name, values in zip(tensors, session.run(list(tensors), {INPUT_NAME: batch}), strict=True):
                bits = np.ascontiguousarray(values).view(np.uint16).ravel() & (_MAGNITUDES - 1)
                counts[name] += np.bincount(bits, minlength=_MAGNITUDES)
                if counts[name][_INFINITY_BITS:].any():
                    raise ExportError(
                        f"The tensor {name} holds values that are not finite on the calibration images "
                        f"{start} to {start + len(batch) - 1}: half precision cannot hold this model. "
                        "Export fp32 alone, or train with weight decay."
                    )
            progress.advance(len(batch))
    return counts


def to_half_scale(scale: NDArray[np.float64]) -> NDArray[np.float16]:
    """Round scales up to halves, so that no value is cut that was not cut before; 0 becomes 1, as nothing needs it."""
    half = scale.astype(np.float16)
    up = np.where(half.astype(np.float64) < scale, np.nextafter(half, np.float16(np.inf)), half)
    return np.where(scale == 0, np.float16(1), up).astype(np.float16)


def choose_scale(counts: NDArray[np.int64]) -> np.float16:
    """The scale of a tensor: value = scale * int8.

    The clip of 65 between the largest magnitude and 1/256 of it with the least squared error over all values seen,
    rounding and cutting together; equal errors go to the larger clip. Against cutting at the largest magnitude it
    raised the smallest cosine of a trained MobileNetV3 from 0.986 to 0.994; a trained EfficientNet-Lite, whose ReLU6
    leaves no outliers, reaches 0.990 either way.

    Args:
        counts: int64 (32768,) of `count_magnitudes`.
    """
    seen = np.flatnonzero(counts)
    values = np.arange(_MAGNITUDES, dtype=np.uint16).view(np.float16)[seen].astype(np.float64)
    weights = counts[seen].astype(np.float64)
    scales = to_half_scale(values[-1] * _CLIP_RATIOS / INT8_MAX)
    errors = []
    for scale in scales.astype(np.float64):
        restored = np.minimum(np.rint(values / scale), INT8_MAX) * scale
        errors.append(float(weights @ (values - restored) ** 2))
    best: np.float16 = scales[int(np.argmin(errors))]
    return best
