"""One matched point at a place known by hand, on the photo, the ground and the map."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from generated_map import ArrayMap
from PIL import Image

from dphr_infer.evaluate.registered_row import SIDE_PX, registered_row
from dphr_infer.types import Attitude, CameraView, GeoPoint, LocationEstimate, MatchedPoints

MIDDLE, TILE_M = GeoPoint(47.0, 8.0), 80.0
PIXELS = ArrayMap(np.full((800, 800, 3), 120, np.uint8), 0.5, MIDDLE)
PHOTO = np.full((300, 400, 3), 60, np.uint8)
# 90 degrees across 400 px from 100 m: half a metre a pixel in the middle.
DOWN = CameraView(100.0, -90.0, 90.0, 90.0)
RED = (255, 38, 38)
VERIFIED = LocationEstimate(
    *(MIDDLE, 0.9, "verified", 2.0, (), 0.0),
    attitude=Attitude(DOWN, {}),
    matched=MatchedPoints(np.array([[30.0, 10.0]]), np.array([[31.0, 10.0]])),
)


def row_of(estimate: LocationEstimate) -> np.ndarray:
    return np.asarray(registered_row(estimate, PHOTO, PIXELS, TILE_M))


def test_a_matched_point_is_a_dot_on_each_panel() -> None:
    row = row_of(VERIFIED)
    left = [12, 24 + 640, 48 + 640 + SIDE_PX]  # the photo is 640 px wide here
    # The top of the picture looks east: 30 m east is 60 px up, 10 m north 20 px to the left; 1.6 px here a px there.
    assert tuple(row[240 - 96, left[0] + 320 - 32]) == RED
    # 80 m across 480 px: 6 px a metre.
    assert tuple(row[240 - 60, left[1] + 240 + 180]) == RED
    assert tuple(row[240 - 60, left[2] + 240 + 186]) == RED
    assert tuple(row[240 - 60, left[1] + SIDE_PX + 12]) == RED  # the line between them
    assert tuple(row[240, left[2] + 100]) == (120, 120, 120) and tuple(row[240, left[0] + 100]) == (60, 60, 60)


def test_nothing_is_marked_where_nothing_was_verified() -> None:
    silent = dataclasses.replace(VERIFIED, verdict="none", reason="unverified: chance", matched=None)
    row = row_of(silent)
    assert row.shape == row_of(VERIFIED).shape and not (row == RED).all(axis=2).any()


@pytest.mark.parametrize(
    "attitude",
    [
        Attitude(dataclasses.replace(DOWN, height_m=100 * math.tan(math.radians(45))), {}, ("yaw",)),
        Attitude(DOWN, {"view": "not usable: its pitch " + "is long " * 40}, ("a usable view",)),
        Attitude(dataclasses.replace(DOWN, height_m=0.01), {}),  # shows less than a pixel
        None,
    ],
)
def test_an_attitude_that_is_unknown_or_shows_nothing_is_drawn_all_the_same(attitude: Attitude | None) -> None:
    estimate = dataclasses.replace(VERIFIED, verdict="none", reason="no " * 99, matched=None, attitude=attitude)
    assert registered_row(estimate, PHOTO, PIXELS, TILE_M).size == Image.fromarray(row_of(VERIFIED)).size
