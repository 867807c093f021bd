from __future__ import annotations

import dataclasses
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from dphr_infer.engines.tensorrt import build as tensorrt_build
from dphr_infer.engines.tensorrt.api import Api, Messages
from dphr_infer.engines.tensorrt.build import BuildOptions, LayerInfo, build_plan, read_layers
from dphr_infer.errors import ConfigError, EngineError
from dphr_infer.measure.progress import Progress, progress_shown

OPTIONS = BuildOptions(max_batch=4, opt_batch=2)
FLOAT = {"to": TensorProto.FLOAT}
Model = Callable[..., bytes]


def quantised_model(make_model: Model) -> bytes:
    """A convolution in int8 by explicit Q/DQ, weights stored as int8, beside one in float32."""
    nodes: list[Any] = [
        ("Cast", ["images"], "float", FLOAT),
        ("Transpose", ["float"], "nchw", {"perm": [0, 3, 1, 2]}),
        ("QuantizeLinear", ["nchw", "step", "zero"], "quantised", {}),
        ("DequantizeLinear", ["quantised", "step", "zero"], "dequantised", {}),
        ("DequantizeLinear", ["weights8", "steps", "zeros"], "weights", {"axis": 0}),
        ("Conv", ["dequantised", "weights"], "left", {}),
        ("Conv", ["nchw", "weights32"], "right", {}),
        ("Add", ["left", "right"], "sum", {}),
        ("GlobalAveragePool", ["sum"], "pooled", {}),
        ("Flatten", ["pooled"], "embeddings", {}),
    ]
    weights = {
        "step": np.float32(0.02),
        "zero": np.int8(0),
        "steps": np.full(8, 0.01, np.float32),
        "zeros": np.zeros(8, np.int8),
        "weights8": np.arange(216).reshape(8, 3, 3, 3).astype(np.int8),
        "weights32": np.ones((8, 3, 3, 3), np.float32),
    }
    return make_model(nodes, weights)


# What every TensorRT is asked for, by the stand-ins that have no other names.


def test_every_version_builds_with_the_names_it_has(api: Api, device: Any) -> None:
    device.warnings = ("one thing", "one thing")
    plan = build_plan(b"model", OPTIONS, "model.int8.onnx", api)
    assert plan.content == b"a plan"
    assert plan.warnings == ("one thing",)
    assert plan.layers == (LayerInfo("dq", "DEQUANTIZE", "fp16"), LayerInfo("conv", "CONVOLUTION", "int8"))
    assert device.seen["profile"] == ("images", ((1, 32, 48, 3), (2, 32, 48, 3), (4, 32, 48, 3)))
    assert device.seen["workspace"] == (api.module.MemoryPoolType.WORKSPACE, 1 << 30)
    assert "flags" not in device.seen and device.seen["cleared"] == ["TF32"]


def test_a_timing_cache_goes_in_and_comes_out(api: Api, device: Any) -> None:
    assert build_plan(b"model", OPTIONS, "m", api).timing_cache == b"+"
    known = dataclasses.replace(OPTIONS, timing_cache=b"known")
    assert build_plan(b"model", known, "m", api).timing_cache == b"known+"
    assert device.seen["timing cache"] == b"known"
    device.mismatched_cache = True
    with pytest.raises(EngineError, match="timing cache of 5 bytes is damaged or of another GPU or version"):
        build_plan(b"model", known, "m", api)


def test_a_dla_takes_the_network_with_the_gpu_behind_it_and_one_batch_size(api: Api, device: Any) -> None:
    device.dla_cores = 2
    build_plan(b"model", BuildOptions(max_batch=4, opt_batch=4, dla_core=1), "m", api)
    config = device.seen["config"]
    assert (config.default_device_type, config.DLA_core) == (api.module.DeviceType.DLA, 1)
    assert device.seen["flags"] == ["GPU_FALLBACK"]
    assert [shape[0] for shape in device.seen["profile"][1]] == [4, 4, 4]


