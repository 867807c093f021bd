"""Preprocessing, TensorRT and the whole pipeline on a real GPU equal the CPU; skipped where a part is missing.

Tests with "sanitized" in their name are small: they run once more under compute-sanitizer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dphr_infer.bundle import open_bundle
from dphr_infer.cuda import open_cuda
from dphr_infer.embedder import Embedder
from dphr_infer.engines.open import open_engine
from dphr_infer.errors import DphrError
from dphr_infer.gpu_pipeline import GpuPipeline
from dphr_infer.kernels.fatbin import load_fatbin
from dphr_infer.kernels.preprocess_launch import DevicePreprocess
from dphr_infer.matchers.numpy_exact import NumpyExactMatcher
from dphr_infer.nv12 import nv12_frames, rgb_frames, to_rgb
from dphr_infer.preprocess import Preprocess
from dphr_infer.rotation import rotate_square

BUNDLE = Path(__file__).resolve().parents[2] / "samples" / "bundle"
# Half precision and another order of sums on the GPU; int8 against int8 on a CPU.
MIN_COSINE = {"fp32": 0.9999, "fp16": 0.999, "int8": 0.98}


@pytest.fixture(autouse=True)
def gpu() -> Any:
    """Properties of the first GPU."""
    try:
        with open_cuda() as cuda:
            return cuda.properties
    except DphrError as error:
        pytest.skip(str(error))


@pytest.fixture
def tensorrt() -> Any:
    """The installed TensorRT or TensorRT-RTX; its name stands in the skip line and in reports."""
    from dphr_infer.engines.tensorrt_api import open_tensorrt

    try:
        return open_tensorrt()
    except DphrError as error:
        pytest.skip(str(error))


def random_frame(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), np.uint8)
    return np.ascontiguousarray(np.kron(coarse, np.ones((16, 16, 1), np.uint8))[:height, :width])


@pytest.mark.parametrize("degrees", [None, 0.0, 33.0, 90.0])
@pytest.mark.parametrize(("height", "width"), [(70, 90), (300, 400)])
def test_sanitized_frames_become_what_pillow_makes_of_them(
    gpu: Any, height: int, width: int, degrees: float | None
) -> None:
    size = Preprocess(64, 64)
    image = random_frame(height, width)
    with open_cuda() as cuda, cuda.active():
        kernels = load_fatbin(gpu.capability, gpu.driver, stem="preprocess")
        launcher = DevicePreprocess(cuda, kernels, rgb_frames(width, height), size, turned=degrees is not None)
        address = launcher.run([image], None if degrees is None else [degrees])
        found = np.zeros((64, 64, 3), np.uint8)
        cuda.download(found, address)
        cuda.synchronize()
    expected = size(image if degrees is None else rotate_square(image, degrees, 64))
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_a_12_megapixel_nv12_frame_becomes_what_its_rgb_does(gpu: Any) -> None:
    layout, size = nv12_frames(4000, 3000), Preprocess(224, 224)
    frame = np.random.default_rng(1).integers(0, 256, layout.frame_bytes, np.uint8)
    with open_cuda() as cuda, cuda.active():
        launcher = DevicePreprocess(cuda, load_fatbin(gpu.capability, gpu.driver, stem="preprocess"), layout, size)
        found = np.zeros((224, 224, 3), np.uint8)
        cuda.download(found, launcher.run([frame]))
        cuda.synchronize()
    assert np.abs(found.astype(int) - size(to_rgb(frame, layout))).max() <= 1


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_tensorrt_gives_the_embeddings_of_onnxruntime(tensorrt: Any, precision: Any) -> None:
    bundle = open_bundle(BUNDLE)
    images, _ = bundle.read_selftest()
    with open_engine(bundle, precision, "cuda") as on_gpu, open_engine(bundle, precision) as on_cpu:
        expected = on_cpu.embed(images)
        for batch in (1, 2, 7, len(images)):
            for _ in range(3):  # directly, captured, replayed
                found = on_gpu.embed(images[:batch])
                assert np.sum(found * expected[:batch], axis=1).min() > MIN_COSINE[precision]


@pytest.mark.parametrize("degrees", [None, 20.0])
def test_the_pipeline_gives_the_cpus_matches(tensorrt: Any, degrees: float | None) -> None:
    bundle = open_bundle(BUNDLE)
    side = bundle.manifest.preprocess.height_px
    frames = [random_frame(1080, 1920, seed) for seed in range(6)]
    with open_engine(bundle) as engine:
        embedder = Embedder(bundle.manifest.preprocess, engine)
        gallery = embedder.embed_images([random_frame(200, 200, seed) for seed in range(50)]).astype(np.float16)
        views = [frame if degrees is None else rotate_square(frame, degrees, side) for frame in frames]
        queries = embedder.embed_images(views)
    with GpuPipeline(bundle, gallery, "fp32") as pipeline, NumpyExactMatcher(gallery) as matcher:
        for frame, query in zip(frames, queries, strict=True):
            found, expected = pipeline.match(frame, 5, degrees), matcher.match(query[None], 5)
            np.testing.assert_allclose(found.similarity, expected.similarity, atol=2e-3)
            # Rows may swap where two similarities lie nearer than the GPU's rounding.
            exact = gallery[found.rows[0]].astype(np.float32) @ query
            np.testing.assert_allclose(exact, expected.similarity[0], atol=2e-3)
