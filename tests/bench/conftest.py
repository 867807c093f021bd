"""A record made by hand, a tiny bundle that needs no torch, and its gallery."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench import gpu_matching
from bench.machine import MachineProfile
from bench.record import BatchRecord, BenchRecord, MatchRecord, Subject
from bench.stats import LatencySummary
from dphr_infer import cuda
from dphr_infer.bundle import MANIFEST_NAME, Bundle, Manifest, Parity, digest_files, open_bundle
from dphr_infer.gallery import GalleryOrigin, GalleryWriter
from dphr_infer.matchers import cuda_exact
from dphr_infer.preprocess import Preprocess

FAKE_PYCUDA = Path(__file__).resolve().parent.parent / "dphr_infer" / "fake_pycuda.py"
DIM = 8
ROWS = 200
IMAGES = 4

MACHINE = MachineProfile(
    cpu="Test CPU <2>",
    board="Test board",
    cores=2,
    memory_bytes=8_000_000_000,
    last_level_cache_bytes=1_000_000,
    power="15W",
    load=0.1,
    system="Linux 6 x86_64",
    python="3.11",
    numpy="2.0",
    onnxruntime="1.20",
)
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


def make_match(share: float, in_cache: bool) -> MatchRecord:
    latency = LatencySummary(700, 2.0, 2.5, 3.0, 4.0)
    return MatchRecord(1000, DIM, "float32", 1, 10, True, latency, 32_000, 2.0 * share, share, in_cache)


@pytest.fixture(scope="session")
def machine() -> MachineProfile:
    return MACHINE


@pytest.fixture(scope="session")
def record() -> BenchRecord:
    whole, part = LatencySummary(70, 10.0, 12.0, None, 20.0), LatencySummary(70, 3.0, 4.0, None, 5.0)
    return BenchRecord(
        date="2026-01-02T03:04:05+00:00",
        conditions="Warm.",
        machine=MACHINE,
        subject=SUBJECT,
        stages={"decode": part, "embed": part, "match": part},
        end_to_end=whole,
        difference_p50_ms=1.0,
        batches=(BatchRecord(1, part, 333.3, whole, 100.0), BatchRecord(2, part, 666.7, whole, 200.0)),
        matching=(make_match(0.9, in_cache=False), make_match(0.004, in_cache=True)),
        bandwidth_bytes_per_s=20e9,
        samples_ms={"decode": (3.0, 3.5), "end to end": (9.0, 10.0, 11.0, 50.0)},
    )


def _tiny_model() -> bytes:
    """uint8 (B, 32, 48, 3) -> the unit vector of an 8-column projection of the mean colour."""
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(0).normal(size=(3, DIM)).astype(np.float32)
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
    for number in range(IMAGES):
        pixels = rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"selftest/images/{number:02d}.png")
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
    monkeypatch.setattr(gpu_matching, "_compile_read_kernel", lambda capability: b"image")
    return made
