"""The one place where a device name becomes an engine."""

from __future__ import annotations

from importlib.util import find_spec

from dphr_infer.engines.base import Engine
from dphr_infer.engines.onnxruntime import OnnxRuntimeEngine, Shape, offers
from dphr_infer.engines.tensorrt.engine import TensorRtEngine
from dphr_infer.errors import EngineError
from dphr_infer.files.bundle import PRECISIONS, Bundle, Precision

DEVICES = ("cpu", "cuda", "cuda-onnxruntime")


def present_devices() -> tuple[str, ...]:
    """Those of DEVICES whose engine is installed; the GPU itself may still be missing."""
    tensorrt = any(find_spec(name) is not None for name in ("tensorrt", "tensorrt_rtx"))
    present = {
        "cpu": True,
        "cuda": tensorrt and find_spec("pycuda") is not None,
        "cuda-onnxruntime": offers("cuda"),
    }
    return tuple(device for device in DEVICES if present[device])


def matcher_device(device: str) -> str:
    """Where to match what an engine of DEVICES embeds: on the same processor."""
    return "cpu" if device == "cpu" else "cuda"


def open_engine(
    bundle: Bundle, precision: Precision = "fp32", device: str = "cpu", threads: int | None = None
) -> Engine:
    """The engine that runs a bundle's model on a device; enter it before use.

    Args:
        bundle: an opened bundle.
        precision: which of the bundle's models; there is no fallback to another.
        device: "cpu" is ONNX Runtime there; "cuda" TensorRT on the first GPU, whose plan is built at the first use;
            "cuda-onnxruntime" ONNX Runtime on the first GPU.
        threads: CPU threads; None is every core that this process may use.

    Raises:
        EngineError: the precision or the device is unknown, or not available here.
        BundleError: the bundle has no model in this precision; on entering, the model is not of the manifest's sizes.
    """
    if precision not in PRECISIONS:
        raise EngineError(f"Precision {precision!r} is unknown; choose one of {', '.join(PRECISIONS)}.")
    if device not in DEVICES:
        raise EngineError(
            f"Device {device!r} is not available: this runtime has an engine for {', '.join(DEVICES)} and does not "
            "fall back silently. Choose one of these."
        )
    size = bundle.manifest.preprocess
    expected = Shape(size.height_px, size.width_px, bundle.manifest.dim)
    path = bundle.model_path(precision)
    if device == "cuda":
        return TensorRtEngine(path, f"TensorRT {precision}", expected)
    if device == "cuda-onnxruntime":
        return OnnxRuntimeEngine(path, f"onnxruntime CUDA {precision}", threads, expected, "cuda")
    return OnnxRuntimeEngine(path, f"onnxruntime CPU {precision}", threads, expected)