@pytest.mark.parametrize(("cores", "core", "words"), [(0, 0, "finds 0 here"), (2, 2, r"finds 2 \(0\.\.1\) here")])
def test_a_dla_that_is_not_there_is_refused(api: Api, device: Any, cores: int, core: int, words: str) -> None:
    device.dla_cores = cores
    with pytest.raises(EngineError, match=rf"DLA core {core} was asked for, but TensorRT 1.* {words}"):
        build_plan(b"model", BuildOptions(dla_core=core), "m", api)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            "Error Code 2: OutOfMemory (Requested size was 8 bytes.)",
            "memory does not suffice for batches up to 4 ",
        ),
        ("Cuda Runtime (out of memory)", "memory does not suffice"),
        ("[graphOptimizer.cpp] Could not find any implementation for node conv.", "workspace of 1,073,741,824 bytes"),
        ("cudaError 35: CUDA driver version is insufficient", "finds no GPU .* See nvidia-smi"),
        ("Error Code 9: something\nelse", r"\(?Error Code 9: something else\. Choose another"),
    ],
)
def test_a_refusal_of_the_builder_is_one_line_with_its_fix(api: Api, device: Any, said: str, words: str) -> None:
    device.errors = (said,)
    with pytest.raises(EngineError, match=rf"^TensorRT [\d.]+ cannot build model\.fp16\.onnx: .*{words}") as caught:
        build_plan(b"model", OPTIONS, "model.fp16.onnx", api)
    assert "\n" not in str(caught.value)


