"""ONNX Runtime on the CPU, or on an NVIDIA GPU. The only file that imports onnxruntime.

Asked for a provider that cannot be loaded, ONNX Runtime warns and takes the CPU. Here a session that opened anything
else than what was asked for is refused.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import BundleError, EngineError, MissingPackageError
from dphr_infer.measure.machine import usable_cores

INPUT_NAME = "images"
OUTPUT_NAME = "embeddings"

Device = Literal["cpu", "cuda"]

_PROVIDERS: dict[Device, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# A tensor kept outside the file has a StringStringEntryProto with the key "location": field 1, length 8, then field 2.
EXTERNAL_DATA_MARK = b"\x0a\x08location\x12"


def onnxruntime_version() -> tuple[str, tuple[str, ...]]:
    """Version of the installed ONNX Runtime, and the providers that it offers.

    Raises:
        MissingPackageError: it is not installed.
    """
    ort = _import_onnxruntime()
    return str(ort.__version__), tuple(ort.get_available_providers())


def offers(device: Device) -> bool:
    """Whether an ONNX Runtime is installed that has a provider for a device; the device itself may still be missing."""
    try:
        return _PROVIDERS[device] in onnxruntime_version()[1]
    except MissingPackageError:
        return False


def _import_onnxruntime(device: Device = "cpu") -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        if device == "cuda":
            raise MissingPackageError("onnxruntime-gpu", "gpu", "Running a model on a GPU by ONNX Runtime") from error
        raise MissingPackageError("onnxruntime", "cpu", "Running a model on the CPU") from error
    return onnxruntime


@dataclass(frozen=True, slots=True)
class Shape:
    """What a model takes and gives: uint8 (B, height_px, width_px, 3) -> float32 (B, dim)."""

    height_px: int
    width_px: int
    dim: int


class OnnxRuntimeEngine:
    """Runs one .onnx file on the CPU or on a GPU. See `Engine` for what it promises.

    The file must hold one input "images", uint8 (B, height, width, 3) with a free B, one output "embeddings",
    float32 (B, dim), and all of its weights. `dim`, `height_px` and `width_px` are 0 until `__enter__` has read them.

    Args:
        model_path: the .onnx file.
        name: engine and device, for reports.
        threads: threads within an operator; None is every core that this process may use.
        expected: the sizes that the bundle's manifest names; None takes the file's.
        device: "cpu", or "cuda": the first GPU. An operator that has no kernel there runs on the CPU, as ONNX Runtime
            chooses node by node; a GPU that cannot be used at all is an error.
    """

    def __init__(
        self,
        model_path: Path,
        name: str,
        threads: int | None = None,
        expected: Shape | None = None,
        device: Device = "cpu",
    ) -> None:
        most = 4 * (os.cpu_count() or 1)
        if threads is not None and not 1 <= threads <= most:
            raise EngineError(f"threads is {threads}; give None for all cores, or a count of 1 to {most}.")
        self.name = name
        self.dim = self.height_px = self.width_px = 0
        self._path, self._threads, self._expected, self._device = model_path, threads, expected, device
        self._session: Any = None

    def __enter__(self) -> OnnxRuntimeEngine:
        session = self._open_session()
        self.height_px, self.width_px = self._check_input(session.get_inputs())
        self.dim = self._check_output(session.get_outputs())
        found = Shape(self.height_px, self.width_px, self.dim)
        if self._expected not in (None, found):
            raise BundleError(
                f"{self._path} is {found}, its manifest says {self._expected}: the two do not belong together. "
                "Export the bundle again."
            )
        self._session = session
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session = None

    def _open_session(self) -> Any:
        ort = _import_onnxruntime(self._device)
        provider = _PROVIDERS[self._device]
        if provider not in ort.get_available_providers():
            raise EngineError(
                f"This ONNX Runtime ({ort.__version__}) has no {provider}, only "
                f"{', '.join(ort.get_available_providers())}. It and onnxruntime-gpu share one import name: pip "
                "uninstall onnxruntime, then pip install 'dphr[gpu]'."
            )
        try:
            model = self._path.read_bytes()
        except OSError as error:
            raise EngineError(f"{self._path} cannot be read: {error.strerror}.") from error
        if EXTERNAL_DATA_MARK in model:
            raise EngineError(
                f"{self._path} keeps weights in other files, which no digest covers. Export it with dphr-export."
            )
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads or _own_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Threads that spin on after a run hold the cores that the matcher's BLAS needs next: a match of 0.06 ms took 3.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        # An int8 model is for a GPU: on a CPU its pairs would be rewritten into products that restore the weights at
        # every run, which takes twice as long as the pairs themselves.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        try:
            session = ort.InferenceSession(model, options, providers=[provider])
        except Exception as error:  # ONNX Runtime raises a dozen classes without a common base.
            raise EngineError(f"{self._path} is not a model that ONNX Runtime can run: {_one_line(error)}") from error
        if session.get_providers()[:1] != [provider]:
            raise EngineError(
                f"ONNX Runtime was asked for {provider} and opened {', '.join(session.get_providers())}. "
                + (
                    "The GPU's driver, CUDA and cuDNN must fit this onnxruntime-gpu; dphr-infer doctor lists them."
                    if self._device == "cuda"
                    else "Reinstall it: pip install --force-reinstall onnxruntime"
                )
            )
        return session

    def _check_input(self, inputs: list[Any]) -> tuple[int, int]:
        found = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)
        shape = inputs[0].shape if len(inputs) == 1 else []
        sized = len(shape) == 4 and isinstance(shape[1], int) and isinstance(shape[2], int) and shape[3] == 3
        named = sized and (inputs[0].name, inputs[0].type) == (INPUT_NAME, "tensor(uint8)")
        if not named or isinstance(shape[0], int):
            raise EngineError(
                f'{self._path} takes {found}; this runtime feeds "{INPUT_NAME}" tensor(uint8) [B, height, width, 3] '
                "with a free B. Export the model with dphr-export."
            )
        return int(shape[1]), int(shape[2])

    def _check_output(self, outputs: list[Any]) -> int:
        found = ", ".join(f"{o.name} {o.type} {o.shape}" for o in outputs)
        shape = outputs[0].shape if len(outputs) == 1 else []
        sized = len(shape) == 2 and isinstance(shape[1], int)
        if not sized or (outputs[0].name, outputs[0].type) != (OUTPUT_NAME, "tensor(float)"):
            raise EngineError(
                f'{self._path} gives {found}; this runtime expects one output "{OUTPUT_NAME}" tensor(float) [B, dim]. '
                "Export the model with dphr-export."
            )
        return int(shape[1])

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed a batch; see `Engine.embed`.

        Raises:
            EngineError: not open, another shape or dtype, or an output that is not finite.
        """
        if self._session is None:
            raise EngineError(f"{self.name} is not open: use it inside a with statement.")
        expected = (self.height_px, self.width_px, 3)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != expected or len(images) == 0:
            raise EngineError(
                f"{self.name} was given {images.dtype} {images.shape}; it takes uint8 (B, {self.height_px}, "
                f"{self.width_px}, 3) with B >= 1. Bring images to model size with the bundle's Preprocess."
            )
        try:
            (output,) = self._session.run([OUTPUT_NAME], {INPUT_NAME: np.ascontiguousarray(images)})
        except Exception as error:  # see _open_session
            raise EngineError(f"{self.name} could not run a batch of {len(images)}: {_one_line(error)}") from error
        embeddings: NDArray[np.float32] = output
        if not np.isfinite(embeddings).all():
            bad = int((~np.isfinite(embeddings)).any(axis=1).sum())
            raise EngineError(
                f"{self._path} is damaged: {bad} of {len(images)} embeddings hold values that are not finite. "
                "Its weights are not usable; export the bundle again."
            )
        return embeddings


def _own_threads() -> int:
    """0, one thread per physical core, where this process may use all of them; else as many as it may use."""
    usable = usable_cores()
    return 0 if usable == os.cpu_count() else usable


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
