from __future__ import annotations

import dataclasses
import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bench.cases.camera import camera
from bench.cases.endurance import WINDOWS, endure, find_drift
from bench.cases.photo import Raw, multi_stream, offline, single_stream, throttled_samples, to_record
from bench.cases.rig import STAGES, MeasuredLocalizer, Rig, open_rig
from bench.machine.power import PowerSample
from bench.sampling import MIN_CALLS, WARM_UP_CALLS, StopRule, sample_whole
from dphr_infer.cli.requests import Search
from dphr_infer.errors import ConfigError
from dphr_infer.files.bundle import SELFTEST_IMAGES, Bundle
from dphr_infer.files.gallery import Gallery, open_gallery
from dphr_infer.images.preprocess import list_images
from dphr_infer.locate.localizer import Localizer
from dphr_infer.types import LocationEstimate


def opened(bundle: Bundle, gallery: Path, search: Search) -> Iterator[Rig]:
    paths = list_images(bundle.folder / SELFTEST_IMAGES)
    with open_rig(bundle, open_gallery(gallery), search, paths) as rig:
        yield rig


@pytest.fixture
def rig(bundle: Bundle, gallery: Path) -> Iterator[Rig]:
    yield from opened(bundle, gallery, Search())


@pytest.fixture
def rig_with_prior(bundle: Bundle, gallery: Path) -> Iterator[Rig]:
    yield from opened(bundle, gallery, Search(near="46.01,8.0", within=300.0))


def test_stages_and_the_whole_are_timed_equally_often_on_every_photo(rig: Rig) -> None:
    raw = single_stream(rig, StopRule(0.05))
    assert tuple(raw.stage_ms) == STAGES
    assert {len(values) for values in (raw.duration_ms, raw.start_ms, *raw.stage_ms.values())} == {len(raw.start_ms)}
    assert all((values > 0).all() for values in raw.stage_ms.values())
    assert (raw.photos, raw.extra["answers_differing"]) == (2 * len(raw.duration_ms), 0)


