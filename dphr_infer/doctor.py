"""Is everything here that a drone needs? What is missing, what it is for, and the command that mends it."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata, util

import numpy as np

from dphr_infer.bundle import PRECISIONS, Bundle, Precision, model_name
from dphr_infer.embedder import Embedder
from dphr_infer.engines.onnxrt import onnxruntime_version
from dphr_infer.engines.open import open_engine, present_devices
from dphr_infer.errors import BundleError, MissingPackageError
from dphr_infer.mapping import rasterio_version

# Below the export's gate for each, since another release of an engine may round in another way.
MIN_COSINE: dict[Precision, float] = {"fp32": 0.999, "fp16": 0.999, "int8": 0.95}


@dataclass(frozen=True, slots=True)
class Finding:
    """One part of the installation.

    Attributes:
        name: of the part.
        version: empty when it is missing.
        purpose: what it is for.
        mend: the command that installs it.
        needed: whether locating a photo on the CPU needs it.
    """

    name: str
    version: str
    purpose: str
    mend: str
    needed: bool


@dataclass(frozen=True, slots=True)
class SelfTest:
    """How near an engine comes to torch's embeddings of the bundle's own pictures."""

    engine: str
    n_images: int
    min_cosine: float


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


def examine() -> list[Finding]:
    """Look at every part that the runtime can use."""
    tensorrt = _module_version("tensorrt", "tensorrt") or _module_version("tensorrt_rtx", "tensorrt-rtx-cu13")
    return [
        Finding("python", platform.python_version(), "everything", "", True),
        Finding("numpy", np.__version__, "matching on the CPU", "pip install numpy", True),
        Finding("pillow", _module_version("PIL", "pillow"), "reading photos", "pip install pillow", True),
        Finding(
            "safetensors", _module_version("safetensors", "safetensors"), "galleries", "pip install safetensors", True
        ),
        Finding("onnxruntime", _onnxruntime(), "running models on the CPU", "pip install 'dphr[cpu]'", True),
        Finding("rasterio", _rasterio(), "indexing maps, drawing pictures", "pip install 'dphr[map]'", False),
        Finding("tensorrt", tensorrt, "building engines for an NVIDIA GPU", "comes with JetPack", False),
        Finding(
            "pycuda",
            _module_version("pycuda", "pycuda"),
            "matching on an NVIDIA GPU",
            "pip install 'dphr[cuda]'",
            False,
        ),
    ]


def self_test(bundle: Bundle) -> Iterator[SelfTest]:
    """Run the bundle's own pictures through every engine and precision that are present.

    Raises:
        BundleError: the bundle's self-test is unreadable, or an engine comes less near than MIN_COSINE.
        EngineError: an engine cannot run the model.
    """
    images, expected = bundle.read_selftest()
    precisions: list[Precision] = [p for p in PRECISIONS if model_name(p) in bundle.manifest.files]
    if not precisions:
        raise BundleError(f"{bundle.folder} holds no model, so there is nothing to test. Export the bundle again.")
    for device in present_devices():
        for precision in precisions:
            with open_engine(bundle, precision, device) as engine:
                found = Embedder(bundle.manifest.preprocess, engine).embed_prepared(images)
            if found.shape != expected.shape:
                raise BundleError(
                    f"{engine.name} gave embeddings {found.shape}, the bundle's self-test holds {expected.shape}. "
                    "Export the bundle again."
                )
            worst = float(np.sum(found * expected, axis=1).min())
            if not worst >= MIN_COSINE[precision]:
                raise BundleError(
                    f"{engine.name} reproduces the bundle's self-test only to a cosine of {worst:.5f}; at least "
                    f"{MIN_COSINE[precision]} is needed. Do not fly with it: reinstall the engine, or export the "
                    "bundle again."
                )
            yield SelfTest(engine.name, len(images), worst)
