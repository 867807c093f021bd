"""Marks at places known by hand on a grey map of 400 m."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from generated_map import ArrayMap
from PIL import Image

from dphr_infer.evaluate.flight_picture import COLOURS, SIDE_PX, FlownFrame, draw_flight
from dphr_infer.flight.fix import Fix, NoFix, Track
from dphr_infer.flight.flight import FlightStep
from dphr_infer.flight.run import FlightFrame
from dphr_infer.geo import offset
from dphr_infer.images.photo import Photo
from dphr_infer.types import GeoPoint, LocationEstimate

MIDDLE = GeoPoint(47.0, 8.0)
PIXELS = ArrayMap(np.full((800, 800, 3), 120, np.uint8), 0.5, MIDDLE)
PALE = round(120 * 0.65 + 255 * 0.35)
# From (-100, 0) to (100, 100), and 12 % of the longer side around it.
GSD_M = 248 / SIDE_PX


def at(east_m: float, north_m: float) -> GeoPoint:
    return offset(MIDDLE, east_m, north_m)


def flown(kind: str, place: GeoPoint | None, truth: GeoPoint | None, protection_m: float = 20.0) -> FlownFrame:
    spread = np.eye(2)
    silent = kind not in ("registered", "retrieved")
    fix = NoFix(kind) if silent else Fix(place, spread, 1.0, kind, protection_m)
    step = FlightStep(0.0, fix, None if place is None else Track(place, spread, 0.9), 0.9, 0.1, 1.0)
    estimate = LocationEstimate(MIDDLE, 0.5, "none", 1.0, (), 0.0)
    return FlownFrame(FlightFrame(Photo(np.zeros((1, 1, 3), np.uint8)), estimate, None, step), truth)


def drawn(frames: list[FlownFrame], path: Path, whole: tuple[GeoPoint, ...] = ()) -> np.ndarray:
    draw_flight(frames, PIXELS, whole, path)
    return np.asarray(Image.open(path))


def seen(image: np.ndarray, east_m: float, north_m: float) -> list[int]:
    """The pixel there; (0, 50) is in the middle of 148 m from south to north."""
    height = round((100 + 48) / GSD_M)
    return image[round(height / 2 - (north_m - 50) / GSD_M), round(SIDE_PX / 2 + east_m / GSD_M)].tolist()


@pytest.fixture
def image(tmp_path: Path) -> np.ndarray:
    frames = [
        flown("registered", at(-100, 0), at(-100, 0)),
        flown("registered", at(0, 0), at(0, 0)),
        flown("off-map", None, at(50, 50)),
        flown("ambiguous", at(100, 70), at(100, 100)),
    ]
    return drawn(frames, tmp_path / "flight.png")


def test_a_fix_is_a_dot_in_the_middle_of_its_protection_circle(image: np.ndarray) -> None:
    assert seen(image, -100, 0) == seen(image, 0, 0) == list(COLOURS["registered"])
    blue, grey = seen(image, 0, -20), seen(image, 40, -5)  # on the circle of 20 m, and outside it
    assert blue[2] > blue[0] + 60 and grey == [PALE] * 3
    inside = seen(image, 0, -10)
    assert inside[2] > inside[0] and inside != grey


def test_the_track_joins_the_fixes_and_is_dashed_where_one_is_silent(image: np.ndarray) -> None:
    assert max(seen(image, -60, 0)) < 60
    # From (0, 0) to (100, 70) two frames are silent; the first says why.
    way = [seen(image, 100 * share, 70 * share) for share in np.linspace(0.15, 0.85, 60)]
    red = [pixel for pixel in way if np.abs(np.subtract(pixel, COLOURS["off-map"])).max() < 15]
    assert len(red) > 10 and way.count([PALE] * 3) > 10


def test_a_silent_frame_is_marked_where_it_was(image: np.ndarray) -> None:
    assert seen(image, 50, 50) == list(COLOURS["off-map"])
    assert seen(image, 100, 100) == list(COLOURS["ambiguous"])
    ring = seen(image, 100 + 5 * GSD_M, 70)
    assert ring != [PALE] * 3


def test_the_strip_holds_each_frame_in_its_colour(image: np.ndarray) -> None:
    row = image[round(148 / GSD_M) + 12 + 13]
    cells = np.linspace(12, SIDE_PX - 12, 5)
    found = [row[round((start + end) / 2)].tolist() for start, end in itertools.pairwise(cells)]
    assert found == [list(COLOURS[kind]) for kind in ("registered", "registered", "off-map", "ambiguous")]


def test_a_flight_that_was_never_placed_shows_the_map_and_its_silence(tmp_path: Path) -> None:
    image = drawn(
        [flown("starting", None, None), flown("no-motion", None, None)], tmp_path / "p.png", (at(-50, 0), MIDDLE)
    )
    colours = {tuple(colour) for colour in image.reshape(-1, 3)}
    assert {COLOURS["starting"], COLOURS["no-motion"], (PALE,) * 3} <= colours
    assert COLOURS["registered"] not in colours


def test_a_fix_whose_circle_is_infinite_has_none(tmp_path: Path) -> None:
    frames = [flown("retrieved", at(-100, 0), None, np.inf), flown("retrieved", at(100, 100), None, np.inf)]
    image = drawn(frames, tmp_path / "p.png")
    assert seen(image, 100, 100) == list(COLOURS["retrieved"]) and seen(image, 100, 80) == [PALE] * 3