def test_the_stages_run_the_localizers_own_code(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each photo passes every stage of the localizer twice: alone and inside `locate`."""
    calls: list[str] = []
    names = ("prepare", "embed", "match", "estimate")
    for name in names:
        original = getattr(Localizer, name)

        def counted(self: Localizer, *arguments: object, _name: str = name, _original: object = original) -> object:
            calls.append(_name)
            return _original(self, *arguments)  # type: ignore[operator]

        monkeypatch.setattr(Localizer, name, counted)
    raw = single_stream(rig, StopRule(0))
    assert {name: calls.count(name) for name in calls} == dict.fromkeys(names, raw.photos + WARM_UP_CALLS)


def test_both_ways_of_a_photo_and_locate_itself_give_the_same_estimate(rig: Rig, rig_with_prior: Rig) -> None:
    for one in (rig, rig_with_prior):
        path = one.paths[0]
        plain = one.localizer.locate(path, prior=one.prior)
        assert one.locate(path) == plain
        assert one.locate_in_stages(path)[0] == plain
        assert one.locate_batch([path])[0] == plain


def test_with_a_prior_its_rows_are_a_stage_of_its_own_that_a_photo_pays_once(
    rig_with_prior: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Gallery.rows_within

    def slow(self: Gallery, *arguments: object) -> object:
        time.sleep(0.02)
        return original(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Gallery, "rows_within", slow)
    rig = rig_with_prior
    first, second = (dict(zip(rig.stages, rig.locate_in_stages(rig.paths[0])[1], strict=True)) for _ in range(2))
    assert tuple(first) == ("decode", "prior", "prepare", "embed", "match", "estimate")
    assert first["prior"] >= 20 > first["match"] > 0
    assert second["prior"] < 20


def test_an_answer_that_changes_from_call_to_call_is_counted(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    original, turn = Rig.locate, itertools.count()

    def unsteady(self: Rig, path: Path) -> LocationEstimate:
        found = original(self, path)
        turned = path == self.paths[1] and next(turn) % 2
        return dataclasses.replace(found, places=found.places[::-1]) if turned else found

    monkeypatch.setattr(Rig, "locate", unsteady)
    assert single_stream(rig, StopRule(0.05)).extra["answers_differing"] == 1


def test_a_sample_of_multi_stream_is_a_batch_and_offline_counts_photos_by_wall_time(rig: Rig) -> None:
    raw = multi_stream(rig, 3, StopRule(0))
    assert (len(raw.duration_ms), raw.photos) == (MIN_CALLS, 3 * MIN_CALLS)
    whole = offline(rig, 2, StopRule(0.05, 1.0))  # the noise does not end it
    start_s, stop_s = whole.span_s
    assert whole.extra["photos_per_s"] == pytest.approx(2 * len(whole.duration_ms) / (stop_s - start_s), rel=0.05)
    assert stop_s - start_s >= 0.045


def test_an_interrupt_within_a_case_ends_the_run_and_not_the_case_alone() -> None:
    calls = []

    def interrupted() -> None:
        calls.append(1)
        if len(calls) == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample_whole(interrupted, StopRule(60.0))
    assert len(calls) == 30


def reading(t_s: float, throttled: bool | None) -> PowerSample:
    return PowerSample(t_s, {}, {}, {}, throttled)


def test_samples_that_overlap_a_throttled_time_are_left_out_and_counted() -> None:
    """Readings at 0, 1 and 2 s; the second says that it was throttled since the first, so 0..1 s is spoilt."""
    start_ms, duration_ms = np.array([-500.0, -500, 200, 990, 1000, 1500]), np.array([400.0, 600, 10, 20, 5, 900])
    timeline = [reading(0, False), reading(1, True), reading(2, False), reading(3, None)]
    hit = throttled_samples(start_ms, duration_ms, timeline)
    assert hit.tolist() == [False, True, True, True, False, False]
    raw = Raw("camera", {}, start_ms, duration_ms, {"wait": duration_ms / 2}, 6, "time")
    record = to_record(raw, timeline, 12.5)
    assert record.samples_ms == (400.0, 5.0, 900.0)
    assert record.stage_samples_ms == {"wait": (200.0, 2.5, 450.0)}
    assert (record.extra["throttled_discarded"], record.extra["energy_per_photo_mj"]) == (3, 12.5)
    assert record.extra["difference_p50_ms"] == 200.0
    nothing = to_record(raw, [reading(-9, None), reading(9, True)], None)
    assert (nothing.latency, nothing.samples_ms, nothing.extra["throttled_discarded"]) == (None, (), 6)


def test_the_difference_is_the_median_of_the_whole_minus_the_sum_of_its_stages() -> None:
    stages = {stage: np.array([1.0, 1.0, 2.0]) for stage in STAGES}
    raw = Raw("single-stream", {}, np.arange(3.0), np.array([6.0, 5.5, 100.0]), stages, 3, "time")
    assert to_record(raw, [], None).extra["difference_p50_ms"] == pytest.approx(1.0)


def locating_for(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    original = MeasuredLocalizer.finish

    def slow(self: MeasuredLocalizer) -> LocationEstimate:
        time.sleep(seconds)
        return original(self)

    monkeypatch.setattr(MeasuredLocalizer, "finish", slow)


def test_a_slow_localizer_misses_the_older_frames_and_answers_with_age(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """50 Hz and 45 ms a photo: at most one frame in two is answered, and the last that waits is never dropped."""
    locating_for(0.045, monkeypatch)
    raw = camera(rig, 50, 0.5)
    assert raw.extra["frames"] == 25
    assert raw.extra["answered"] + raw.extra["missed"] == 25
    assert 5 <= raw.extra["answered"] <= 13
    assert raw.extra["missed_share"] == raw.extra["missed"] / 25
    assert (raw.duration_ms >= 45).all()
    assert raw.duration_ms == pytest.approx(raw.stage_ms["decode"] + raw.stage_ms["wait"] + raw.stage_ms["locate"])
    assert (raw.stage_ms["wait"] > 0).all()
    assert raw.extra["answers_per_s"] < 23


def test_a_fast_localizer_misses_nothing_and_each_frame_is_due_on_time(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    locating_for(0.0, monkeypatch)
    raw = camera(rig, 20, 0.5)
    assert (raw.extra["frames"], raw.extra["answered"], raw.extra["missed"]) == (10, 10, 0)
    assert np.diff(raw.start_ms) == pytest.approx(np.full(9, 50.0))
    assert raw.extra["jitter"]["n"] == 9


def test_an_interrupted_camera_keeps_its_answers_and_ends_its_thread(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = MeasuredLocalizer.finish, itertools.count(1)

    def interrupted(self: MeasuredLocalizer) -> LocationEstimate:
        if next(calls) == 4:
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(MeasuredLocalizer, "finish", interrupted)
    raw = camera(rig, 100, 60)
    assert (raw.stopped, raw.extra["answered"]) == ("interrupt", 3)
    assert not [thread for thread in threading.enumerate() if thread.name == "frame reader"]


def test_a_camera_without_time_for_a_frame_is_refused(rig: Rig) -> None:
    with pytest.raises(ConfigError, match=r"A camera of 0\.5 Hz takes no frame in 1 s"):
        camera(rig, 0.5, 1)


def drifting(minutes: float) -> Raw:
    """A photo each second: 10 ms in the first half of the time, 12 in the second."""
    start_ms = 1e3 * np.arange(0.0, 60 * minutes)
    return Raw("endurance", {}, start_ms, np.where(np.arange(len(start_ms)) < 30 * minutes, 10.0, 12.0), {}, 1, "time")


def test_drift_is_the_last_third_over_the_first_and_windows_cover_all_samples() -> None:
    found = find_drift(drifting(10), [])
    assert found["drift_share"] == pytest.approx(0.2)
    assert len(found["windows"]) == WINDOWS
    assert sum(window["n"] for window in found["windows"]) == 600
    assert [window["p50_ms"] for window in found["windows"]] == [10.0] * 15 + [12.0] * 15
    assert found["spread_share"] == pytest.approx(2 / 11)
    # A step from 10 to 12 in the middle of T has the slope 1.5 * 2 / T: here 3 ms in ten minutes, over 11 ms.
    assert found["slope_share_per_hour"] == pytest.approx(6 * 3 / 11, rel=0.01)
    assert find_drift(drifting(2), [])["slope_share_per_hour"] is None


def test_throttled_samples_are_left_out_of_the_windows_and_counted_there() -> None:
    found = find_drift(drifting(10), [reading(299.5, False), reading(1000, True)])
    assert found["drift_share"] is None
    assert sum(window["discarded"] for window in found["windows"]) == 300
    assert found["windows"][-1] == {
        "t_s": pytest.approx(599.012 * 29.5 / 30),
        "n": 0,
        "p50_ms": None,
        "discarded": 20,
        "resident_bytes": None,
    }


def test_memory_is_told_at_most_of_each_window_and_its_growth_from_the_first_third_to_the_last() -> None:
    raw = drifting(10)
    noted = [(1e3 * second, 100 + second // 200) for second in range(600)]
    found = find_drift(dataclasses.replace(raw, extra={"memory": [*noted, (250e3, 150)]}), [])
    assert [window["resident_bytes"] for window in found["windows"]] == [100] * 10 + [101, 101, 150] + [101] * 7 + [
        102
    ] * 10
    assert found["memory_growth_share"] == pytest.approx(0.02)
    assert find_drift(raw, [])["memory_growth_share"] is None


def test_endurance_locates_the_photos_in_turn_for_all_of_the_time(rig: Rig) -> None:
    raw = endure(rig, 0.002)
    assert raw.start_ms[-1] - raw.start_ms[0] >= 100
    assert raw.stopped == "time"
    assert raw.photos == len(raw.duration_ms)
    assert raw.extra["memory"][0][1] > 10e6
