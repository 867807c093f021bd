"""The bytes of an ONNX file -> a TensorRT plan. One path for the exporter's check and for the device's first run.

The network is strongly typed: what the file says is what runs, and no builder flag changes a precision.
TensorFloat-32, on by default, is off: it would round the layers that the export keeps in float32 to the ten bits of a
half. The batch is dynamic from 1 to the maximum, tuned for one size between. Nothing is printed but a progress line;
what the library says becomes the words of an error, or the plan's warnings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from threading import Event
from typing import Any

from dphr_infer.engines.onnxruntime import EXTERNAL_DATA_MARK, INPUT_NAME, OUTPUT_NAME
from dphr_infer.engines.tensorrt.api import Api, Messages, open_tensorrt, precision_name
from dphr_infer.engines.tensorrt.progress import PERCENT, BuildProgress, held_interrupts
from dphr_infer.errors import ConfigError, EngineError
from dphr_infer.measure.clock import now_s
from dphr_infer.measure.memory import peak_bytes, reset_peak
from dphr_infer.measure.progress import Progress

# The last of them is what TensorRT-RTX 1.7 says of an allocation that gave a null pointer.
_MEMORY = re.compile(
    r"out ?of ?memory|memoryallocation|bad_alloc|failed to allocate|cannot allocate|CHECK\(p\) failed", re.IGNORECASE
)
_WORKSPACE = re.compile(r"workspace|could not find any implementation", re.IGNORECASE)
_NO_DRIVER = re.compile(r"driver version is insufficient|no cuda-capable device|cudaError (?:35|100)", re.IGNORECASE)
_UNSUPPORTED = re.compile(r"UNSUPPORTED_NODE|Plugin not found")
# These compute in the precision that their inputs were dequantised from; the builder fuses the pair into them.
_FUSES_QUANTISED = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "EINSUM")
_WORDS = 300
# A flight embeds a few tiles at once, an index of a map some dozens; TensorRT counts a batch in 31 bits.
MAX_BATCH = 1024
# The library takes 64 bits; no GPU has so much memory.
MAX_WORKSPACE_BYTES = 1 << 40


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How to build.

    Attributes:
        max_batch: largest batch that the plan takes, at most 1024; the smallest is 1.
        opt_batch: batch that the kernels are chosen for.
        workspace_bytes: most memory that a kernel may use beside its tensors, at most 1 TiB.
        dla_core: the DLA to use, with the GPU for what it cannot do; None: the GPU alone. A DLA has no dynamic batch,
            so the plan takes batches of max_batch alone, and opt_batch must be the same.
        timing_cache: measured kernels of an earlier build on this GPU and version; TensorRT-RTX has none.
    """

    max_batch: int = 1
    opt_batch: int = 1
    workspace_bytes: int = 1 << 30
    dla_core: int | None = None
    timing_cache: bytes | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.opt_batch <= self.max_batch:
            raise ConfigError(
                f"The best batch is {self.opt_batch} and the largest {self.max_batch}: give 1 <= best <= largest."
            )
        if self.max_batch > MAX_BATCH:
            raise ConfigError(
                f"The largest batch is {self.max_batch}: give at most {MAX_BATCH}, since memory is taken for all of it."
            )
        if not 1 <= self.workspace_bytes <= MAX_WORKSPACE_BYTES:
            raise ConfigError(
                f"The workspace is {self.workspace_bytes} bytes: give 1 to {MAX_WORKSPACE_BYTES} (1 TiB); 1 GiB is "
                "usual."
            )
        if self.dla_core is not None and self.dla_core < 0:
            raise ConfigError(f"The DLA core is {self.dla_core}: give 0 or 1, or none for the GPU.")
        if self.dla_core is not None and self.opt_batch != self.max_batch:
            raise ConfigError(
                f"A DLA takes one batch size alone, but the best batch is {self.opt_batch} and the largest "
                f"{self.max_batch}: give the same number for both, or build for the GPU."
            )

    @property
    def batches(self) -> tuple[int, int, int]:
        """Smallest, best and largest batch."""
        return (1 if self.dla_core is None else self.max_batch, self.opt_batch, self.max_batch)


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """One layer of the network as it was parsed, before the builder fuses; weights are not counted as layers.

    Attributes:
        name: of the ONNX node, as far as the parser kept it.
        kind: TensorRT's layer type, e.g. "CONVOLUTION".
        precision: that it computes in: "fp32", "fp16", "int8" or, for shapes and casts, another type of its output.
    """

    name: str
    kind: str
    precision: str


