"""A camera's frames through a localizer on a GPU: NV12, lent memory, and two on their way."""

from __future__ import annotations

import csv
import io
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from dphr_infer.errors import ImageError
from dphr_infer.images.frame_format import FrameFormat, nv12_frames
from dphr_infer.images.metadata import PhotoMetadata
from dphr_infer.images.photo import Photo
from dphr_infer.locate import views
from dphr_infer.locate.gpu_pipeline import GpuPipeline
from dphr_infer.locate.localizer import Localizer
from dphr_infer.locate.open import open_localizer
from dphr_infer.types import LocationEstimate
from dphr_infer.watch.frames import Frame, Notices
from dphr_infer.watch.settings import SourceSettings
from dphr_infer.watch.video import open_source
from dphr_infer.watch.watch import watch

LAYOUT = nv12_frames(120, 100, matrix="bt601", colour_range="full")
TINY = Photo(np.zeros((8, 8, 3), np.uint8), "tiny")


def nv12_of(image: np.ndarray) -> np.ndarray:
    """uint8 (150, 120): any picture (100, 120, 3) as luma and chroma; which colours these are does not matter."""
    return np.concatenate([image[..., 0], image[::2, ::2, 1:].reshape(50, 120)])


@pytest.fixture(scope="module")
def crops(image: np.ndarray) -> list[np.ndarray]:
    """Five parts of the map, uint8 (100, 120, 3)."""
    return [np.ascontiguousarray(image[50:150, left : left + 120]) for left in (0, 60, 200, 90, 250)]


@pytest.fixture
def flown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What pipelines are asked for from now on, in order: "submit" and "collect"."""
    asked: list[str] = []
    for name in ("submit", "collect"):
        really = getattr(GpuPipeline, name)

        def noted(pipeline: GpuPipeline, *arguments: Any, name: str = name, really: Any = really) -> Any:
            found = really(pipeline, *arguments)
            asked.append(name)
            return found

        monkeypatch.setattr(GpuPipeline, name, noted)
    return asked


def assert_same(found: LocationEstimate, expected: LocationEstimate, within: float = 2e-6) -> None:
    assert [place.row for place in found.places] == [place.row for place in expected.places]
    assert found.similarity == pytest.approx(expected.similarity, abs=within)
    assert (found.point, found.accepted, found.rotation_deg) == (
        expected.point,
        expected.accepted,
        expected.rotation_deg,
    )


OBLIQUE = {"height_m": 45.0, "pitch_deg": -65.0, "fov_deg": 70.0, "yaw_deg": 20.0}


# A frame that is turned or rectified may differ by a level in a pixel.
@pytest.mark.parametrize(("settings", "within"), [({}, 2e-6), ({"heading": "north"}, 5e-5), (OBLIQUE, 5e-5)])
def test_a_camera_that_writes_nv12_into_lent_memory_gets_the_cpus_answers(
    gpu: Any,
    bundle: Any,
    map_gallery: Any,
    crops: list[np.ndarray],
    settings: Any,
    within: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def photo(frame: np.ndarray, number: int) -> Photo:
        return Photo(frame, metadata=PhotoMetadata(yaw_deg=10.0 * number), frame_format=LAYOUT)

    def copies_allowed(localizer: Localizer, allowed: bool) -> None:
        for opened in localizer._pipeline._formats.values():  # type: ignore[union-attr]
            opened._staged.flags.writeable = allowed  # a copy would raise

    frames = [nv12_of(crop).reshape(-1) for crop in crops]
    with open_localizer(bundle, map_gallery, **settings) as on_cpu:
        assert on_cpu.frame_memory(LAYOUT) is None
        expected = [on_cpu.locate(photo(frame, number)) for number, frame in enumerate(frames)]
    found = []
    for on_a_cpu in ("rectify", "rotate_square"):
        monkeypatch.delattr(views, on_a_cpu)
    with open_localizer(bundle, map_gallery, device="cuda", **settings) as localizer:
        for number, frame in enumerate(frames):
            memory = localizer.frame_memory(LAYOUT)
            assert memory is not None and memory.shape == (LAYOUT.padded_bytes,)
            memory[:] = frame
            copies_allowed(localizer, False)
            localizer.start(photo(memory, number))
            copies_allowed(localizer, True)
            if number >= 1:
                found.append(localizer.finish())
        found.append(localizer.finish())
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other, within)
        assert_same(localizer.locate(photo(frames[2], 2)), expected[2], within)  # from elsewhere: it is copied
    assert not gpu.device_memory and gpu.retained == 0


def rows_of(localizer: Localizer, pipeline: str) -> list[dict[str, str]]:
    """What `watch` says of a camera's frames until it stops."""
    out = io.StringIO()
    settings = SourceSettings(reconnects=0, pixels="nv12", colour_matrix="bt601", colour_range="full")
    source = open_source(pipeline, settings)
    with localizer, pytest.raises(ImageError, match=r"stopped sending .* 5 frames were located until then"):
        watch(source, localizer, None, "csv", queue_length=5, out=out, notices=Notices(io.StringIO()))
    return list(csv.DictReader(io.StringIO(out.getvalue())))


