import numpy as np
import pytest

from dphr_infer.evaluate.footprint import area_m2, clip, overlap, tile_shows
from dphr_infer.geo import offset
from dphr_infer.types import GeoPoint

SQUARE = np.array([[0, 0], [4, 0], [4, 4], [0, 4]], np.float64)
SHIFT = np.array([3, 2])
CENTRE = GeoPoint(47.0, 8.0)


def test_area_is_positive_counterclockwise_and_negative_clockwise() -> None:
    assert (area_m2(SQUARE), area_m2(SQUARE[::-1])) == (16, -16)


def test_two_squares_share_the_rectangle_found_by_hand() -> None:
    assert area_m2(clip(SQUARE, SQUARE + SHIFT)) == 2
    assert area_m2(clip(SQUARE[::-1], (SQUARE + SHIFT)[::-1])) == 2


def test_a_diamond_in_a_square_loses_its_four_tips() -> None:
    diamond = np.array([[2, -1], [5, 2], [2, 5], [-1, 2]], np.float64)  # each tip reaches 1 beyond: area 1
    assert abs(area_m2(diamond)) == 18
    assert abs(area_m2(clip(diamond, SQUARE))) == pytest.approx(14)


def test_polygons_apart_or_touching_share_nothing() -> None:
    assert clip(SQUARE, SQUARE + 10).shape == (0, 2)
    assert overlap(SQUARE, SQUARE + np.array([4, 0])) == 0


def test_overlap_is_over_the_smaller_area() -> None:
    small = np.array([[1, 1], [2, 1], [2, 2], [1, 2]], np.float64)
    assert overlap(SQUARE, small) == 1
    assert overlap(SQUARE, small + np.array([2.5, 0])) == pytest.approx(0.5)
    assert overlap(SQUARE, np.zeros((4, 2))) == 0


@pytest.mark.parametrize(("east_m", "right"), [(0.0, True), (49.0, True), (51.0, False), (200.0, False)])
def test_a_tile_shows_a_photo_if_they_share_half_of_the_smaller(east_m: float, right: bool) -> None:
    # A footprint of 20 x 60 m inside a tile of 100 m leaves it over the eastern edge at 40 m, half of it at 50 m.
    corners = [offset(CENTRE, east_m + east, north) for east, north in [(-10, -30), (10, -30), (10, 30), (-10, 30)]]
    assert tile_shows(corners, CENTRE, 100.0) is right