@dataclass(frozen=True, slots=True)
class _Parsed:
    """A network with what must live as long: TensorRT reads the weights where the parser and the file hold them."""

    network: Any
    parser: Any
    model: bytes
    size_px: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Plan:
    """A built engine and what it took.

    Attributes:
        content: the serialised engine; executable, and for the GPU and version that made it (but see `Api`).
        layers: in the order of the network.
        seconds: wall time of parsing and building.
        peak_bytes: most host memory of the process beyond what it held before; None where the system does not say.
        timing_cache: to give to the next build on this GPU; None where the flavour has none.
        warnings: the builder's, each on one line.
    """

    content: bytes
    layers: tuple[LayerInfo, ...]
    seconds: float
    peak_bytes: int | None
    timing_cache: bytes | None
    warnings: tuple[str, ...]


def build_plan(model: bytes, options: BuildOptions, name: str, api: Api | None = None) -> Plan:
    """Build an engine; shows its progress and stops within a step of the builder when interrupted.

    Args:
        model: the bytes of an ONNX file with its weights inside, as `export.to_onnx` writes it.
        options: batches, memory and device.
        name: of the model, for progress and errors.
        api: None opens the installed one.

    Raises:
        MissingPackageError: no TensorRT is installed.
        EngineError: the model is not readable, has an operator that this TensorRT lacks or another input, the device
            has no such DLA, memory or workspace do not suffice, or the builder refuses for a reason of its own.
        KeyboardInterrupt: after the builder has given everything back.
    """
    api = api if api is not None else open_tensorrt()
    if EXTERNAL_DATA_MARK in model:
        raise EngineError(f"{name} keeps weights in other files, which no digest covers. Export it with dphr-export.")
    messages = Messages()
    logger = api.logger(messages)
    before = peak_bytes() if reset_peak() else None  # what is resident now
    started = now_s()
    with held_interrupts() as stop:
        try:
            builder = _open_builder(api, logger, messages)
            parsed = _parse(api, builder, logger, messages, model, name)
            config = _configure(api, builder, parsed, options, messages, name)
            content = _build(api, builder, parsed, config, stop, name)
        except MemoryError:
            messages.add("ERROR", "out of memory")
            content = None
        if content is None:
            raise _refusal(api, messages, options, name)
    seconds, peak = now_s() - started, peak_bytes()
    timing = bytes(config.get_timing_cache().serialize()) if api.capabilities.timing_cache else None
    grown = None if peak is None or before is None else max(peak - before, 0)
    return Plan(content, _list_layers(parsed.network), seconds, grown, timing, tuple(messages.warnings))


def read_layers(model: bytes, name: str, api: Api) -> tuple[LayerInfo, ...]:
    """The layers of a model without building it; raises as `build_plan` does."""
    messages = Messages()
    logger = api.logger(messages)
    with held_interrupts():
        builder = _open_builder(api, logger, messages)
        return _list_layers(_parse(api, builder, logger, messages, model, name).network)


def _open_builder(api: Api, logger: Any, messages: Messages) -> Any:
    try:
        return api.module.Builder(logger)
    except (TypeError, RuntimeError) as error:  # the binding's words for a null pointer
        reason = (messages.errors or [str(error)])[0][:_WORDS]
        raise EngineError(
            f"{api.name} cannot open its builder ({reason}). It needs an NVIDIA GPU and a driver that fits: see "
            "nvidia-smi, or build on the device."
        ) from error


def _parse(api: Api, builder: Any, logger: Any, messages: Messages, model: bytes, name: str) -> _Parsed:
    network = builder.create_network(api.network_flags())
    parser = api.module.OnnxParser(network, logger)
    if not parser.parse(model):
        found = [_describe(parser.get_error(number)) for number in range(parser.num_errors)] or messages.errors
        if _MEMORY.search(" ".join(found)):
            raise EngineError(
                f"{api.name} cannot read {name} of {len(model):,} bytes: memory does not suffice. Close other programs."
            )
        raise EngineError(
            f"{api.name} cannot read {name}: {'; '.join(dict.fromkeys(found))[: 4 * _WORDS]}. Choose another encoder, "
            "export with another opset, or install a newer TensorRT."
        )
    inputs = [network.get_input(number) for number in range(network.num_inputs)]
    outputs = [network.get_output(number) for number in range(network.num_outputs)]
    shape = tuple(inputs[0].shape) if len(inputs) == 1 else ()
    free = len(shape) == 4 and shape[0] == -1 and min(shape[1:]) > 0 and shape[3] == 3
    named = [tensor.name for tensor in (*inputs, *outputs)] == [INPUT_NAME, OUTPUT_NAME]
    if not (named and free and precision_name(inputs[0].dtype) == "uint8"):
        found = [
            f"{tensor.name} {precision_name(tensor.dtype)} {tuple(tensor.shape)}" for tensor in (*inputs, *outputs)
        ]
        raise EngineError(
            f'{name} has {", ".join(found) or "no tensors"}; this runtime feeds "{INPUT_NAME}" uint8 (-1, height, '
            f'width, 3) and reads "{OUTPUT_NAME}". Export the model with dphr-export.'
        )
    return _Parsed(network, parser, model, (int(shape[1]), int(shape[2])))


