"""Localizers on a GPU against those on a CPU."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from dphr_infer.errors import ConfigError, EngineError, ImageError
from dphr_infer.geo import distance_m
from dphr_infer.images.metadata import PhotoMetadata
from dphr_infer.images.photo import Photo
from dphr_infer.locate import devices
from dphr_infer.locate.gpu_pipeline import GpuPipeline
from dphr_infer.locate.open import open_localizer
from dphr_infer.measure.machine import usable_cores
from dphr_infer.types import GeoPoint, Prior

pytestmark = pytest.mark.kernels


def around(point: GeoPoint, radius_m: float) -> Prior:
    return Prior(point.latitude_deg, point.longitude_deg, radius_m)


@pytest.mark.parametrize("heading", ["as-is", "north"])
def test_a_localizer_on_the_gpu_says_what_the_cpus_says(
    gpu: Any, bundle: Any, image: np.ndarray, map_gallery: Any, heading: Any
) -> None:
    with (
        open_localizer(bundle, map_gallery, heading=heading) as on_cpu,
        open_localizer(bundle, map_gallery, device="cuda", heading=heading) as on_gpu,
    ):
        for left in (0, 60, 200, 90):
            photo = np.ascontiguousarray(image[50:150, left : left + 120])
            for prior in (None, around(map_gallery.point(10), 60.0)):
                expected, found = (one.locate(photo, yaw_deg=10.0, prior=prior) for one in (on_cpu, on_gpu))
                assert [p.row for p in found.places] == [p.row for p in expected.places]
                assert found.similarity == pytest.approx(expected.similarity, abs=2e-6)
                assert (found.point, found.rotation_deg) == (expected.point, expected.rotation_deg)
        photos = [
            Photo(np.ascontiguousarray(image[50:150, left : left + 120]), metadata=PhotoMetadata(yaw_deg=yaw_deg))
            for left, yaw_deg in ((0, 10.0), (60, 20.0), (200, 30.0))
        ]
        many, expected = (list(one.locate_each(photos)) for one in (on_gpu, on_cpu))
        assert [found.point for found in many] == [found.point for found in expected]
        with pytest.raises(ImageError, match="The image is 8x8 px"):
            list(on_gpu.locate_each([photos[0], np.zeros((8, 8, 3), np.uint8)]))
        skipped = on_gpu.locate_each([photos[0], np.zeros((8, 8, 3), np.uint8), *photos[1:]], on_error=lambda *_: None)
        assert [found.point for found in skipped] == [found.point for found in expected]
        assert on_gpu.locate(photos[2]).point == expected[2].point != expected[0].point
    assert gpu.graphs.launches >= 5 and not gpu.device_memory and gpu.retained == 0


def test_on_the_gpu_photos_are_rectified_and_verified_as_on_the_cpu(gpu: Any, bundle: Any, town_site: Any) -> None:
    pytest.importorskip("cv2")
    paths = [town_site.folder / "photos" / name for name in ("down.jpg", "black.png", "oblique.jpg")]
    settings = {"map": town_site.folder / "map.pack", "candidates": 2}
    with (
        open_localizer(bundle, town_site.folder / "g", **settings) as on_cpu,
        open_localizer(bundle, town_site.folder / "g", device="cuda", **settings) as on_gpu,
    ):
        found, expected = (list(one.locate_each(paths)) for one in (on_gpu, on_cpu))
        assert on_gpu.in_one_launch
    assert [one.verdict for one in found] == ["verified", "none", "verified"]
    for one, other in zip(found, expected, strict=True):
        assert [place.row for place in one.places] == [place.row for place in other.places]
        assert (one.verdict, one.reason, one.rotation_deg) == (other.verdict, other.reason, other.rotation_deg)
        assert distance_m(one.point, other.point) < 0.01


def test_a_gallery_that_does_not_fit_on_the_gpu_is_streamed_and_answers_alike(
    gpu: Any,
    bundle: Any,
    image: np.ndarray,
    map_gallery: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = devices.open_engine(bundle)  # as any that embeds: what counts is the matcher behind it
    monkeypatch.setattr(devices.Cuda, "open_engine", lambda *_: engine)
    gpu.others_bytes = gpu.memory_bytes - gpu.memory_bytes // 8  # the margin is all that is left
    photo = np.ascontiguousarray(image[50:150, 60:180])
    with open_localizer(bundle, map_gallery, device="cuda") as crowded, open_localizer(bundle, map_gallery) as on_cpu:
        assert not crowded.in_one_launch
        found, expected = crowded.locate(photo), on_cpu.locate(photo)
    assert [place.row for place in found.places] == [place.row for place in expected.places]
    assert "The gallery takes" in caplog.text


def test_a_search_over_headings_embeds_and_matches_apart(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, bundle: Any, map_gallery: Any
) -> None:
    entered = []
    monkeypatch.setattr(devices, "GpuPipeline", lambda *_: entered.append("pipeline"))
    with open_localizer(bundle, map_gallery, device="cuda", heading="search"):
        assert entered == [] and gpu.retained == 2  # the engine and the matcher
    assert gpu.retained == 0


@pytest.mark.parametrize("top_k", [33, 5000])
@pytest.mark.parametrize("device", ["cuda", "cuda-onnxruntime"])
def test_as_many_matches_as_asked_for_are_found_where_embedding_and_matching_are_apart(
    gpu: Any, bundle: Any, map_gallery: Any, monkeypatch: pytest.MonkeyPatch, device: str, top_k: int
) -> None:
    engine = devices.open_engine(bundle)  # as any that embeds: what counts is the matcher behind it
    monkeypatch.setattr(type(devices.DEVICES[device]), "open_engine", lambda *_: engine)
    query = np.ascontiguousarray(map_gallery.embeddings[:1], np.float32)
    with open_localizer(bundle, map_gallery, device=device, heading="search", top_k=top_k) as localizer:
        found = localizer.match(query)
    assert found.rows.shape == (1, min(top_k, 35)) and found.rows[0, 0] == 0


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_no_matches_are_refused_in_the_same_words_on_every_device(
    gpu: Any, bundle: Any, map_gallery: Any, device: str
) -> None:
    with (
        pytest.raises(ConfigError, match="`top_k` is 0; expected a whole number, at least 1"),
        open_localizer(bundle, map_gallery, device=device, top_k=0),
    ):
        pass
    assert gpu.retained == 0


@pytest.mark.parametrize(("threads", "expected"), [(None, usable_cores()), (1, 1), (3, 3)])
def test_the_threads_that_are_asked_for_are_the_matchers_too(
    bundle: Any, map_gallery: Any, threads: int | None, expected: int
) -> None:
    with open_localizer(bundle, map_gallery, threads=threads) as localizer:
        assert localizer._matcher._scan._threads == expected


def test_a_second_threads_photo_is_refused_while_ones_is_on_its_way(
    gpu: Any, bundle: Any, image: np.ndarray, map_gallery: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = (np.ascontiguousarray(image[50:150, left : left + 120]) for left in (0, 200))
    submit, refused = GpuPipeline.submit, []

    def between(pipeline: GpuPipeline, *arguments: Any) -> None:
        submit(pipeline, *arguments)
        monkeypatch.setattr(GpuPipeline, "submit", submit)
        with pytest.raises(EngineError, match="in use by another thread"):
            pool.submit(localizer.locate, theirs).result()
        refused.append(theirs)

    with (
        ThreadPoolExecutor(1) as pool,
        open_localizer(bundle, map_gallery, device="cuda") as localizer,
        open_localizer(bundle, map_gallery) as on_cpu,
    ):
        monkeypatch.setattr(GpuPipeline, "submit", between)
        assert localizer.locate(mine).point == on_cpu.locate(mine).point
        assert len(refused) == 1
        assert pool.submit(localizer.locate, theirs).result().point == on_cpu.locate(theirs).point


def test_threads_share_a_localizer_on_a_cpu(bundle: Any, image: np.ndarray, map_gallery: Any) -> None:
    photos = [np.ascontiguousarray(image[50:150, left : left + 120]) for left in range(0, 280, 20)]
    with open_localizer(bundle, map_gallery) as localizer, ThreadPoolExecutor(4) as pool:
        one_by_one = [localizer.locate(photo) for photo in photos]
        assert list(pool.map(localizer.locate, photos)) == one_by_one
