"""Preprocessing, TensorRT and the whole pipeline on a real GPU equal the CPU; skipped where a part is missing.

Tests with "sanitized" in their name are small: they run once more under compute-sanitizer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dphr_infer.cuda.build import load_fatbin
from dphr_infer.cuda.driver import open_cuda
from dphr_infer.cuda.preprocess.launch import DevicePreprocess
from dphr_infer.cuda.preprocess.plan import Pose, longer_side_px, mode_of
from dphr_infer.engines.embedder import Embedder
from dphr_infer.engines.onnxruntime import offers
from dphr_infer.files.bundle import open_bundle
from dphr_infer.images.frame_format import nv12_frames, rgb_frames, to_rgb
from dphr_infer.images.preprocess import Preprocess
from dphr_infer.images.rectify import GroundSquare, rectify
from dphr_infer.images.rotation import rotate_square
from dphr_infer.locate.devices import open_engine
from dphr_infer.locate.gpu_pipeline import GpuPipeline
from dphr_infer.locate.settings import DeviceSettings
from dphr_infer.matchers.exact import NumpyExactMatcher
from dphr_infer.types import CameraView, Matches

BUNDLE = Path(__file__).resolve().parents[2] / "samples" / "bundle"
# Half precision and another order of sums on the GPU; int8 against int8 on a CPU.
MIN_COSINE = {"fp32": 0.9999, "fp16": 0.999, "int8": 0.98}
# Made when the file is read, so that a layout that cannot be made is found without a GPU.
PHOTO = nv12_frames(4000, 3000, matrix="bt709", colour_range="limited")
FRAMES = {
    "rgb": rgb_frames(1920, 1080),
    "nv12": nv12_frames(1920, 1080, matrix="bt709", colour_range="limited"),
}
OBLIQUE = GroundSquare(CameraView(50.0, -55.0, 70.0, 30.0, 4.0), 64, 1.0)
RANGES = [(3, 20), (20, 21), (30, 45)]


def random_frame(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), np.uint8)
    return np.ascontiguousarray(np.kron(coarse, np.ones((16, 16, 1), np.uint8))[:height, :width])


@pytest.mark.parametrize("pose", [None, 0.0, 33.0, 90.0, OBLIQUE])
@pytest.mark.parametrize(("height", "width"), [(70, 90), (300, 400)])
def test_sanitized_frames_become_what_pillow_makes_of_them(gpu: Any, height: int, width: int, pose: Pose) -> None:
    size = Preprocess(64, 64)
    image = random_frame(height, width)
    with open_cuda() as cuda, cuda.active():
        kernels = load_fatbin(gpu.capability, gpu.driver, stem="preprocess")
        launcher = DevicePreprocess(cuda, kernels, rgb_frames(width, height), size, mode=mode_of(pose))
        launcher.stage(image, pose)
        found = np.zeros((64, 64, 3), np.uint8)
        cuda.download(found, launcher.enqueue())
        cuda.synchronize()
    if isinstance(pose, GroundSquare):
        image = rectify(image, pose.view, pose.side_px, pose.gsd_m).image
    elif pose is not None:
        image = rotate_square(image, pose, 64)
    expected = size(image)
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_a_12_megapixel_nv12_frame_becomes_what_its_rgb_does(gpu: Any) -> None:
    layout, size = PHOTO, Preprocess(224, 224)
    frame = np.random.default_rng(1).integers(0, 256, layout.frame_bytes, np.uint8)
    with open_cuda() as cuda, cuda.active():
        launcher = DevicePreprocess(cuda, load_fatbin(gpu.capability, gpu.driver, stem="preprocess"), layout, size)
        launcher.stage(frame)
        found = np.zeros((224, 224, 3), np.uint8)
        cuda.download(found, launcher.enqueue())
        cuda.synchronize()
    assert np.abs(found.astype(int) - size(to_rgb(frame, layout))).max() <= 1


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_tensorrt_gives_the_embeddings_of_onnxruntime(tensorrt: Any, precision: Any) -> None:
    bundle = open_bundle(BUNDLE)
    images, _ = bundle.read_selftest()
    with (
        open_engine(bundle, DeviceSettings("cuda", precision)) as on_gpu,
        open_engine(bundle, DeviceSettings("cpu", precision)) as on_cpu,
    ):
        expected = on_cpu.embed(images)
        for batch in (1, 2, 7, len(images)):
            for _ in range(3):  # directly, captured, replayed
                found = on_gpu.embed(images[:batch])
                assert np.sum(found * expected[:batch], axis=1).min() > MIN_COSINE[precision]


@pytest.mark.skipif(not offers("cuda"), reason="the installed ONNX Runtime has no CUDA part: pip install 'dphr[gpu]'")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_onnxruntime_on_the_gpu_gives_the_embeddings_of_the_cpu(precision: Any) -> None:
    bundle = open_bundle(BUNDLE)
    images, _ = bundle.read_selftest()
    with (
        open_engine(bundle, DeviceSettings("cuda-onnxruntime", precision)) as on_gpu,
        open_engine(bundle, DeviceSettings("cpu", precision)) as on_cpu,
    ):
        for batch in (1, len(images)):
            found, expected = on_gpu.embed(images[:batch]), on_cpu.embed(images[:batch])
            assert np.sum(found * expected, axis=1).min() > MIN_COSINE[precision]


@pytest.fixture(scope="module")
def gallery() -> np.ndarray:
    """float16 (50, D): embeddings of random pictures."""
    bundle = open_bundle(BUNDLE)
    with open_engine(bundle) as engine:
        embedder = Embedder(bundle.manifest.preprocess, engine)
        return embedder.embed_images([random_frame(200, 200, seed) for seed in range(50)]).astype(np.float16)


@pytest.fixture(scope="module")
def pipeline(tensorrt: Any, gallery: np.ndarray) -> Iterator[GpuPipeline]:
    with GpuPipeline(open_bundle(BUNDLE), gallery, "fp32") as opened:
        yield opened


def random_bytes(pixels: str, seed: int) -> np.ndarray:
    """A frame of FRAMES as its bytes."""
    if pixels == "rgb":
        return random_frame(1080, 1920, seed).reshape(-1)
    luma, chroma = random_frame(1080, 1920, seed)[..., 0], random_frame(540, 960, seed + 100)[..., :2]
    return np.concatenate([luma.reshape(-1), chroma.reshape(-1)])


def by_match(pipeline: GpuPipeline, frames: list[np.ndarray], *how: Any) -> list[Matches]:
    return [pipeline.match(frame, 5, *how) for frame in frames]


def by_two_on_their_way(pipeline: GpuPipeline, frames: list[np.ndarray], *how: Any) -> list[Matches]:
    found = []
    pipeline.submit(frames[0], 5, *how)
    for frame in frames[1:]:
        pipeline.submit(frame, 5, *how)
        found.append(pipeline.collect())
    return [*found, pipeline.collect()]


def by_lent_memory(pipeline: GpuPipeline, frames: list[np.ndarray], degrees: Any, ranges: Any, layout: Any) -> Any:
    found = []
    for frame in frames:
        memory = pipeline.frame_memory(layout, mode_of(degrees))
        memory[:] = frame
        found.append(pipeline.match(memory, 5, degrees, ranges, layout))
    return found


@pytest.mark.parametrize("way", [by_match, by_two_on_their_way, by_lent_memory])
@pytest.mark.parametrize("ranges", [None, RANGES])
@pytest.mark.parametrize("degrees", [None, 20.0])
@pytest.mark.parametrize("pixels", ["rgb", "nv12"])
def test_the_pipeline_gives_the_cpus_matches(
    pipeline: GpuPipeline, gallery: np.ndarray, pixels: str, degrees: float | None, ranges: Any, way: Any
) -> None:
    bundle, layout = open_bundle(BUNDLE), FRAMES[pixels]
    side = longer_side_px(bundle.manifest.preprocess)
    frames = [random_bytes(pixels, seed) for seed in range(6)]
    pictures = [to_rgb(frame, layout) for frame in frames]
    views = [picture if degrees is None else rotate_square(picture, degrees, side) for picture in pictures]
    pipeline.drop()
    answers = way(pipeline, frames, degrees, ranges, layout)
    with open_engine(bundle) as engine, NumpyExactMatcher(gallery) as matcher:
        queries = Embedder(bundle.manifest.preprocess, engine).embed_images(views)
        for query, found in zip(queries, answers, strict=True):
            expected = matcher.match(query[None], 5, ranges)
            np.testing.assert_allclose(found.similarity, expected.similarity, atol=2e-3)
            # Rows may swap where two similarities lie nearer than the GPU's rounding.
            exact = gallery[found.rows[0]].astype(np.float32) @ query
            np.testing.assert_allclose(exact, expected.similarity[0], atol=2e-3)
            assert ranges is None or all(any(start <= row < stop for start, stop in ranges) for row in found.rows[0])
