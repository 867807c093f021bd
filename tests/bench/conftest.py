"""A record made by hand, a tiny bundle that needs no torch, and its gallery."""

from __future__ import annotations

import gc
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from bench.gpu import matching as gpu_matching
from bench.machine import roofline
from bench.machine.state import MachineState
from bench.record import (
    CAMERA,
    ENDURANCE,
    SINGLE_STREAM,
    Accuracy,
    BatchRecord,
    BenchRecord,
    EmbedLimit,
    MatchRecord,
    PeerRecord,
    ScenarioRecord,
    Subject,
)
from dphr_infer.cuda import driver as cuda
from dphr_infer.cuda.topk import matcher as cuda_exact
from dphr_infer.files.bundle import (
    MANIFEST_NAME,
    SELFTEST_EMBEDDINGS,
    Bundle,
    Manifest,
    Parity,
    digest_files,
    open_bundle,
)
from dphr_infer.files.gallery import GalleryOrigin, GalleryWriter
from dphr_infer.images.preprocess import Preprocess
from dphr_infer.measure.machine import Machine
from dphr_infer.measure.stats import LatencySummary

FAKE_PYCUDA = Path(__file__).resolve().parent.parent / "stand_ins" / "fake_pycuda.py"
DIM = 8
ROWS = 200
IMAGES = 4

MACHINE = Machine(
    board="Test board",
    chip="",
    l4t="",
    jetpack="",
    cuda="",
    cuda_served="",
    tensorrt="",
    tensorrt_python="",
    power_mode="15W",
    governor="",
    driver="",
    gpu="",
    cpu="Test CPU <2>",
    cores=2,
    memory_bytes=8_000_000_000,
    caches="",
    last_level_cache_bytes=1_000_000,
    hypervisor="",
    system="Linux 6 x86_64",
    python="3.11",
    packages={"numpy": "2.0", "onnxruntime": "1.20"},
)
STATE = MachineState(0.1, "", None, None, (), 0.1)
SUBJECT = Subject(
    encoder="tiny",
    dim=DIM,
    input_px=(32, 48),
    precision="fp32",
    engine="onnxruntime CPU fp32",
    matcher="numpy exact",
    threads=0,
    bundle_digest="ab" * 32,
    gallery_rows=ROWS,
    gallery_dtype="float16",
    top_k=5,
    heading="as-is",
    views=1,
    n_images=4,
    image_px=(600, 800),
    images_from="photos & more",
)


def make_match(share: float, in_cache: bool, rows: int = 1000) -> MatchRecord:
    latency = LatencySummary(700, 2.0, 2.5, 3.0, None, 4.0)
    return MatchRecord(
        rows, DIM, "float32", 1, 10, True, latency, 32 * rows, 2.0 * share, share, in_cache, (2.0, 4.0), 512_000_000
    )


def make_scenario(name: str, settings: dict[str, Any], extra: dict[str, Any]) -> ScenarioRecord:
    whole, part = LatencySummary(70, 10.0, 12.0, None, None, 20.0), LatencySummary(70, 3.0, 4.0, None, None, 5.0)
    return ScenarioRecord(
        name,
        settings,
        whole,
        (9.0, 10.0, 11.0, 50.0),
        {"decode": part, "embed": part, "match": part} if name == SINGLE_STREAM else {},
        {"decode": (3.0, 3.5)} if name == SINGLE_STREAM else {},
        {"stopped": "time", "throttled_discarded": 0, "energy_per_photo_mj": None, "noise": 0.02, **extra},
    )


WINDOWS = [{"t_s": 60.0 * i, "n": 10, "p50_ms": 10.0 + i, "discarded": i} for i in range(5)]
SCENARIOS_MADE = (
    make_scenario(SINGLE_STREAM, {"least": 662}, {"difference_p50_ms": 1.0}),
    make_scenario(
        CAMERA,
        {"rate_hz": 30.0},
        {
            "frames": 40,
            "missed": 8,
            "missed_share": 0.2,
            "answers_per_s": 24.0,
            "jitter": {"p50_ms": 1.5, "max_ms": 6.0},
        },
    ),
    make_scenario(
        ENDURANCE,
        {"minutes": 5.0},
        {"windows": WINDOWS, "drift_share": 0.25, "slope_share_per_hour": 0.5, "spread_share": 0.2},
    ),
)
LIMIT = EmbedLimit(2_000_000_000, 4_000_000, 9_000_000, 1.5, 0.2, 1.5, "arithmetic", 0.5)


@pytest.fixture(scope="session", autouse=True)
def _frozen() -> None:
    """What the test session has loaded is no garbage of a bench, which collects before each case."""
    gc.collect()
    gc.freeze()


def _shrink(patch: pytest.MonkeyPatch) -> None:
    small = {"_BUFFER_BYTES": 4 << 20, "PASSES": 2, "_CACHES": 0, "_PRODUCT_SECONDS": 0.01, "PRODUCT_SIDES": (256,)}
    for name, value in small.items():
        patch.setattr(roofline, name, value)
    patch.setattr("bench.machine.state.WATCH_S", 0.02)
    patch.setattr("bench.sampling._OVERHEAD_SECONDS", 0.002)


