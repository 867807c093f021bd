"""TensorRT 10.0 to 11.x and TensorRT-RTX by the same few names. The only file that imports them.

One design serves all of them: the network is strongly typed, so precision stands in the ONNX file alone. What differs
is asked for here, once:

    name                                    10.3 (JetPack 6)   10.4 .. 10.x   11.x   TensorRT-RTX
    NetworkDefinitionCreationFlag
      .EXPLICIT_BATCH (without effect)            yes              yes         no        no
      .STRONGLY_TYPED                             yes              yes         yes       yes
    a timing cache changes the build              yes              yes         yes       no: never touched
    DLA                                      where the device has it, and up to 10.7 and from 11.4.1: no
    a GPU is needed to build                      yes              yes         yes       no
    a plan fits                             the GPU and the version that built it        any GPU from 8.0

FP16 and INT8 builder flags, calibrators and implicit batches are in none of them, so nothing here names them.
TensorRT-RTX calls its timing cache without effect and looks for a GPU as soon as one is made.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from dphr_infer.errors import EngineError, MissingPackageError

Flavour = Literal["TensorRT", "TensorRT-RTX"]

OLDEST = (10, 0)
_PRECISIONS = {"FLOAT": "fp32", "HALF": "fp16"}


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What differs between the flavours beyond names.

    Attributes:
        timing_cache: measured kernels can be carried from build to build.
        dla: the library can drive a DLA where the device has one.
        portable: plans are built without a look at the GPU and fit every GPU of compute capability 8.0 and later.
    """

    timing_cache: bool
    dla: bool
    portable: bool


_CAPABILITIES: dict[Flavour, Capabilities] = {
    "TensorRT": Capabilities(timing_cache=True, dla=True, portable=False),
    "TensorRT-RTX": Capabilities(timing_cache=False, dla=False, portable=True),
}


@dataclass(slots=True)
class Messages:
    """What the library said while it worked, each message on one line; nothing of it goes to the terminal."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, severity: str, text: str) -> None:
        """Keep an error or a warning, once; everything below is dropped."""
        kept = {"INTERNAL_ERROR": self.errors, "ERROR": self.errors, "WARNING": self.warnings}.get(severity)
        line = " ".join(text.split())
        if kept is not None and line not in kept:
            kept.append(line)


class PhaseListener(Protocol):
    """Hears the phases of a build. A step that answers False ends the build. It must not raise."""

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase of so many steps begins, inside its parent."""
        ...

    def step(self, phase: str, number: int) -> bool:
        """A step of a phase is done."""
        ...

    def finish(self, phase: str) -> None:
        """A phase is done."""
        ...


@dataclass(frozen=True, slots=True)
class Api:
    """An imported TensorRT.

    Attributes:
        flavour: which of the two libraries.
        version: in full, e.g. "10.3.0.30"; plans of another version are refused.
        module: the library itself, for the names that all versions share.
        capabilities: of this flavour.
    """

    flavour: Flavour
    version: str
    module: Any
    capabilities: Capabilities

    @property
    def name(self) -> str:
        """Flavour and version, for people."""
        return f"{self.flavour} {self.version}"

    def network_flags(self) -> int:
        """For `create_network`: strongly typed, with an explicit batch where that still has a name."""
        flags = self.module.NetworkDefinitionCreationFlag
        named = (getattr(flags, name, None) for name in ("STRONGLY_TYPED", "EXPLICIT_BATCH"))
        return sum(1 << int(flag) for flag in named if flag is not None)

    def logger(self, messages: Messages) -> Any:
        """A logger that keeps what it hears; it must outlive everything made with it."""
        base = self.module.ILogger

        class Logger(base):  # type: ignore[misc, valid-type]
            def __init__(self) -> None:
                base.__init__(self)

            def log(self, severity: Any, msg: str) -> None:
                messages.add(severity.name, msg)

        return Logger()

    def monitor(self, listener: PhaseListener) -> Any:
        """A progress monitor that hands on what it hears; it must outlive the build."""
        base = self.module.IProgressMonitor

        class Monitor(base):  # type: ignore[misc, valid-type]
            def __init__(self) -> None:
                base.__init__(self)

            def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
                listener.start(phase_name, parent_phase, num_steps)

            def step_complete(self, phase_name: str, step: int) -> bool:
                return listener.step(phase_name, step)

            def phase_finish(self, phase_name: str) -> None:
                listener.finish(phase_name)

        return Monitor()


def precision_name(data_type: Any) -> str:
    """A DataType as the project writes it: fp32, fp16, int8, uint8, int64, ..."""
    name = str(data_type.name)
    return _PRECISIONS.get(name, name.lower())


def open_tensorrt() -> Api:
    """The installed TensorRT, or else TensorRT-RTX.

    Raises:
        MissingPackageError: neither is installed.
        EngineError: the one found is too old, or cannot be loaded.
    """
    try:
        return describe("TensorRT", importlib.import_module("tensorrt"))
    except ModuleNotFoundError as error:
        if error.name != "tensorrt":
            raise _broken("TensorRT", error) from error
    except (ImportError, OSError) as error:
        raise _broken("TensorRT", error) from error
    try:
        return describe("TensorRT-RTX", importlib.import_module("tensorrt_rtx"))
    except ModuleNotFoundError as error:
        if error.name != "tensorrt_rtx":
            raise _broken("TensorRT-RTX", error) from error
        missing = MissingPackageError("tensorrt or tensorrt_rtx", "rtx", "Building an engine")
        missing.args = (
            f"{missing} brings TensorRT-RTX for x86 PCs. On a Jetson TensorRT comes with JetPack: make the virtual "
            "environment with --system-site-packages, so that it is found.",
        )
        raise missing from error
    except (ImportError, OSError) as error:
        raise _broken("TensorRT-RTX", error) from error


def describe(flavour: Flavour, module: Any) -> Api:
    """What an imported library is.

    Raises:
        EngineError: it is older than TensorRT 10.0, or has no version.
    """
    version = str(getattr(module, "__version__", ""))
    parts = version.split(".")
    if len(parts) < 2 or not (parts[0].isdigit() and parts[1].isdigit()):
        raise EngineError(f"The installed {flavour} names its version {version!r}: it is damaged. Install it again.")
    if flavour == "TensorRT" and (int(parts[0]), int(parts[1])) < OLDEST:
        raise EngineError(
            f"TensorRT {version} is too old, at least {OLDEST[0]}.{OLDEST[1]} is needed: before it networks take "
            "their precisions from builder flags, not from the model. JetPack 5 ends at TensorRT 8 and Python 3.8: "
            "install JetPack 6 (TensorRT 10.3, Python 3.10) or later."
        )
    return Api(flavour, version, module, _CAPABILITIES[flavour])


def _broken(flavour: Flavour, error: Exception) -> EngineError:
    reason = " ".join(str(error).split())[:300]
    return EngineError(
        f"{flavour} is installed but cannot be loaded ({reason}). Its libraries are missing or of another version: "
        "install it again."
    )
