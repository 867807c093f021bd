"""What a flight's fixes are promised, and when nothing is."""

from __future__ import annotations

import numpy as np
import pytest
from made_galleries import STRIDE_M, TILE_M, grid_gallery

from dphr_infer.flight.fix import NoFix, Odometry, Track
from dphr_infer.flight.flight import Flight, FlightStep
from dphr_infer.flight.run import FlightFrame, confirmed_rank, confirmed_ranks, promise_line
from dphr_infer.flight.settings import FilterSettings, calibrated
from dphr_infer.images.photo import Photo
from dphr_infer.types import LocationEstimate, Place

GALLERY = grid_gallery(6, 6)
SIZES = {"tile_m": TILE_M, "stride_m": STRIDE_M}


def step(row: int | None, mass: float = 0.99) -> FlightStep:
    """After which the filter believes to be at a row's tile; None for nowhere."""
    track = None if row is None else Track(GALLERY.point(row), np.eye(2), mass)
    return FlightStep(0.0, NoFix("no-match"), track, mass, 0.0, 1.0)


def frame(rows: list[int], after: FlightStep, moved_m: float | None = TILE_M) -> FlightFrame:
    places = tuple(Place(row, GALLERY.point(row), 0.9) for row in rows)
    estimate = LocationEstimate(GALLERY.point(rows[0]), 0.9, "none", 9.0, places, 0.0)
    odometry = None if moved_m is None else Odometry(moved_m, 0.0, np.eye(2))
    return FlightFrame(Photo(np.zeros((32, 32, 3), np.uint8)), estimate, odometry, after)


def test_a_confirmed_rank_is_that_of_the_tile_where_the_filter_is_sure_to_be() -> None:
    flight, rows = Flight(GALLERY, FilterSettings(fix_mass=0.97)), np.array([7, 3, 20], np.int32)
    assert [confirmed_rank(flight, step(row), rows) for row in (7, 3, 20, 5)] == [0, 1, 2, 3]
    assert confirmed_rank(flight, step(7, mass=0.96), rows) is None
    assert confirmed_rank(flight, step(None), rows) is None


def test_ranks_are_taken_once_per_tile_side() -> None:
    flight = Flight(GALLERY, FilterSettings(fix_mass=0.97))
    frames = [
        frame([7, 3], step(7), None),  # the first counts
        frame([7, 3], step(3), TILE_M / 2),  # not yet a tile side
        frame([7, 3], step(3, mass=0.5), TILE_M / 2),  # far enough, not sure
        frame([7, 3], step(3), 0.0),
        frame([7, 3], step(3), None),  # of unknown motion
        frame([7, 3], step(9), TILE_M),
    ]
    assert confirmed_ranks(flight, frames) == [0, 1, 2]


def test_a_calibrated_bundle_gives_the_filter_its_numbers(calibration) -> None:
    settings = calibrated(calibration())
    given = (settings.rank_shape, settings.rank_scale, settings.fix_mass, settings.fix_factor, settings.track_factor)
    assert given == (2.5, 0.5, 0.97, 0.3, 0.4)
    assert settings.floor == FilterSettings().floor
    assert calibrated(None) == FilterSettings()
    assert calibrated(calibration(fix_mass=None)).fix_mass == FilterSettings().fix_mass


# The calibration's are 60, 20, 10, 5 and 5 of 100.
ALIKE = [0] * 12 + [1] * 4 + [2] * 2 + [3] + [9]


@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        (ALIKE, "; its 20 confirmed ranks look like the calibration's (p 1)"),
        (ALIKE[:7], "; 7 confirmed ranks are too few to tell whether this flight is like those"),
        ([], "; 0 confirmed ranks are too few to tell"),
    ],
)
def test_a_flight_like_those_of_the_calibration_is_promised_alpha(calibration, ranks: list[int], words: str) -> None:
    line = promise_line(calibration(**SIZES), GALLERY, ranks, False)
    start = f"promise: of stretches of {TILE_M:g} m with a fix at most 5.0% have one more than {TILE_M:g} m off "
    assert line.startswith(start + "(1 of 120 on 2 maps, 2026-11-29)") and words in line
    with_map = promise_line(calibration(**SIZES), GALLERY, ranks, True)
    assert "; for fixes of matches alone, those registered on the map are judged by their false alarms" in with_map


def test_a_flight_whose_ranks_look_otherwise_is_promised_nothing(calibration) -> None:
    # Three in four beyond the list, where the calibration had one in twenty.
    line = promise_line(calibration(**SIZES), GALLERY, [0] * 5 + [4] * 15, False)
    assert line.startswith("no promise: the 20 confirmed ranks do not look like the calibration's 100 ")
    assert "(Kolmogorov-Smirnov 0.70, p " in line


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"fix_mass": None}, "no promise: at alpha 0.05 no threshold held when the bundle was calibrated"),
        ({"stride_m": TILE_M}, "no promise: the gallery's stride is 0.25 tile sides, that of the calibration 1.00"),
    ],
)
def test_where_the_calibration_says_nothing_of_it_nothing_is_promised(calibration, values: dict, words: str) -> None:
    assert promise_line(calibration(**{**SIZES, **values}), GALLERY, ALIKE, False) == words


def test_without_a_calibration_it_is_said_what_to_do() -> None:
    line = promise_line(None, GALLERY, ALIKE, False)
    assert line.startswith("no promise: not calibrated. dphr-export calibrate BUNDLE --flights")