@pytest.fixture(autouse=True)
def _small_ceilings(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if request.path.parent.name != "machine":
        _shrink(monkeypatch)


@pytest.fixture(scope="module")
def small_ceilings() -> Iterator[None]:
    """The machine's ceilings are measured on little memory and for a short time, in fixtures of a module too."""
    with pytest.MonkeyPatch.context() as patch:
        _shrink(patch)
        yield


@pytest.fixture(scope="session")
def machine() -> Machine:
    return MACHINE


@pytest.fixture(scope="session")
def record() -> BenchRecord:
    whole, part = LatencySummary(70, 10.0, 12.0, None, None, 20.0), LatencySummary(70, 3.0, 4.0, None, None, 5.0)
    return BenchRecord(
        date="2026-01-02T03:04:05+00:00",
        conditions="Warm.",
        valid=True,
        invalid_reasons=(),
        interrupted=False,
        failure="",
        flags=(),
        left_out={"cuVS": "not installed"},
        program="dphr 1, code 0123456789ab",
        machine=MACHINE,
        state=STATE,
        subject=SUBJECT,
        scenarios=SCENARIOS_MADE,
        batches=(
            BatchRecord(
                1,
                "tiny",
                "onnxruntime CPU fp32",
                48,
                32,
                "fp32",
                0,
                part,
                333.3,
                LIMIT,
                (3.0,),
                whole,
                100.0,
                (10.0,),
                None,
            ),
            BatchRecord(
                2, "tiny", "onnxruntime CPU fp32", 48, 32, "fp32", 0, part, 666.7, None, (3.0,), None, None, (), None
            ),
        ),
        matching=(make_match(0.9, in_cache=False, rows=100_000), make_match(0.004, in_cache=True)),
        peers=(
            PeerRecord("matching", "faiss flat", "1.8", part, 1.4, (1.2, 1.6), 1.0),
            PeerRecord("matching", "usearch exact", "2", None, None, None, None, "it crashed"),
        ),
        accuracy=Accuracy(0.9999, 0.999, 12, 0.75, 0.5, 40.0, 60, 21.5),
        cold_first_ms=55.0,
        power={"sources": ["hwmon: VDD_IN"], "missing": ["clocks"], "total_rails": ["VDD_IN"], "mean_w": 7.25},
        timeline=tuple(
            {
                "t_s": 10.0 * i,
                "temperature_c": {"cpu": 40.0 + i},
                "clock_mhz": {"cpu0": 1500.0 - i},
                "power_w": {"VDD_IN": 7.0},
                "throttled": False,
            }
            for i in range(6)
        ),
        startup_ms={
            "cold": 900.0,
            "warm": {"n": 2, "p50_ms": 700.0, "p90_ms": None, "p99_ms": None, "p999_ms": None, "max_ms": 710.0},
            "samples_ms": [700.0, 710.0],
            "exit_p50": 720.0,
            "peak_memory_bytes": 200_000_000,
        },
        peak_memory_bytes=400_000_000,
        bandwidth_bytes_per_s=20e9,
        matmul_flops_per_s=100e9,
        overhead_ns=700.0,
    )


def _projection() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, DIM)).astype(np.float32)


def _tiny_model() -> bytes:
    """uint8 (B, 32, 48, 3) -> the unit vector of an 8-column projection of the mean colour."""
    from onnx import TensorProto, helper, numpy_helper

    weights = _projection()
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["colour"], keepdims=0),
        helper.make_node("MatMul", ["colour", "weights"], ["raw"]),
        helper.make_node("ReduceL2", ["raw", "last"], ["length"], keepdims=1),
        helper.make_node("Div", ["raw", "length"], ["embeddings"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 32, 48, 3])],
        [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["batch", DIM])],
        [
            numpy_helper.from_array(np.array([1, 2]), "axes"),
            numpy_helper.from_array(np.array([1]), "last"),
            numpy_helper.from_array(weights, "weights"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "model.fp32.onnx").write_bytes(_tiny_model())
    (folder / "selftest/images").mkdir(parents=True)
    rng = np.random.default_rng(1)
    expected = []
    for number in range(IMAGES):
        # Each of its own colour: the model sees nothing else.
        pixels = (rng.integers(0, 200, 3) + rng.integers(0, 56, (32, 48, 3))).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"selftest/images/{number:02d}.png")
        raw = pixels.mean(axis=(0, 1), dtype=np.float64) @ _projection()
        expected.append((raw / np.linalg.norm(raw)).astype(np.float32))
    save_file({"embeddings": np.stack(expected)}, folder / SELFTEST_EMBEDDINGS)
    parity = {"fp32": Parity(1.0, 1.0, 0.0, 0.0, IMAGES)}
    manifest = Manifest("tiny", DIM, 16, Preprocess(32, 48), digest_files(folder), parity, {})
    (folder / MANIFEST_NAME).write_text(manifest.to_json())
    return open_bundle(folder)


