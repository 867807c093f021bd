"""Is everything here that a drone needs? What is missing, what it is for, and the command that fixes it."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

import numpy as np

from dphr_infer.cli.requests import Doctor
from dphr_infer.cuda.build import KERNELS, find_nvcc, load_fatbin, nvcc_version, source_of
from dphr_infer.cuda.driver import open_cuda
from dphr_infer.cuda.gpu import Gpu, find_gpu
from dphr_infer.engines.onnxruntime import onnxruntime_version
from dphr_infer.engines.tensorrt.api import open_tensorrt
from dphr_infer.engines.tensorrt.cache import default_folder
from dphr_infer.errors import ConfigError, DphrError, EngineError, MissingPackageError, printable
from dphr_infer.files.bundle import open_bundle
from dphr_infer.files.calibration import calibration_lines
from dphr_infer.locate.self_test import self_test
from dphr_infer.maps.raster import rasterio_version
from dphr_infer.measure.machine import Machine, read_machine
from dphr_infer.watch.video import opencv_version

# A plan is about as large as its model, and the builder writes it beside the old one.
MIN_FREE_BYTES = 1 << 30

_JETPACK = "sudo apt install nvidia-jetpack"


@dataclass(frozen=True, slots=True)
class Finding:
    """One part of the installation.

    Attributes:
        name: of the part.
        version: empty when it is missing or unusable.
        purpose: what it is for.
        fix: the command that installs it.
        needed: whether locating a photo on the CPU needs it.
        problem: why it cannot be used though it is there; empty where it can.
    """

    name: str
    version: str
    purpose: str
    fix: str
    needed: bool
    problem: str = ""

    def line(self) -> str:
        """For people."""
        state = f"unusable: {self.problem}" if self.problem else self.version or f"missing: {self.fix}"
        return printable(f"{self.name:<12} {state.rstrip('.')}  ({self.purpose})")


def _module_version(module: str, *distributions: str) -> str:
    """Version of a package that is not imported; empty when it is missing."""
    if util.find_spec(module) is None:
        return ""
    for distribution in distributions:
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return "present, version unknown"


def _onnxruntime() -> str:
    try:
        version, providers = onnxruntime_version()
    except MissingPackageError:
        return ""
    return f"{version} with {', '.join(name.removesuffix('ExecutionProvider') for name in providers)}"


def _rasterio() -> str:
    try:
        return rasterio_version()
    except MissingPackageError:
        return ""


def examine(root: Path = Path("/"), look_for_gpu: Callable[[], Gpu] = find_gpu) -> list[Finding]:
    """Look at every part that the runtime can use.

    Args:
        root: of the machine's file tree; Python's packages are those of this process.
        look_for_gpu: raises EngineError where there is none.
    """
    machine = read_machine(root)
    try:
        gpu, no_gpu = look_for_gpu(), ""
    except EngineError as error:
        gpu, no_gpu = None, str(error)
    return [
        Finding("python", platform.python_version(), "everything", "", True),
        Finding("numpy", np.__version__, "matching on the CPU", "pip install numpy", True),
        Finding("pillow", _module_version("PIL", "pillow"), "reading photos", "pip install pillow", True),
        Finding(
            "safetensors", _module_version("safetensors", "safetensors"), "galleries", "pip install safetensors", True
        ),
        Finding("onnxruntime", _onnxruntime(), "running models on the CPU", "pip install 'dphr[cpu]'", True),
        Finding("rasterio", _rasterio(), "maps: indexing, --map, pictures", "pip install 'dphr[map]'", False),
        _opencv_finding(machine),
        *_machine_findings(machine),
        _gpu_finding(machine, gpu, no_gpu),
        _cuda_finding(machine, gpu),
        _tensorrt_finding(machine),
        _pycuda_finding(machine, gpu),
        *([] if gpu is None else [_kernels_finding(gpu)]),
        _cache_finding(default_folder()),
    ]


def _opencv_finding(machine: Machine) -> Finding:
    purpose = "films, cameras, and --map"
    fix = _JETPACK if machine.is_jetson else "pip install 'dphr[video]'"
    try:
        return Finding("opencv", opencv_version(), purpose, fix, False)
    except MissingPackageError:
        return Finding("opencv", "", purpose, fix, False)
    except DphrError as error:
        return Finding("opencv", "", purpose, fix, False, str(error))


def _machine_findings(machine: Machine) -> list[Finding]:
    parts = [machine.name()]
    parts += [f"CUDA {machine.cuda}"] if machine.cuda else []
    parts += [f"TensorRT {machine.tensorrt}"] if machine.tensorrt else []
    found = [Finding("machine", ", ".join(parts), "where this runs", "", False, machine.too_old())]
    if machine.power_mode:
        found.append(Finding("power mode", machine.power_mode, "nvpmodel; sudo nvpmodel -q lists it", "", False))
    return found


def _gpu_finding(machine: Machine, gpu: Gpu | None, why_not: str) -> Finding:
    purpose = "--device cuda and cuda-onnxruntime"
    if gpu is None:
        return Finding("gpu", "", purpose, why_not, False)
    major, minor = gpu.capability
    driver = f"driver {machine.driver}, " if machine.driver else "driver "
    version = (
        f"{gpu.name}, compute capability {major}.{minor}, {gpu.sm_count} SMs; {driver}serves CUDA "
        f"{gpu.driver[0]}.{gpu.driver[1]}"
    )
    return Finding("gpu", version, purpose, "", False)


def _cuda_finding(machine: Machine, gpu: Gpu | None) -> Finding:
    purpose = "compiling PyCUDA and, for drivers before CUDA 13, the kernels"
    toolkit = f"install the CUDA toolkit {gpu.driver[0]}.x" if gpu else "install the CUDA toolkit"
    fix = _JETPACK if machine.is_jetson else toolkit
    nvcc = find_nvcc()
    if nvcc is None:
        return Finding("nvcc", "", purpose, fix, False)
    try:
        major, minor = nvcc_version(nvcc)
    except EngineError as error:
        return Finding("nvcc", "", purpose, fix, False, str(error))
    return Finding("nvcc", f"{major}.{minor} in {nvcc.parent}", purpose, fix, False)


def _tensorrt_finding(machine: Machine) -> Finding:
    purpose, fix = "--device cuda", "pip install 'dphr[rtx]'"
    if machine.is_jetson:
        fix = _JETPACK
        if machine.tensorrt_python:
            fix = (
                f"it lies in {machine.tensorrt_python}, which this Python does not see. Make the virtual environment "
                "with the system's Python: python3 -m venv --system-site-packages FOLDER"
            )
    try:
        return Finding("tensorrt", open_tensorrt().name, purpose, fix, False)
    except MissingPackageError:
        return Finding("tensorrt", "", purpose, fix, False)
    except EngineError as error:
        return Finding("tensorrt", "", purpose, fix, False, str(error))


def _pycuda_finding(machine: Machine, gpu: Gpu | None) -> Finding:
    purpose, nvcc = "--device cuda; matching on an NVIDIA GPU", find_nvcc()
    fix = "pip install 'dphr[cuda]'"
    if nvcc is None:
        first = _JETPACK if machine.is_jetson else "install the CUDA toolkit"
        fix = f"it is compiled by nvcc, which is missing: {first}, then {fix}"
    elif shutil.which("nvcc") is None:
        fix = f"PATH={nvcc.parent}:$PATH {fix}"
    version = _module_version("pycuda", "pycuda")
    if version and gpu is not None:
        try:
            with open_cuda():
                pass
        except DphrError as error:
            return Finding("pycuda", "", purpose, fix, False, str(error))
    return Finding("pycuda", version, purpose, fix, False)


def _kernels_finding(gpu: Gpu) -> Finding:
    """Loads the machine code, which compiles it where the shipped one does not fit this GPU and driver."""
    purpose, states = "matching and preparing frames on the GPU", []
    try:
        for stem in KERNELS:
            shipped = source_of(stem).with_suffix(".fatbin").read_bytes()
            as_shipped = load_fatbin(gpu.capability, gpu.driver, stem=stem) == shipped
            states.append(f"{stem} {'as shipped' if as_shipped else 'compiled here'}")
    except DphrError as error:
        return Finding("kernels", "", purpose, "", False, str(error))
    return Finding("kernels", ", ".join(states), purpose, "", False)


def _cache_finding(folder: Path) -> Finding:
    purpose, fix = "TensorRT's plans", "set XDG_CACHE_HOME to another folder"
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        return Finding("engine cache", "", purpose, fix, False, f"{there} may not be written to: {fix}")
    free_bytes = shutil.disk_usage(there).free
    if free_bytes < MIN_FREE_BYTES:
        problem = (
            f"{folder} has {free_bytes / 1e9:.2f} GB free, {MIN_FREE_BYTES / 1e9:.2f} GB are wanted: free some, or "
            f"{fix}"
        )
        return Finding("engine cache", "", purpose, fix, False, problem)
    return Finding("engine cache", f"{folder}, {free_bytes / 1e9:.0f} GB free", purpose, fix, False)


def run(request: Doctor) -> None:
    """Print what is installed and what is missing; with a bundle, run its self-test through every engine present.

    Raises:
        ConfigError: a signer without a bundle.
        EngineError: a part is missing that locating a photo needs, or an engine cannot run the model.
        BundleError: the bundle is damaged, not signed by the signer, or an engine comes less near than its gate.
    """
    bundle, signer = request.bundle, request.signer
    if bundle is None and signer is not None:
        raise ConfigError("--require-signature asks for a signed bundle, and no bundle was named: name one.")
    findings = examine()
    for finding in findings:
        print(finding.line())
    missing = [finding for finding in findings if finding.needed and not finding.version]
    if missing:
        names = ", ".join(finding.name for finding in missing)
        raise EngineError(f"{names} missing, without which no photo can be located: {missing[0].fix}")
    if bundle is not None:
        opened = open_bundle(bundle, signer)
        for line in calibration_lines(opened.manifest.calibration):
            print(printable(line))
        for result in self_test(opened):
            print(result.line(), flush=True)
