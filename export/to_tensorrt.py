"""A bundle's models as TensorRT engines: does each build, how long does it take, how large is it?

Nothing goes into the bundle: an engine is executable and fits one GPU and one version, so the device builds its own.
What is built here lies in a cache of this machine. It shows before the flight that every model parses and builds, and
what that takes. With TensorRT-RTX no GPU is needed, and a device that runs the same TensorRT-RTX can use the plan.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from dphr_infer.cuda.driver import DeviceProperties, open_cuda
from dphr_infer.engines.tensorrt.api import Api, open_tensorrt
from dphr_infer.engines.tensorrt.build import BuildOptions, LayerInfo, read_layers
from dphr_infer.engines.tensorrt.cache import EngineCache
from dphr_infer.engines.tensorrt.cached import cached_plan
from dphr_infer.files.bundle import PRECISIONS, Bundle, Precision, model_name

NO_GPU = "no GPU"
_CONVERSIONS = ("CAST", "QUANTIZE", "DEQUANTIZE")


@dataclass(frozen=True, slots=True)
class EngineReport:
    """One model as an engine; every field is plain JSON.

    Attributes:
        precision: of the model.
        flavour, version: of the library that built it.
        gpu: that it was built for; "no GPU" for a portable plan.
        max_batch: the plan takes batches of 1 up to it, but on a DLA core of it alone.
        plan_bytes: size of the engine.
        layers: number of layers that compute in fp32, fp16 and int8, most first, as the network was parsed; casts,
            quantise/dequantise pairs and the integers of shapes are not counted.
        seconds: wall time of parsing and building; None where the plan lay in the cache.
        peak_bytes: most host memory of the build beyond what the process held; None as seconds, or where unknown.
        warnings: the builder's, each on one line; none where the plan lay in the cache.
    """

    precision: Precision
    flavour: str
    version: str
    gpu: str
    max_batch: int
    plan_bytes: int
    layers: dict[str, int]
    seconds: float | None
    peak_bytes: int | None
    warnings: tuple[str, ...]


def build_engines(
    bundle: Bundle, precisions: Collection[Precision], options: Sequence[BuildOptions], cache: EngineCache
) -> tuple[EngineReport, ...]:
    """Build engines of each of a bundle's models, or find them in the cache.

    Args:
        bundle: an opened bundle.
        precisions: of the models to build, in this order.
        options: batches, memory and device; an engine for each.
        cache: where the plans go.

    Raises:
        MissingPackageError: no TensorRT is installed, or for a TensorRT that builds on the GPU no PyCUDA.
        BundleError: the bundle has no model in a precision.
        EngineError: a model does not build, or there is no GPU for a TensorRT that needs one.
        StorageError: the cache cannot be written to.
    """
    api = open_tensorrt()
    paths = {precision: bundle.model_path(precision) for precision in precisions}
    gpu = _find_gpu(api)
    wanted = [(path.read_bytes(), precision, one) for precision, path in paths.items() for one in options]
    return tuple(_build_engine(api, model, precision, one, gpu, cache) for model, precision, one in wanted)


def count_layers(layers: Iterable[LayerInfo]) -> dict[str, int]:
    """Layers by precision, see `EngineReport.layers`."""
    counts = Counter(layer.precision for layer in layers if layer.kind not in _CONVERSIONS)
    return {precision: count for precision, count in counts.most_common() if precision in PRECISIONS}


def _find_gpu(api: Api) -> DeviceProperties | None:
    """The GPU that plans are built for; None where they are portable."""
    if api.capabilities.portable:
        return None
    with open_cuda() as cuda:
        return cuda.properties


def _build_engine(
    api: Api,
    model: bytes,
    precision: Precision,
    options: BuildOptions,
    gpu: DeviceProperties | None,
    cache: EngineCache,
) -> EngineReport:
    name = model_name(precision)
    plan = cached_plan(api, model, options, name, gpu, cache)
    layers = plan.built.layers if plan.built is not None else read_layers(model, name, api)
    return EngineReport(
        precision=precision,
        flavour=api.flavour,
        version=api.version,
        gpu=plan.key.gpu if gpu is not None else NO_GPU,
        max_batch=options.max_batch,
        plan_bytes=len(plan.content),
        layers=count_layers(layers),
        seconds=plan.built.seconds if plan.built is not None else None,
        peak_bytes=plan.built.peak_bytes if plan.built is not None else None,
        warnings=plan.built.warnings if plan.built is not None else (),
    )