@pytest.fixture(scope="session")
def gallery(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gallery") / "map.gallery"
    rows = np.random.default_rng(2).normal(size=(ROWS, DIM)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    origin = GalleryOrigin(bundle.digest, 100.0, 50.0, "map.tif", "", "EPSG:4326", "fp32")
    with GalleryWriter(path, origin, DIM) as writer:
        writer.append(rows, 46 + np.arange(ROWS) * 1e-4, np.full(ROWS, 8.0))
    return path


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A stand-in for PyCUDA whose kernels write nothing."""
    spec = importlib.util.spec_from_file_location("fake_pycuda_of_bench", FAKE_PYCUDA)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fake_pycuda_of_bench", module)
    spec.loader.exec_module(module)
    made = module.FakeDriver()
    monkeypatch.setitem(sys.modules, "pycuda", ModuleType("pycuda"))
    monkeypatch.setitem(sys.modules, "pycuda.driver", made)
    monkeypatch.setattr(cuda, "pop_released_context", made.raw_stack.pop)
    monkeypatch.setattr(cuda_exact, "load_fatbin", lambda capability, version: b"image")
    monkeypatch.setattr(cuda_exact, "_BRAKE_BYTES", 1 << 10)  # the stand-in fills them on this processor
    monkeypatch.setattr(gpu_matching, "_compile_read_kernel", lambda capability: b"image")
    return made


# The schema in small: {key: types} of a record, and of what lies in its lists. None in a tuple allows null.
_SUMMARY = {"n": int, "p50_ms": float, "p90_ms": (float, None), "p99_ms": (float, None), "p999_ms": (float, None)}
_NUMBER_OR_NONE = (float, None)
_SCHEMA: dict[str, Any] = {
    "schema": str,
    "schema_version": int,
    "date": str,
    "conditions": str,
    "valid": bool,
    "invalid_reasons": list,
    "interrupted": bool,
    "failure": str,
    "flags": list,
    "left_out": dict,
    "machine": dict,
    "state": dict,
    "subject": dict,
    "scenarios": list,
    "matching": list,
    "batches": list,
    "peers": list,
    "accuracy": (dict, None),
    "cold_first_ms": _NUMBER_OR_NONE,
    "power": (dict, None),
    "timeline": list,
    "startup_ms": (dict, None),
    "peak_memory_bytes": (int, None),
    "bandwidth_bytes_per_s": float,
    "matmul_flops_per_s": float,
    "overhead_ns": float,
}
_SCENARIO = {
    "name": str,
    "settings": dict,
    "latency": (dict, None),
    "samples_ms": list,
    "stages": dict,
    "stage_samples_ms": dict,
    "extra": dict,
}
_MATCH = {
    "rows": int,
    "dim": int,
    "dtype": str,
    "queries": int,
    "k": int,
    "threads": int,
    "latency": dict,
    "samples_ms": list,
}
_BATCH_SETTINGS = {"batch": int, "encoder": str, "engine": str, "precision": str, "threads": int}
_BATCH_SETTINGS |= {"input_width_px": int, "input_height_px": int}
_BATCH = {**_BATCH_SETTINGS, "embed": dict, "embed_limit": (dict, None), "locate": (dict, None)}
_READING = {"t_s": float, "temperature_c": dict, "clock_mhz": dict, "power_w": dict, "throttled": (bool, None)}
_STARTUP = {"cold": float, "warm": dict, "samples_ms": list, "exit_p50": float, "peak_memory_bytes": (int, None)}


def _faults(where: str, value: dict[str, Any], keys: dict[str, Any]) -> list[str]:
    found = [f"{where} lacks {key}" for key in keys if key not in value]
    for key in keys.keys() & value.keys():
        kinds = keys[key] if isinstance(keys[key], tuple) else (keys[key],)
        allowed = tuple(kind for kind in kinds if kind is not None)
        given = value[key]
        if given is None and None in kinds:
            continue
        if not isinstance(given, allowed) and not (float in allowed and type(given) is int):
            found.append(f"{where}.{key} is {type(given).__name__}")
    return found


@pytest.fixture(scope="session")
def check_schema() -> Any:
    """JSON of a record -> what is wrong with it."""

    def check(content: dict[str, Any]) -> list[str]:
        found = _faults("record", content, _SCHEMA)
        if (content.get("schema"), content.get("schema_version")) != ("dphr-bench", 3):
            found.append("record is of another schema")
        for key, keys in (
            ("scenarios", _SCENARIO),
            ("matching", _MATCH),
            ("batches", _BATCH),
            ("timeline", _READING),
        ):
            for number, item in enumerate(content.get(key, [])):
                found += _faults(f"{key}[{number}]", item, keys)
        for scenario in content.get("scenarios", []):
            summaries = [scenario["latency"], *scenario["stages"].values()]
            found += [fault for one in summaries if one for fault in _faults(scenario["name"], one, _SUMMARY)]
            if not all(isinstance(value, int | float) and value > 0 for value in scenario["samples_ms"]):
                found.append(f"{scenario['name']} has a sample that is no duration")
        if content.get("startup_ms"):
            found += _faults("startup_ms", content["startup_ms"], _STARTUP)
        return found

    return check