def test_a_machine_without_a_gpu_is_told_so(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_builder(logger: Any) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(api.module, "Builder", no_builder)
    with pytest.raises(EngineError, match=r"cannot open its builder .*factory function returned nullptr.*NVIDIA GPU"):
        build_plan(b"model", OPTIONS, "m", api)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"max_batch": 2, "opt_batch": 3}, "best batch is 3 and the largest 2"),
        ({"max_batch": 0, "opt_batch": 0}, "best batch is 0"),
        ({"workspace_bytes": 0}, "workspace is 0 bytes"),
        ({"workspace_bytes": 1 << 80}, r"workspace is 1208925819614629174706176 bytes: give 1 to 1099511627776"),
        ({"max_batch": 1025}, "largest batch is 1025: give at most 1024"),
        ({"dla_core": -1}, "DLA core is -1"),
        ({"max_batch": 2, "opt_batch": 1, "dla_core": 0}, "one batch size alone, but the best batch is 1 and the lar"),
    ],
)
def test_options_that_make_no_sense_are_refused(values: dict[str, int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        BuildOptions(**values)


# For real, through TensorRT-RTX.


def test_a_plan_is_built_and_only_a_progress_line_is_said(
    rtx: Api, make_flat_model: Model, capfd: pytest.CaptureFixture[str]
) -> None:
    model = make_flat_model(columns=8)
    with progress_shown():
        plan = build_plan(model, OPTIONS, "model.fp32.onnx", rtx)
    assert len(plan.content) > 3072 * 8 * 4
    assert plan.timing_cache is None and plan.seconds > 0
    assert plan.layers == read_layers(model, "model.fp32.onnx", rtx)
    assert [layer.precision for layer in plan.layers if layer.kind == "MATRIX_MULTIPLY"] == ["fp32"]
    output = capfd.readouterr()
    assert output.out == ""
    assert re.fullmatch(
        r"model\.fp32\.onnx: TensorRT-RTX [\d.]+ builds 100/100 \(100%\) [\d.]+ %/s, 0:0\d elapsed  built\n", output.err
    )


def test_without_a_named_library_the_installed_one_builds(rtx: Api, make_flat_model: Model) -> None:
    assert len(build_plan(make_flat_model(), OPTIONS, "m").content) > 3072 * 8 * 4


def test_layers_tell_which_are_quantised(rtx: Api, make_model: Model) -> None:
    plan = build_plan(quantised_model(make_model), OPTIONS, "model.int8.onnx", rtx)
    precisions = {layer.name: layer.precision for layer in plan.layers}
    assert precisions["conv_5"] == precisions["quantizelinear_2"] == "int8"
    assert precisions["conv_6"] == precisions["add_7"] == "fp32"
    assert "CONSTANT" not in {layer.kind for layer in plan.layers}


def test_the_peak_is_that_of_this_build_alone(rtx: Api, make_flat_model: Model) -> None:
    small, large = make_flat_model(columns=8), make_flat_model(columns=2000)
    build_plan(small, OPTIONS, "warm", rtx)
    peaks = [build_plan(model, OPTIONS, "m", rtx).peak_bytes for model in (large, small)]
    assert peaks[0] is not None and peaks[1] is not None
    assert peaks[0] - peaks[1] >= 3072 * 2000 * 4


def test_all_unsupported_operators_are_named_in_one_line(rtx: Api, make_model: Model) -> None:
    nodes = [
        ("Cast", ["images"], "float", FLOAT),
        ("Det", ["float"], "det", {}),
        ("Bernoulli", ["det"], "embeddings", {}),
    ]
    with pytest.raises(EngineError) as caught:
        build_plan(make_model(nodes, {}), OPTIONS, "model.fp32.onnx", rtx)
    assert str(caught.value) == (
        f"{rtx.name} cannot read model.fp32.onnx: unsupported operator Det in node det_1; unsupported operator "
        "Bernoulli in node bernoulli_2. Choose another encoder, export with another opset, or install a newer TensorRT."
    )


def test_a_node_that_the_parser_refuses_is_named_with_its_reason(rtx: Api, make_model: Model) -> None:
    nodes = [("Transpose", ["images"], "turned", {"perm": [0, 3, 1, 2]}), ("Cast", ["turned"], "embeddings", FLOAT)]
    with pytest.raises(EngineError, match=r"cannot read m: node transpose_0 \(Transpose\): .*has type UInt8") as caught:
        build_plan(make_model(nodes, {}), OPTIONS, "m", rtx)
    assert "\n" not in str(caught.value)


def test_damaged_bytes_are_refused(rtx: Api, make_flat_model: Model) -> None:
    for content in (b"", b"not a model" * 50, make_flat_model()[:-2000]):
        with pytest.raises(EngineError, match=r"cannot read m: |m has no tensors"):
            build_plan(content, OPTIONS, "m", rtx)


@pytest.mark.parametrize(
    "takes",
    [("pixels", ["batch", 32, 32, 3]), ("images", [2, 32, 32, 3]), ("images", ["batch", "h", 32, 3])],
    ids=["another name", "a fixed batch", "a free size"],
)
def test_a_model_with_another_input_is_refused(rtx: Api, make_model: Model, takes: tuple[str, list[Any]]) -> None:
    model = make_model([("Cast", [takes[0]], "embeddings", FLOAT)], {}, takes)
    with pytest.raises(EngineError, match=rf'm has {takes[0]} uint8 .*embeddings fp32.* feeds "images" uint8 \(-1, he'):
        build_plan(model, OPTIONS, "m", rtx)


def test_a_model_with_another_output_is_refused(rtx: Api, make_model: Model) -> None:
    model = make_model([("Cast", ["images"], "features", FLOAT)], {})
    with pytest.raises(EngineError, match=r'features fp32 .*reads "embeddings"'):
        build_plan(model, OPTIONS, "m", rtx)


def test_weights_in_other_files_are_refused(rtx: Api, make_flat_model: Model, tmp_path: Path) -> None:
    model = onnx.load_model_from_string(make_flat_model())
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    with pytest.raises(EngineError, match="keeps weights in other files"):
        build_plan((tmp_path / "m.onnx").read_bytes(), OPTIONS, "m", rtx)


def test_a_workspace_too_small_is_said_with_its_size(rtx: Api, make_model: Model) -> None:
    options = dataclasses.replace(OPTIONS, workspace_bytes=1000)
    with pytest.raises(EngineError, match=r"a workspace of 1,000 bytes is too small for one of its layers"):
        build_plan(quantised_model(make_model), options, "m", rtx)


def test_tensorrt_rtx_has_neither_dla_nor_timing_cache(rtx: Api, make_flat_model: Model) -> None:
    with pytest.raises(EngineError, match=r"DLA core 0 was asked for, but TensorRT-RTX .* finds 0 here"):
        build_plan(make_flat_model(), BuildOptions(dla_core=0), "m", rtx)
    with pytest.raises(EngineError, match="has no timing cache: leave it out"):
        build_plan(make_flat_model(), BuildOptions(timing_cache=b""), "m", rtx)


def test_ctrl_c_stops_the_builder_without_its_stack_trace(
    rtx: Api, make_flat_model: Model, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    steps = 0

    class Pressing(Progress):
        """Presses Ctrl-C in the third of the builder's steps."""

        def advance(self, steps_done: int = 1, text: str = "") -> None:
            nonlocal steps
            steps += 1
            if steps == 3:
                signal.raise_signal(signal.SIGINT)
            super().advance(steps_done, text)

    monkeypatch.setattr(tensorrt_build, "Progress", Pressing)
    with pytest.raises(KeyboardInterrupt):
        build_plan(make_flat_model(), OPTIONS, "m", rtx)
    assert steps == 3
    assert "rror" not in capfd.readouterr().err
    monkeypatch.undo()
    assert build_plan(make_flat_model(), OPTIONS, "m", rtx).content


def test_ctrl_c_while_the_parser_talks_is_not_lost(rtx: Api, make_flat_model: Model) -> None:
    class Pressing(Api):
        """Presses Ctrl-C when the library says its first word."""

        __slots__ = ()

        def logger(self, messages: Messages) -> Any:
            logger = super().logger(messages)
            pressed = []

            class Talking(type(logger)):
                def log(self, severity: Any, msg: str) -> None:
                    if not pressed:
                        pressed.append(True)
                        signal.raise_signal(signal.SIGINT)
                    super().log(severity, msg)

            return Talking()

    with pytest.raises(KeyboardInterrupt):
        build_plan(make_flat_model(), OPTIONS, "m", Pressing(rtx.flavour, rtx.version, rtx.module, rtx.capabilities))


MEMORY_SCRIPT = """
import resource, sys
from pathlib import Path
from dphr_infer.engines.tensorrt.api import describe
from dphr_infer.engines.tensorrt.build import BuildOptions, build_plan
from dphr_infer.errors import EngineError
import tensorrt_rtx

api = describe("TensorRT-RTX", tensorrt_rtx)
model = Path(sys.argv[1]).read_bytes()
held = int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmSize:"))) << 10
resource.setrlimit(resource.RLIMIT_AS, (held + int(sys.argv[2]),) * 2)
try:
    build_plan(model, BuildOptions(), "m", api)
except EngineError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space through Linux")
@pytest.mark.parametrize(("share", "verb"), [(0.3, "read"), (1.5, "build")])
def test_memory_that_does_not_suffice_is_one_line(
    rtx: Api, make_flat_model: Model, tmp_path: Path, share: float, verb: str
) -> None:
    model = make_flat_model(columns=6_000)
    (tmp_path / "m.onnx").write_bytes(model)
    command = [sys.executable, "-c", MEMORY_SCRIPT, str(tmp_path / "m.onnx"), str(int(share * len(model)))]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.fullmatch(rf"TensorRT-RTX [\d.]+ cannot {verb} m\b.*memory does not suffice.*\n", found.stdout)
