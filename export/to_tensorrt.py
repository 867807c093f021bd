"""A bundle's models as TensorRT engines: does each build, how long does it take, how large is it?

Nothing goes into the bundle: an engine is executable and fits one GPU and one version, so the device builds its own.
What is built here lies in a cache of this machine. It shows before the flight that every model parses and builds, and
what that takes. With TensorRT-RTX no GPU is needed, and a device that runs the same TensorRT-RTX can use the plan.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from dphr_infer.bundle import Bundle, Precision, model_name
from dphr_infer.cuda import DeviceProperties, open_cuda
from dphr_infer.engines.engine_cache import EngineCache
from dphr_infer.engines.tensorrt_api import Api, open_tensorrt
from dphr_infer.engines.tensorrt_build import BuildOptions, read_layers
from dphr_infer.engines.tensorrt_cached import cached_plan

NO_GPU = "no GPU"


@dataclass(frozen=True, slots=True)
class EngineReport:
    """One model as an engine.

    Attributes:
        precision: of the model.
        flavour, version: of the library that built it.
        gpu: that it was built for; "no GPU" for a portable plan.
        plan_bytes: size of the engine.
        layers: number of layers by precision, as the network was parsed, most first.
        seconds: wall time of parsing and building; None where the plan lay in the cache.
        peak_bytes: most host memory of the build beyond what the process held; None as seconds, or where unknown.
        warnings: the builder's, each on one line; none where the plan lay in the cache.
    """

    precision: Precision
    flavour: str
    version: str
    gpu: str
    plan_bytes: int
    layers: dict[str, int]
    seconds: float | None
    peak_bytes: int | None
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """For JSON: the fields by their names."""
        return dataclasses.asdict(self)


def build_engines(
    bundle: Bundle, precisions: Collection[Precision], options: BuildOptions, cache: EngineCache
) -> tuple[EngineReport, ...]:
    """Build an engine of each of a bundle's models, or find it in the cache.

    Args:
        bundle: an opened bundle.
        precisions: of the models to build, in this order.
        options: batches, memory and device.
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
    return tuple(_build_engine(api, path.read_bytes(), p, options, gpu, cache) for p, path in paths.items())


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
        plan_bytes=len(plan.content),
        layers=dict(Counter(layer.precision for layer in layers).most_common()),
        seconds=plan.built.seconds if plan.built is not None else None,
        peak_bytes=plan.built.peak_bytes if plan.built is not None else None,
        warnings=plan.built.warnings if plan.built is not None else (),
    )


def to_markdown(reports: Collection[EngineReport]) -> str:
    """A table, one engine a row."""
    lines = [
        "| precision | library | for | build s | plan MB | peak MB | layers by precision |",
        "|---|---|---|---:|---:|---:|---|",
    ]
    for report in reports:
        seconds = "in the cache" if report.seconds is None else f"{report.seconds:.1f}"
        peak = "-" if report.peak_bytes is None else f"{report.peak_bytes / 1e6:.0f}"
        layers = ", ".join(f"{count} {precision}" for precision, count in report.layers.items())
        lines.append(
            f"| {report.precision} | {report.flavour} {report.version} | {report.gpu} | {seconds} "
            f"| {report.plan_bytes / 1e6:.1f} | {peak} | {layers} |"
        )
    return "\n".join(lines) + "\n"
