"""Stand-ins for the TensorRT versions that cannot be installed beside the tests.

A stand-in has exactly the names of its version in the classes that a build touches, so asking for a name that a
version dropped or does not have yet is an AttributeError, on reading and on writing. The lists of 11.4 are written
out; those of 10.13 and 10.3 follow from what came and went between the releases' own bindings.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from dphr_infer.engines.tensorrt.api import Api, describe

IN_11_4 = {
    "Builder": "build_serialized_network build_serialized_network_to_stream create_builder_config create_network "
    "create_optimization_profile error_recorder get_plugin_registry gpu_allocator is_network_supported logger "
    "max_DLA_batch_size max_threads num_DLA_cores reset build_engine_with_config",
    "IBuilderConfig": "DLA_core add_optimization_profile all_build_routes avg_timing_iterations build_route "
    "builder_optimization_level can_run_on_DLA clear_flag create_timing_cache default_device_type engine_capability "
    "flags get_device_type get_flag get_memory_pool_limit get_preview_feature get_tactic_sources get_timing_cache "
    "hardware_compatibility_level is_device_type_set l2_limit_for_tiling max_aux_streams max_num_tactics "
    "num_optimization_profiles plugins_to_serialize profile_stream profiling_verbosity progress_monitor "
    "remote_auto_tuning_config reset reset_device_type runtime_platform set_device_type set_flag "
    "set_memory_pool_limit set_preview_feature set_tactic_sources set_timing_cache tiling_optimization_level",
    "INetworkDefinition": "add_activation add_convolution_nd add_dequantize add_input add_quantize flags get_flag "
    "get_input get_layer get_output mark_output name num_inputs num_layers num_outputs add_attention add_moe",
    "ILayer": "get_input get_output get_output_type metadata name num_inputs num_outputs num_ranks set_input type",
    "ITensor": "allowed_formats dtype is_network_input is_network_output is_shape_tensor name shape",
    "OnnxParser": "clear_errors clear_flag flags get_error get_flag get_layer_output_tensor get_subgraph_nodes "
    "get_used_vc_plugin_libraries is_subgraph_supported load_initializer load_model_proto num_errors num_subgraphs "
    "parse parse_from_file parse_model_proto set_builder_config set_flag supports_model_v2 supports_operator",
    "IOptimizationProfile": "extra_memory_target get_shape get_shape_input profile_stream set_shape set_shape_input",
    "BuilderFlag": "DEBUG DIRECT_IO DISABLE_COMPILATION_CACHE DISABLE_TIMING_CACHE DISTRIBUTIVE_INDEPENDENCE "
    "EDITABLE_TIMING_CACHE ERROR_ON_TIMING_CACHE_MISS EXCLUDE_LEAN_RUNTIME GPU_FALLBACK MONITOR_MEMORY REFIT "
    "REFIT_IDENTICAL REFIT_INDIVIDUAL SAFETY_SCOPE SPARSE_WEIGHTS STRICT_NANS STRIP_PLAN TF32 VERSION_COMPATIBLE "
    "WEIGHT_STREAMING",
    "NetworkDefinitionCreationFlag": "PREFER_AOT_PYTHON_PLUGINS PREFER_JIT_PYTHON_PLUGINS STRONGLY_TYPED",
}
# Class -> what 10.13 had and 11.4 has not, and what 11.4 has and 10.13 had not.
FROM_10_13 = {
    "Builder": ("platform_has_fast_fp16 platform_has_fast_int8 platform_has_tf32", ""),
    "IBuilderConfig": (
        "algorithm_selector clear_quantization_flag get_calibration_profile get_quantization_flag int8_calibrator "
        "quantization_flags set_calibration_profile set_quantization_flag",
        "all_build_routes build_route",
    ),
    "INetworkDefinition": ("", "add_attention add_moe"),
    "ILayer": (
        "output_type_is_set precision precision_is_set reset_output_type reset_precision set_output_type",
        "num_ranks",
    ),
    "ITensor": ("dynamic_range reset_dynamic_range set_dynamic_range", ""),
    "OnnxParser": ("parse_with_weight_descriptors supports_model", "set_builder_config"),
    "IOptimizationProfile": ("", "profile_stream"),
    "BuilderFlag": (
        "BF16 FP16 FP4 FP8 INT4 INT8 OBEY_PRECISION_CONSTRAINTS PREFER_PRECISION_CONSTRAINTS REJECT_EMPTY_ALGORITHMS "
        "WEIGHTLESS",
        "",
    ),
    "NetworkDefinitionCreationFlag": ("EXPLICIT_BATCH", ""),
}
# Class -> what came between 10.3 and 10.13; nothing went.
SINCE_10_3 = {
    "Builder": "build_engine_with_config build_serialized_network_to_stream",
    "IBuilderConfig": "l2_limit_for_tiling max_num_tactics remote_auto_tuning_config tiling_optimization_level",
    "OnnxParser": "load_initializer load_model_proto parse_model_proto",
    "BuilderFlag": "DISTRIBUTIVE_INDEPENDENCE EDITABLE_TIMING_CACHE FP4 MONITOR_MEMORY STRICT_NANS",
    "NetworkDefinitionCreationFlag": "PREFER_AOT_PYTHON_PLUGINS PREFER_JIT_PYTHON_PLUGINS",
}
ENUMS = ("BuilderFlag", "NetworkDefinitionCreationFlag")
VERSIONS = ("10.3.0.30", "10.13.3.9", "11.4.1.3")


def names_of(version: str) -> dict[str, set[str]]:
    """Class -> its names in that version."""
    names = {owner: set(words.split()) for owner, words in IN_11_4.items()}
    if version.startswith("10."):
        for owner, (removed, added) in FROM_10_13.items():
            names[owner] = (names[owner] | set(removed.split())) - set(added.split())
    if version.startswith("10.3."):
        for owner, added in SINCE_10_3.items():
            names[owner] -= set(added.split())
    return names


@dataclass
class Device:
    """What the stand-in's builder meets and does.

    Attributes:
        dla_cores: that the device has.
        errors: said by the builder; with any, it gives no engine.
        warnings: said by the builder.
        steps: that it reports of its one phase.
        mismatched_cache: whether a timing cache with content is of another GPU.
        seen: what was asked of it, by name.
    """

    dla_cores: int = 0
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    steps: int = 4
    mismatched_cache: bool = False
    seen: dict[str, Any] = field(default_factory=dict)


def limited(owner: str, names: set[str], behaviour: dict[str, Any]) -> type:
    """A class with these names and no others, to read or to write; those without behaviour hold None."""
    lacking = behaviour.keys() - names - {"__init__"}
    assert not lacking, f"{owner} has no {lacking} in this version"

    def write(self: Any, name: str, value: Any) -> None:
        if name not in names:
            raise AttributeError(f"{owner} has no {name}")
        object.__setattr__(self, name, value)

    return type(owner, (), {**dict.fromkeys(names), **behaviour, "__setattr__": write})


def value(name: str) -> Any:
    return SimpleNamespace(name=name)


def make_classes(names: dict[str, set[str]], device: Device, library: ModuleType) -> dict[str, Any]:
    """The classes, whose network is the pixels, a dequantised convolution and its weights."""
    tensors = {
        "images": ("UINT8", (-1, 32, 48, 3)),
        "dequantised": ("HALF", (-1, 8)),
        "weights": ("HALF", (8, 8)),
        "embeddings": ("FLOAT", (-1, 8)),
    }
    wires = [
        ("dq", "DEQUANTIZE", "images", "dequantised"),
        ("w", "CONSTANT", None, "weights"),
        ("conv", "CONVOLUTION", "dequantised", "embeddings"),
    ]

    def make(owner: str, **values: Any) -> Any:
        return limited(owner, names[owner], values)()

    def tensor(name: str | None) -> Any:
        if name is None:
            return None
        data_type, shape = tensors[name]
        return make("ITensor", name=name, dtype=value(data_type), shape=shape)

    def layer(name: str, kind: str, source: str | None, target: str) -> Any:
        return make(
            "ILayer",
            name=name,
            type=value(kind),
            get_input=lambda self, number: tensor(source),
            get_output=lambda self, number: tensor(target),
        )

    def network(self: Any, flags: int) -> Any:
        device.seen["network flags"] = flags
        return make(
            "INetworkDefinition",
            num_inputs=1,
            num_outputs=1,
            num_layers=len(wires),
            get_input=lambda self, number: tensor("images"),
            get_output=lambda self, number: tensor("embeddings"),
            get_layer=lambda self, number: layer(*wires[number]),
        )

    def set_timing_cache(self: Any, cache: Any, ignore_mismatch: bool) -> bool:
        device.seen["timing cache"] = cache.content
        return ignore_mismatch or not (cache.content and device.mismatched_cache)

    def config(self: Any) -> Any:
        def timing_cache(self: Any, content: bytes) -> Any:
            return SimpleNamespace(content=content, serialize=lambda: content + b"+")

        device.seen["config"] = made = make(
            "IBuilderConfig",
            add_optimization_profile=lambda self, profile: 0,
            set_memory_pool_limit=lambda self, pool, size: device.seen.update(workspace=(pool, size)),
            set_flag=lambda self, flag: device.seen.setdefault("flags", []).append(flag.name),
            clear_flag=lambda self, flag: device.seen.setdefault("cleared", []).append(flag.name),
            create_timing_cache=timing_cache,
            set_timing_cache=set_timing_cache,
            get_timing_cache=lambda self: timing_cache(self, device.seen["timing cache"]),
        )
        return made

    def profile(self: Any) -> Any:
        return make(
            "IOptimizationProfile", set_shape=lambda self, name, *shapes: device.seen.update(profile=(name, shapes))
        )

    def build(self: Any, network: Any, config: Any) -> bytes | None:
        monitor = config.progress_monitor
        monitor.phase_start("Building engine", None, device.steps)
        going = all(monitor.step_complete("Building engine", step) for step in range(device.steps))
        monitor.phase_finish("Building engine")
        for severity, messages in (("WARNING", device.warnings), ("ERROR", device.errors)):
            for message in messages:
                device.seen["logger"].log(value(severity), message)
        device.seen["logger"].log(value("INFO"), "nobody wants to know")
        return b"a plan" if going and not device.errors else None

    def open_builder(self: Any, logger: Any) -> None:
        device.seen["logger"] = logger

    return {
        "Builder": limited(
            "Builder",
            names["Builder"],
            {
                "__init__": open_builder,
                "create_network": network,
                "create_builder_config": config,
                "create_optimization_profile": profile,
                "build_serialized_network": build,
                "num_DLA_cores": property(lambda self: device.dla_cores),
            },
        ),
        "OnnxParser": limited(
            "OnnxParser",
            names["OnnxParser"],
            {"__init__": lambda self, network, logger: None, "parse": lambda self, model: True, "num_errors": 0},
        ),
    }


def make_tensorrt(version: str, device: Device) -> ModuleType:
    """A module as `import tensorrt` gives it in that version, as far as a build goes."""
    library = ModuleType("tensorrt")
    names = names_of(version)
    content: dict[str, Any] = {"__version__": version, **make_classes(names, device, library)}
    for owner in ENUMS:
        content[owner] = enum.IntEnum(owner, sorted(names[owner]), start=0)
    content["DeviceType"] = enum.IntEnum("DeviceType", ["GPU", "DLA"], start=0)
    content["MemoryPoolType"] = enum.IntEnum("MemoryPoolType", ["WORKSPACE", "DLA_MANAGED_SRAM"], start=0)
    content["ILogger"] = type("ILogger", (), {})
    content["IProgressMonitor"] = type("IProgressMonitor", (), {})
    for name, item in content.items():
        setattr(library, name, item)
    return library


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    """Each TensorRT that flies or will."""
    return str(request.param)


@pytest.fixture
def device() -> Device:
    return Device()


@pytest.fixture
def tensorrt_of(device: Device) -> Callable[[str], ModuleType]:
    """`tensorrt_of(version)` on `device`."""
    return lambda version: make_tensorrt(version, device)


@pytest.fixture
def api(tensorrt_of: Callable[[str], ModuleType], version: str) -> Api:
    """The stand-in of each version."""
    return describe("TensorRT", tensorrt_of(version))


@pytest.fixture(scope="session")
def rtx() -> Api:
    """TensorRT-RTX, the real one: it parses and builds without a GPU."""
    return describe("TensorRT-RTX", pytest.importorskip("tensorrt_rtx"))


def make_model(nodes: list[Any], weights: dict[str, Any], takes: tuple[str, list[Any]] | None = None) -> bytes:
    """An ONNX file from (operator, inputs, output, attributes) whose last output is "embeddings"."""
    name, shape = takes or ("images", ["batch", 32, 32, 3])
    made = [
        helper.make_node(kind, sources, [target], name=f"{kind.lower()}_{number}", **attributes)
        for number, (kind, sources, target, attributes) in enumerate(nodes)
    ]
    graph = helper.make_graph(
        made,
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info(nodes[-1][2], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


def make_flat_model(columns: int = 8, layers: int = 1) -> bytes:
    """Pixels times a matrix (3072, columns), then `layers` - 1 times a square one with a softmax between."""
    nodes: list[Any] = [("Cast", ["images"], "cast", {"to": TensorProto.FLOAT}), ("Flatten", ["cast"], "rows", {})]
    weights = {"wide": np.full((3072, columns), 0.5, np.float32)}
    names = [f"product_{number}" for number in range(layers - 1)] + ["embeddings"]
    nodes.append(("MatMul", ["rows", "wide"], names[0], {}))
    for before, after in itertools.pairwise(names):
        weights["square"] = np.eye(columns, dtype=np.float32)
        nodes.append(("MatMul", [before, "square"], f"{before}_turned", {}))
        nodes.append(("Softmax", [f"{before}_turned"], after, {}))
    return make_model(nodes, weights)


@pytest.fixture(scope="session", name="make_model")
def make_model_fixture() -> Callable[..., bytes]:
    """`make_model(nodes, weights, takes)`."""
    return make_model


@pytest.fixture(scope="session", name="make_flat_model")
def make_flat_model_fixture() -> Callable[..., bytes]:
    """`make_flat_model(columns, layers)`."""
    return make_flat_model