def _describe(error: Any) -> str:
    """One of the parser's errors with its node, on one line."""
    code, words = str(error.code().name), " ".join(str(error.desc()).split())
    operator, node = error.node_operator(), error.node_name() or error.node()
    if _UNSUPPORTED.search(f"{code} {words}"):
        return f"unsupported operator {operator} in node {node}"
    return f"node {node} ({operator}): {words[:_WORDS]}" if operator else words[:_WORDS]


def _list_layers(network: Any) -> tuple[LayerInfo, ...]:
    layers, dequantised = [], set()
    for number in range(network.num_layers):
        layer = network.get_layer(number)
        kind = str(layer.type.name)
        if kind == "CONSTANT":
            continue
        output = layer.get_output(0)
        if kind == "DEQUANTIZE":
            dequantised.add(output.name)
        first = layer.get_input(0) if kind in _FUSES_QUANTISED else None
        fused = first is not None and first.name in dequantised
        layers.append(LayerInfo(layer.name, kind, "int8" if fused else precision_name(output.dtype)))
    return tuple(layers)


def _configure(api: Api, builder: Any, parsed: _Parsed, options: BuildOptions, messages: Messages, name: str) -> Any:
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    profile.set_shape(INPUT_NAME, *((batch, *parsed.size_px, 3) for batch in options.batches))
    if config.add_optimization_profile(profile) < 0:
        raise _refusal(api, messages, options, name)
    config.set_memory_pool_limit(api.module.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    config.clear_flag(api.module.BuilderFlag.TF32)
    if options.dla_core is not None:
        _put_on_dla(api, builder, config, options.dla_core)
    if api.capabilities.timing_cache:
        cache = config.create_timing_cache(options.timing_cache or b"")
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            raise EngineError(
                f"The timing cache of {len(options.timing_cache or b''):,} bytes is damaged or of another GPU or "
                f"version than {api.name}. Build without it."
            )
    elif options.timing_cache is not None:
        raise EngineError(f"{api.name} measures nothing while it builds, so it has no timing cache: leave it out.")
    return config


def _put_on_dla(api: Api, builder: Any, config: Any, core: int) -> None:
    """What a DLA cannot do, the GPU does: no backbone here runs on it whole."""
    cores = int(builder.num_DLA_cores) if api.capabilities.dla else 0
    if core >= cores:
        numbered = f" (0..{cores - 1})" if cores else ""
        raise EngineError(
            f"DLA core {core} was asked for, but {api.name} finds {cores}{numbered} here. Orin Nano, Thor and PCs have "
            "none, and TensorRT serves none from 10.8 to 11.4.0: build for the GPU."
        )
    config.default_device_type = api.module.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(api.module.BuilderFlag.GPU_FALLBACK)


def _build(api: Api, builder: Any, parsed: _Parsed, config: Any, stop: Event, name: str) -> bytes | None:
    """The serialised engine; None if the builder failed or was stopped."""
    with Progress(f"{name}: {api.name} builds", PERCENT, "%") as bar:
        progress = BuildProgress(bar, stop)
        monitor = api.monitor(progress)
        config.progress_monitor = monitor
        serialised = builder.build_serialized_network(parsed.network, config)
        if serialised is not None:
            progress.complete()
    return None if serialised is None else bytes(serialised)


def _refusal(api: Api, messages: Messages, options: BuildOptions, name: str) -> EngineError:
    """Why there is no engine, and what may fix it."""
    first = (messages.errors or ["it gives no reason"])[0][:_WORDS]
    everything = " ".join(messages.errors)
    what = f"{api.name} cannot build {name}"
    if _NO_DRIVER.search(first):
        return EngineError(
            f"{what}: it finds no GPU ({first}). See nvidia-smi; install the driver, or build elsewhere."
        )
    if _MEMORY.search(everything):
        return EngineError(
            f"{what}: memory does not suffice for batches up to {options.max_batch} with a workspace of "
            f"{options.workspace_bytes:,} bytes ({first}). Close other programs, or lower the largest batch or the "
            "workspace."
        )
    if _WORKSPACE.search(everything):
        return EngineError(
            f"{what}: a workspace of {options.workspace_bytes:,} bytes is too small for one of its layers ({first}). "
            "Give more; 1 GiB is usual."
        )
    return EngineError(f"{what}: {first}. Choose another encoder or precision, or install a newer TensorRT.")
