"""A TensorRT plan for a model: the cache's, or built and put there. What both the exporter and the device call."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from dphr_infer.cuda.driver import DeviceProperties
from dphr_infer.engines.tensorrt.api import Api
from dphr_infer.engines.tensorrt.build import BuildOptions, Plan, build_plan
from dphr_infer.engines.tensorrt.cache import EngineCache, EngineKey
from dphr_infer.errors import EngineError

# What a key says of the GPU where a plan is built without a look at it.
PORTABLE_GPU = "any GPU"
PORTABLE_CAPABILITY = "8.0 and later"


@dataclass(frozen=True, slots=True)
class CachedPlan:
    """A plan that is in the cache now.

    Attributes:
        key: it lies under this one.
        content: the serialised engine.
        built: what the build took; None where the plan was there already.
    """

    key: EngineKey
    content: bytes
    built: Plan | None


def engine_key(api: Api, model: bytes, options: BuildOptions, gpu: DeviceProperties | None) -> EngineKey:
    """The key of the plan that these would build.

    A portable plan names no GPU, because none was looked at. For any other the GPU's name is not enough: every Jetson
    Orin is called "Orin", with 8 to 16 multiprocessors, of which a power mode may switch some off.

    Raises:
        EngineError: the plan is not portable and there is no GPU to build it for.
    """
    if api.capabilities.portable:
        name, capability = PORTABLE_GPU, PORTABLE_CAPABILITY
    elif gpu is None:
        raise EngineError(f"{api.name} builds for the GPU that is there, and there is none. Build on the device.")
    else:
        name, capability = f"{gpu.name}, {gpu.sm_count} SMs", "{}.{}".format(*gpu.capability)
    smallest, best, largest = options.batches
    flags = ["strongly typed", "no TF32", f"workspace {options.workspace_bytes}"]
    if options.dla_core is not None:
        flags.append(f"DLA {options.dla_core}, GPU fallback")
    return EngineKey(
        model_sha256=hashlib.sha256(model).hexdigest(),
        gpu=name,
        capability=capability,
        tensorrt=api.name,
        profile=f"batch {smallest}..{largest}, best {best}",
        flags=tuple(flags),
    )


def timing_cache_key(key: EngineKey) -> EngineKey:
    """Where the measured kernels lie that all builds on this GPU and version share."""
    return replace(key, model_sha256="", profile="", flags=("timing cache",))


def cached_plan(
    api: Api, model: bytes, options: BuildOptions, name: str, gpu: DeviceProperties | None, cache: EngineCache
) -> CachedPlan:
    """The plan of a model, from the cache if one with an equal key lies there, else built.

    Where the flavour has a timing cache, it is carried from build to build through the same folder.

    Args:
        api: from `open_tensorrt`.
        model: the bytes of an ONNX file.
        options: see `build_plan`.
        name: of the model, for progress and errors.
        gpu: that it is for; may be None where plans are portable.
        cache: where plans lie.

    Raises:
        EngineError: see `engine_key`, `build_plan` and `EngineCache.load`.
        StorageError: the cache cannot be written to.
    """
    key = engine_key(api, model, options, gpu)
    built: list[Plan] = []

    def build() -> bytes:
        known = options
        if api.capabilities.timing_cache and options.timing_cache is None:
            known = replace(options, timing_cache=cache.load_or_remove(timing_cache_key(key)))
        plan = build_plan(model, known, name, api)
        if plan.timing_cache is not None:
            cache.store(timing_cache_key(key), plan.timing_cache)
        built.append(plan)
        return plan.content

    content = cache.get_or_build(key, build)
    return CachedPlan(key, content, built[0] if built else None)
