"""The one table of what a device opens: its engine, its matcher, and the pipeline that does both in one launch.

To add a device, write its engine in engines/, here a class like those below, and give that a row in `DEVICES`: the
library, the command line, the self-test and the benchmark all open what stands there.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from importlib.util import find_spec
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dphr_infer.cuda.memory import room_on_device
from dphr_infer.cuda.topk.matcher import CudaExactMatcher
from dphr_infer.engines.base import Engine
from dphr_infer.engines.onnxruntime import OnnxRuntimeEngine, Shape, offers
from dphr_infer.engines.tensorrt.engine import TensorRtEngine
from dphr_infer.errors import ConfigError
from dphr_infer.files.bundle import Bundle
from dphr_infer.locate.gpu_pipeline import VECTOR_VALUES, GpuPipeline
from dphr_infer.locate.settings import DeviceSettings
from dphr_infer.matchers.base import Matcher, check_gallery
from dphr_infer.matchers.exact import NumpyExactMatcher
from dphr_infer.matchers.int8 import NumpyInt8Matcher
from dphr_infer.matchers.scan import choose_scan
from dphr_infer.measure.memory import available_bytes

Rows = NDArray[np.float16] | NDArray[np.float32]

_log = logging.getLogger(__name__)


class Device(ABC):
    """One row of the table. What it returns is not yet entered."""

    name: str
    matches_on_gpu = False

    @abstractmethod
    def is_present(self) -> bool:
        """Whether the packages are installed; the hardware may still be missing, which entering an engine tells."""

    @abstractmethod
    def open_engine(self, bundle: Bundle, on: DeviceSettings) -> Engine:
        """The engine of a bundle's model in `on.precision`."""

    @abstractmethod
    def open_matcher(self, embeddings: Rows, on: DeviceSettings, max_k: int) -> Matcher:
        """The exact matcher over gallery rows."""

    def open_pipeline(self, bundle: Bundle, embeddings: Rows, on: DeviceSettings, max_k: int) -> GpuPipeline | None:
        """What goes from a frame to its matches in one piece; None where engine and matcher work apart."""
        return None


class Cpu(Device):
    """ONNX Runtime and NumPy."""

    name = "cpu"

    def is_present(self) -> bool:
        """Always: what is missing is named when the engine is entered."""
        return True

    def open_engine(self, bundle: Bundle, on: DeviceSettings) -> Engine:
        """ONNX Runtime."""
        return _onnxruntime(bundle, on, "cpu")

    def open_matcher(self, embeddings: Rows, on: DeviceSettings, max_k: int) -> Matcher:
        """By float32 rows, or by int8 codes."""
        check_gallery(embeddings)
        scan = on.scan
        if scan == "auto":
            choice = choose_scan(len(embeddings), embeddings.shape[1], embeddings.dtype, available_bytes())
            _log.info("%s", choice.why)
            scan = choice.scan
        if scan == "int8":
            return NumpyInt8Matcher(embeddings, threads=on.threads)
        return NumpyExactMatcher(embeddings, threads=on.threads)


class _FirstGpu(Device):
    """Matches on the first GPU by our own kernels, over float16 rows or int8 codes."""

    matches_on_gpu = True

    def open_matcher(self, embeddings: Rows, on: DeviceSettings, max_k: int) -> Matcher:
        return CudaExactMatcher(embeddings, max_k=max_k, scan="int8" if on.scan == "int8" else "fp16")


class Cuda(_FirstGpu):
    """TensorRT and our own kernels on the first GPU; the plan is built at the first use."""

    name = "cuda"

    def is_present(self) -> bool:
        """TensorRT or TensorRT-RTX, and PyCUDA."""
        return any(map(find_spec, ("tensorrt", "tensorrt_rtx"))) and find_spec("pycuda") is not None

    def open_engine(self, bundle: Bundle, on: DeviceSettings) -> Engine:
        """TensorRT."""
        return TensorRtEngine(bundle.model_path(on.precision), f"TensorRT {on.precision}", _shape(bundle))

    def open_pipeline(self, bundle: Bundle, embeddings: Rows, on: DeviceSettings, max_k: int) -> GpuPipeline | None:
        """One launch per frame; None for int8 codes, embeddings whose length is no multiple of 8, a gallery too large.

        A gallery that does not fit in the GPU's memory is streamed by the matcher, which says so.
        """
        dim = bundle.manifest.dim
        if on.scan == "int8" or dim % VECTOR_VALUES:
            return None
        model_bytes = bundle.model_path(on.precision).stat().st_size
        if not room_on_device(len(embeddings), dim, "fp16", model_bytes).fits:
            return None
        return GpuPipeline(bundle, embeddings, on.precision, max_k)


class CudaOnnxRuntime(_FirstGpu):
    """ONNX Runtime and our own matcher on the first GPU."""

    name = "cuda-onnxruntime"

    def is_present(self) -> bool:
        """ONNX Runtime with its CUDA provider."""
        return offers("cuda")

    def open_engine(self, bundle: Bundle, on: DeviceSettings) -> Engine:
        """ONNX Runtime."""
        return _onnxruntime(bundle, on, "cuda")


DEVICES: dict[str, Device] = {device.name: device for device in (Cpu(), Cuda(), CudaOnnxRuntime())}


def device_of(on: DeviceSettings) -> Device:
    """The row of a device.

    Raises:
        ConfigError: there is none of that name.
    """
    if on.device not in DEVICES:
        raise ConfigError(
            f"`device` is {on.device!r}; expected one of {', '.join(DEVICES)}. There is no fallback to another."
        )
    return DEVICES[on.device]


def present_devices() -> tuple[str, ...]:
    """The devices whose packages are installed."""
    return tuple(name for name, device in DEVICES.items() if device.is_present())


def open_engine(bundle: Bundle, on: DeviceSettings | None = None) -> Engine:
    """The engine that runs a bundle's model; enter it before use.

    Raises:
        ConfigError: the device is unknown.
        BundleError: the bundle has no model in this precision; on entering, the model is not of the manifest's sizes.
        EngineError, MissingPackageError: on entering, the device is not available here.
    """
    on = on or DeviceSettings()
    return device_of(on).open_engine(bundle, on)


def open_matcher(embeddings: Rows, on: DeviceSettings | None = None, max_k: int = 32) -> Matcher:
    """The exact matcher of a device on gallery rows; enter it before use.

    Args:
        embeddings: float16 or float32 (N, D), rows of unit length, e.g. `Gallery.embeddings`.
        on: its device, threads and scan.
        max_k: the largest k of a GPU's matcher, 1..1024; a CPU's takes any.

    Raises:
        ConfigError: the device is unknown.
        EngineError: max_k is out of range; on entering, the GPU is not available. It never falls back to the CPU.
        GalleryError: another dtype or shape.
    """
    on = on or DeviceSettings()
    return device_of(on).open_matcher(embeddings, on, max_k)


def _onnxruntime(bundle: Bundle, on: DeviceSettings, where: Literal["cpu", "cuda"]) -> Engine:
    name = f"onnxruntime {where.upper()} {on.precision}"
    return OnnxRuntimeEngine(bundle.model_path(on.precision), name, on.threads, _shape(bundle), where)


def _shape(bundle: Bundle) -> Shape:
    size = bundle.manifest.preprocess
    return Shape(size.height_px, size.width_px, bundle.manifest.dim)