def test_watch_locates_a_cameras_nv12_on_the_gpu_as_on_a_cpu(
    gpu: Any, bundle: Any, map_gallery: Any, crops: list[np.ndarray], nv12_camera: Any
) -> None:
    pipeline, lines, layouts = "camera ! video/x-raw,format=NV12 ! appsink", [], set[FrameFormat]()
    submit = GpuPipeline.submit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GpuPipeline, "submit", lambda *given: layouts.add(given[5]) or submit(*given))
        for device in ("cpu", "cuda"):
            nv12_camera([nv12_of(crop) for crop in crops])
            lines.append(rows_of(open_localizer(bundle, map_gallery, device=device), pipeline))
    assert layouts == {LAYOUT}
    told = ("frame", "latitude_deg", "longitude_deg", "accepted", "radius_m")
    on_cpu, on_gpu = ([[row[name] for name in told] for row in rows] for rows in lines)
    assert on_gpu == on_cpu and len({row[1] + row[2] for row in on_cpu}) > 1


def test_the_next_photo_is_submitted_before_the_one_before_is_collected(
    gpu: Any, bundle: Any, map_gallery: Any, crops: list[np.ndarray], flown: list[str]
) -> None:
    with open_localizer(bundle, map_gallery, device="cuda") as localizer:
        fixes = localizer.locate_each(crops[:4])
        next(fixes)
        assert flown == ["submit", "submit", "collect"]
        list(fixes)
    assert flown == ["submit", "submit", "collect", "submit", "collect", "submit", "collect", "collect"]


def test_a_photo_at_fault_in_the_middle_costs_no_other_its_answer(
    gpu: Any, bundle: Any, map_gallery: Any, crops: list[np.ndarray]
) -> None:
    with open_localizer(bundle, map_gallery) as on_cpu:
        expected = list(on_cpu.locate_each(crops))
    with open_localizer(bundle, map_gallery, device="cuda") as localizer:
        failed: list[Any] = []
        given = [crops[0], TINY, crops[1], "none.jpg", *crops[2:]]
        found = list(localizer.locate_each(given, on_error=lambda photo, _: failed.append(photo)))
        assert failed == [TINY, "none.jpg"]
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
        # Without on_error the photos before it are answered first, as on a CPU.
        fixes = localizer.locate_each([crops[0], crops[1], TINY, crops[2]])
        assert_same(next(fixes), expected[0])
        assert_same(next(fixes), expected[1])
        with pytest.raises(ImageError, match="8x8 px"):
            next(fixes)
        assert_same(localizer.locate(crops[2]), expected[2])


def test_a_loop_that_is_left_early_leaves_nothing_on_its_way(
    gpu: Any, bundle: Any, map_gallery: Any, crops: list[np.ndarray], flown: list[str]
) -> None:
    with open_localizer(bundle, map_gallery) as on_cpu:
        expected = list(on_cpu.locate_each(crops))
    with open_localizer(bundle, map_gallery, device="cuda") as localizer:
        fixes = localizer.locate_each(crops)
        assert_same(next(fixes), expected[0])
        assert flown.count("submit") == flown.count("collect") + 1
        fixes.close()  # type: ignore[attr-defined]
        assert_same(localizer.locate(crops[3]), expected[3])
        for one, other in zip(localizer.locate_each(crops), expected, strict=True):
            assert_same(one, other)
    assert gpu.retained == 0


class Burst:
    """Frames that are all there before the first is located."""

    name, has_yaw, silence_s = "the camera", False, None

    def __init__(self, images: list[np.ndarray]) -> None:
        self.images, self.all_there = images, threading.Event()

    def frames(self, stop: threading.Event, notices: Notices) -> Iterator[Frame]:
        for number, image in enumerate(self.images, 1):
            notices.given += 1
            yield Frame(number, self.name, image, 0.0, None, None, hurry=False)
        self.all_there.set()


def test_watch_keeps_two_frames_on_a_gpus_way_and_a_bad_one_costs_no_other_its_answer(
    gpu: Any,
    bundle: Any,
    map_gallery: Any,
    crops: list[np.ndarray],
    flown: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, out = Burst([crops[0], TINY.image, *crops[1:3]]), io.StringIO()
    submit = GpuPipeline.submit
    monkeypatch.setattr(GpuPipeline, "submit", lambda *given: source.all_there.wait(20) and submit(*given))
    with open_localizer(bundle, map_gallery, device="cuda") as localizer:
        assert localizer.most_on_the_way == 2
        summary = watch(source, localizer, None, "csv", queue_length=9, out=out, notices=Notices(io.StringIO()))
    assert flown == ["submit", "submit", "collect", "submit", "collect", "collect"]
    assert (summary.given, summary.located, summary.failed, summary.dropped) == (4, 3, 1, 0)
    rows = list(csv.DictReader(io.StringIO(out.getvalue())))
    with open_localizer(bundle, map_gallery) as on_cpu:
        expected = [on_cpu.locate(crop).point for crop in crops[:3]]
    assert [row["frame"] for row in rows] == ["1", "3", "4"]
    assert [float(row["latitude_deg"]) for row in rows] == pytest.approx([one.latitude_deg for one in expected])
    assert [float(row["longitude_deg"]) for row in rows] == pytest.approx([one.longitude_deg for one in expected])
