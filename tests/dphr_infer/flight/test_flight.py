from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from made_galleries import STRIDE_M, TILE_M, grid_gallery
from safetensors.numpy import load_file, save_file

from dphr_infer.errors import FlightError
from dphr_infer.files.gallery import Gallery
from dphr_infer.flight.fix import Fix, NoFix, Odometry, RegisteredPoint
from dphr_infer.flight.flight import Flight, FlightStep
from dphr_infer.flight.settings import FilterSettings
from dphr_infer.geo import distance_m
from dphr_infer.types import GeoPoint, LocationEstimate, Matches, Place, Prior

SIDE = 40
GALLERY = grid_gallery(SIDE, SIDE)
_PARTS = round(TILE_M / STRIDE_M)


class Ground:
    """A landscape: a random vector per square of a stride; a tile looks like the mean of its own, a photo nearly so."""

    def __init__(self, seed: int) -> None:
        self.squares = np.random.default_rng(seed).standard_normal((SIDE + _PARTS, SIDE + _PARTS, 12))

    def look(self, column: int, row: int) -> np.ndarray:
        seen = self.squares[row : row + _PARTS, column : column + _PARTS].mean(axis=(0, 1))
        return seen / np.linalg.norm(seen)

    def tiles(self) -> np.ndarray:
        return np.stack([self.look(i % SIDE, i // SIDE) for i in range(SIDE * SIDE)])


@dataclasses.dataclass
class Frame:
    """A photo's matches on the map of `ground`, how far the camera moved, and where it is."""

    time_s: float
    matches: Matches
    east_m: float
    truth: GeoPoint


def frames_over(photographed: Ground, map_of: Ground, count: int = 50, seed: int = 0, row: int = 20) -> Iterator[Frame]:
    """East along a row, 0.6 strides per frame, top 16 matches, photos with noise."""
    rng, tiles, flight = np.random.default_rng(seed), map_of.tiles(), Flight(GALLERY)
    for number in range(count):
        column = 3 + 0.6 * number
        seen = photographed.look(round(column), row) + rng.normal(0, 0.18, 12)
        similarity = tiles @ (seen / np.linalg.norm(seen))
        rows = np.argsort(-similarity)[:16]
        matches = Matches(rows[None].astype(np.int32), similarity[rows][None].astype(np.float32))
        middle = (SIDE - 1) / 2
        truth = flight.lattice.point((column - middle) * STRIDE_M, (row - middle) * STRIDE_M)
        yield Frame(2.0 * number, matches, 0.0 if number == 0 else 0.6 * STRIDE_M, truth)


def motion(frame: Frame, scale: float = 1.0) -> Odometry:
    sigma = 0.08 * frame.east_m + 0.02 * TILE_M
    return Odometry(scale * frame.east_m, 0.0, np.eye(2) * sigma**2)


def fly(flight: Flight, frames: list[Frame], scale: float = 1.0) -> list[FlightStep]:
    return [flight.step(frame.time_s, frame.matches, motion(frame, scale)) for frame in frames]


def errors_m(steps: list[FlightStep], frames: list[Frame]) -> list[float]:
    return [
        distance_m(step.fix.point, frame.truth)
        for step, frame in zip(steps, frames, strict=True)
        if isinstance(step.fix, Fix)
    ]


HOME = Ground(1)
FLOWN = list(frames_over(HOME, HOME))


def reasons(steps: list[FlightStep]) -> set[str]:
    return {step.fix.reason for step in steps if isinstance(step.fix, NoFix)}


def test_over_its_own_map_a_flight_gets_fixes_near_the_truth() -> None:
    steps = fly(Flight(GALLERY), FLOWN)
    assert isinstance(steps[0].fix, NoFix) and steps[0].fix.reason == "starting"
    errors = errors_m(steps, FLOWN)
    assert len(errors) > 30 and max(errors) < TILE_M and np.median(errors) < STRIDE_M
    last = steps[-1]
    assert isinstance(last.fix, Fix) and last.fix.source == "retrieved"
    assert last.fix.sigma_m == pytest.approx(math.sqrt(np.linalg.eigvalsh(last.fix.covariance)[-1]))
    assert STRIDE_M / 2 <= last.fix.protection_m < TILE_M
    assert last.track is not None and distance_m(last.track.point, FLOWN[-1].truth) < STRIDE_M
    assert last.track.mass == last.mass >= 0.98 and last.off < 0.02


@pytest.mark.parametrize("seed", range(4))
def test_over_another_map_there_is_no_fix(seed: int) -> None:
    steps = fly(Flight(GALLERY), list(frames_over(Ground(100 + seed), HOME, seed=seed)))
    assert reasons(steps) >= {"starting"} and not any(isinstance(step.fix, Fix) for step in steps)
    assert steps[-1].off > 0.5 or steps[-1].mass < 0.98


@pytest.mark.parametrize("scale", [0.7, 1.3])
def test_odometry_that_lies_by_30_percent_leads_to_no_wrong_fix(scale: float) -> None:
    for seed in range(4):
        frames = list(frames_over(HOME, HOME, seed=seed))
        assert all(error < TILE_M for error in errors_m(fly(Flight(GALLERY), frames, scale), frames))
        astray = list(frames_over(Ground(200 + seed), HOME, seed=seed))
        assert errors_m(fly(Flight(GALLERY), astray, scale), astray) == []


@pytest.mark.parametrize("told", ["backwards", "across", "standing"])
def test_odometry_of_another_direction_or_of_none_leads_to_no_wrong_fix(told: str) -> None:
    for seed in range(4):
        frames, flight, steps = list(frames_over(HOME, HOME, seed=seed)), Flight(GALLERY), []
        for frame in frames:
            east_m, north_m = {
                "backwards": (-frame.east_m, 0.0),
                "across": (0.0, frame.east_m),
                "standing": (0.0, 0.0),
            }[told]
            covariance = motion(frame).covariance
            steps.append(flight.step(frame.time_s, frame.matches, Odometry(east_m, north_m, covariance)))
        assert all(error < TILE_M for error in errors_m(steps, frames))


def test_without_odometry_there_is_no_fix_but_that_reason() -> None:
    flight = Flight(GALLERY)
    steps = [flight.step(frame.time_s, frame.matches, None) for frame in FLOWN[:10]]
    assert [step.fix for step in steps] == [NoFix("starting")] + [NoFix("no-motion")] * 9


def test_a_registration_far_from_the_last_one_is_no_fix_at_once_and_that_is_ambiguous() -> None:
    flight = Flight(GALLERY)
    sure = [RegisteredPoint(flight.lattice.point(east_m, 0.0), np.eye(2), 0.001) for east_m in (0.0, 3 * TILE_M)]
    assert isinstance(flight.step(0.0, None, None, sure[0]).fix, Fix)
    assert flight.step(1.0, None, None, sure[1]).fix == NoFix("ambiguous")
    assert flight.step(2.0, None, None, None).fix == NoFix("no-motion")


def test_hovering_weighs_nothing_twice() -> None:
    flight, still = Flight(GALLERY), Odometry(0.5, 0.0, np.eye(2) * 0.01)
    back = Odometry(-0.5, 0.0, np.eye(2) * 0.01)
    first = flight.step(0.0, FLOWN[0].matches, None)
    steps = [flight.step(0.1 * (i + 1), FLOWN[0].matches, back if i % 2 else still) for i in range(300)]
    assert first.weight == 0.3 and {step.weight for step in steps} == {0.0}
    assert reasons(steps) == {"no-motion"} and steps[-1].mass <= first.mass + 1e-9


def test_the_weight_is_the_new_ground_however_many_frames_it_takes() -> None:
    flight, step_m = Flight(GALLERY), 1.0
    weights = [
        flight.step(0.1 * i, FLOWN[0].matches, Odometry(step_m, 0.0, np.eye(2) * 0.01)).weight for i in range(101)
    ]
    assert sum(weights[1:]) == pytest.approx(1.0, abs=0.05)  # 100 m of a tile of 100 m
    assert sorted(set(np.round(weights[1:], 9))) == [0, 0.05]


def test_a_registration_is_the_fix_with_its_own_covariance() -> None:
    flight, covariance = Flight(GALLERY), np.array([[4.0, 1.0], [1.0, 2.0]])
    for frame in FLOWN[:30]:
        step = flight.step(frame.time_s, frame.matches, motion(frame), RegisteredPoint(frame.truth, covariance, 0.05))
    assert isinstance(step.fix, Fix) and step.fix.source == "registered"
    assert step.fix.point == FLOWN[29].truth and step.fix.covariance.tolist() == covariance.tolist()
    assert step.fix.protection_m < 10
    assert errors_m([step], [FLOWN[29]]) == [0]


def test_a_wrong_registration_is_never_the_fix() -> None:
    flight = Flight(GALLERY)
    fly(flight, FLOWN[:40])
    far = flight.lattice.point(-400.0, -400.0)
    for frame in FLOWN[40:43]:
        step = flight.step(frame.time_s, frame.matches, motion(frame), RegisteredPoint(far, np.eye(2), 0.05))
        assert isinstance(step.fix, NoFix) or step.fix.source == "retrieved"
        assert errors_m([step], [frame]) == [] or errors_m([step], [frame])[0] < TILE_M


def test_registrations_of_the_same_ground_count_once() -> None:
    flight = Flight(GALLERY)
    wrong = RegisteredPoint(flight.lattice.point(300.0, 300.0), np.eye(2), 0.05)
    first = flight.step(0.0, None, None, wrong)
    steps = [flight.step(0.1 * (i + 1), None, Odometry(0, 0, np.eye(2) * 1e-4), wrong) for i in range(50)]
    assert steps[-1].mass <= first.mass + 1e-9 and not any(isinstance(step.fix, Fix) for step in steps)


def test_after_being_carried_away_a_flight_recovers() -> None:
    flight = Flight(GALLERY)
    fly(flight, FLOWN[:35])
    elsewhere = list(frames_over(HOME, HOME, seed=9, row=6))
    moved = [dataclasses.replace(frame, time_s=frame.time_s + 70, east_m=0.6 * STRIDE_M) for frame in elsewhere]
    steps = fly(flight, moved)
    errors = errors_m(steps[10:], moved[10:])
    assert len(errors) > 15 and max(errors) < TILE_M


def test_a_frame_without_matches_has_no_fix_of_its_own() -> None:
    flight = Flight(GALLERY)
    fly(flight, FLOWN[:49])
    step = flight.step(FLOWN[49].time_s, None, motion(FLOWN[49]))
    assert step.fix == NoFix("no-match") and step.track is not None and step.mass >= 0.98


def test_a_prior_starts_near_it() -> None:
    start = FLOWN[0].truth
    flight = Flight(GALLERY, prior=Prior(start.latitude_deg, start.longitude_deg, 60.0))
    step = flight.step(0.0, FLOWN[0].matches, None)
    assert step.track is not None and distance_m(step.track.point, start) < TILE_M / 2
    with pytest.raises(FlightError, match="No tile"):
        Flight(GALLERY, prior=Prior(0.0, 0.0, 60.0))


@pytest.mark.parametrize(
    ("time_s", "words"),
    [(18.0, "a duplicate would count twice"), (17.0, "in the order of time"), (math.nan, "expected finite seconds")],
)
def test_frames_out_of_order_are_refused_and_change_nothing(time_s: float, words: str) -> None:
    flight, other = Flight(GALLERY), Flight(GALLERY)
    for one in (flight, other):
        fly(one, FLOWN[:10])
    with pytest.raises(FlightError, match=words) as error:
        flight.step(time_s, FLOWN[10].matches, motion(FLOWN[10]))
    assert "\n" not in str(error.value)
    assert_same(fly(flight, FLOWN[10:12]), fly(other, FLOWN[10:12]))


def assert_same(steps: list[FlightStep], others: list[FlightStep]) -> None:
    for step, other in zip(steps, others, strict=True):
        assert (step.mass, step.off, step.weight) == (other.mass, other.off, other.weight)
        assert type(step.fix) is type(other.fix) and (step.track is None) == (other.track is None)
        if isinstance(step.fix, Fix) and isinstance(other.fix, Fix):
            assert step.fix.point == other.fix.point and step.fix.protection_m == other.fix.protection_m


def test_motion_beyond_the_speed_limit_and_rows_of_another_gallery_are_refused() -> None:
    flight = Flight(GALLERY)
    flight.step(0.0, FLOWN[0].matches, None)
    with pytest.raises(FlightError, match=r"500.0 m in 2.000 s, beyond `max_speed_mps` 30"):
        flight.step(2.0, None, Odometry(500.0, 0.0, np.eye(2)))
    alien = Matches(np.array([[SIDE * SIDE]], np.int32), np.ones((1, 1), np.float32))
    with pytest.raises(FlightError, match=r"Row 1600 is matched, but the gallery has 1600"):
        flight.step(2.0, alien, None)


def test_over_a_gap_the_aircraft_may_have_gone_anywhere_within_its_speed() -> None:
    flight = Flight(GALLERY, FilterSettings(max_speed_mps=8.0))
    fly(flight, FLOWN)
    before = flight.step(100.0, None, Odometry(1.0, 0.0, np.eye(2)))
    assert before.track is not None
    after = flight.step(125.0, None, None)  # up to 200 m
    assert after.fix == NoFix("no-motion") and after.note == ""
    assert after.mass < 0.9
    known = Flight(GALLERY)
    fly(known, FLOWN)
    assert known.step(5000.0, None, Odometry(0.0, 0.0, np.eye(2))).mass > 0.95


@pytest.mark.parametrize(("time_s", "words"), [(-500.0, "clock jumped"), (1e7, "s of unknown motion")])
def test_a_clock_that_jumps_starts_the_flight_anew(time_s: float, words: str, caplog: pytest.LogCaptureFixture) -> None:
    flight = Flight(GALLERY)
    fly(flight, FLOWN)
    with caplog.at_level(logging.WARNING):
        step = flight.step(time_s, FLOWN[0].matches, None)
    assert step.fix == NoFix("starting") and words in step.note and words in caplog.text
    assert step.weight == 0.3
    assert_same([step], [Flight(GALLERY).step(0.0, FLOWN[0].matches, None)])


def test_an_estimate_counts_as_its_matches_and_of_several_views_the_best() -> None:
    flights = [Flight(GALLERY) for _ in range(3)]
    for frame in FLOWN[:8]:
        rows, similarity = frame.matches.rows[0], frame.matches.similarity[0]
        places = tuple(Place(int(r), GALLERY.point(int(r)), float(s)) for r, s in zip(rows, similarity, strict=True))
        estimate = LocationEstimate(places[0].point, places[0].similarity, True, 1.0, places, 0.0)
        views = Matches(np.stack([rows[::-1], rows]), np.stack([similarity - 0.5, similarity]))
        steps = [
            flight.step(frame.time_s, found, motion(frame))
            for flight, found in zip(flights, (frame.matches, estimate, views), strict=True)
        ]
        assert_same(steps[:1], steps[1:2])
        assert_same(steps[:1], steps[2:])


def test_too_few_matches_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    flight = Flight(GALLERY)
    with caplog.at_level(logging.WARNING):
        for frame in FLOWN[:3]:
            few = Matches(frame.matches.rows[:, :5], frame.matches.similarity[:, :5])
            flight.step(frame.time_s, few, motion(frame))
    assert caplog.text.count("`top_k` 16") == 1


def test_a_saved_flight_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    flight = Flight(GALLERY, FilterSettings(keep_all=0, fix_mass=0.9))
    fly(flight, FLOWN[:25])
    flight.save(tmp_path / "state")
    again = Flight.restore(tmp_path / "state", GALLERY)
    assert again.settings == flight.settings
    steps = fly(flight, FLOWN[25:])
    assert any(isinstance(step.fix, Fix) for step in steps)
    assert_same(fly(again, FLOWN[25:]), steps)


def test_a_flight_may_be_saved_before_its_first_frame(tmp_path: Path) -> None:
    Flight(GALLERY).save(str(tmp_path / "state"))
    assert_same(fly(Flight.restore(tmp_path / "state", GALLERY), FLOWN[:3]), fly(Flight(GALLERY), FLOWN[:3]))


def test_a_state_of_another_gallery_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    Flight(GALLERY).save(path)
    other: Gallery = grid_gallery(SIDE, SIDE - 1)
    with pytest.raises(FlightError, match=r"a flight over the gallery \w{12}…, but this one is"):
        Flight.restore(path, other)
    whole = path.read_bytes()
    for content, words in [
        (whole[:-9], "damaged"),
        (b"", "damaged"),
        (whole.replace(b"dphr-flight", b"dphr-fright"), "version"),
    ]:
        path.write_bytes(content)
        with pytest.raises(FlightError, match=words):
            Flight.restore(path, GALLERY)
    with pytest.raises(FlightError, match="missing"):
        Flight.restore(tmp_path / "none", GALLERY)
    save_file({"cells": np.zeros(3)}, path)
    with pytest.raises(FlightError, match="not the state of a flight"):
        Flight.restore(path, GALLERY)


def test_a_state_whose_probabilities_are_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    Flight(GALLERY).save(path)
    header = path.read_bytes()
    tensors = load_file(path)
    metadata = {"flight": header.split(b'"flight":"')[1].split(b'"},')[0].decode().replace('\\"', '"')}
    tensors["mass"] = tensors["mass"] * 3
    save_file(tensors, path, metadata)
    with pytest.raises(FlightError, match="probabilities sum to 2"):
        Flight.restore(path, GALLERY)
