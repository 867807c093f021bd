import re

import numpy as np
import pytest

from dphr_infer.errors import ConfigError
from dphr_infer.geo import circle_95_m, distance_m, east_north_m, metres_per_degree, offset, sigma_m
from dphr_infer.types import GeoPoint


@pytest.mark.parametrize(
    ("latitude_deg", "of_latitude", "of_longitude"),
    # Published lengths of a degree on WGS84 (National Geospatial-Intelligence Agency).
    [
        (0.0, 110_574.3, 111_319.5),
        (45.0, 111_131.8, 78_846.8),
        (60.0, 111_412.3, 55_800.0),
        (-60.0, 111_412.3, 55_800.0),
    ],
)
def test_a_degree_has_its_published_length(latitude_deg: float, of_latitude: float, of_longitude: float) -> None:
    assert metres_per_degree(latitude_deg) == (
        pytest.approx(of_latitude, abs=0.5),
        pytest.approx(of_longitude, abs=0.5),
    )


def test_an_offset_lies_at_its_distance() -> None:
    start = GeoPoint(46.8426, -91.9946)
    assert distance_m(start, offset(start, 300.0, -400.0)) == pytest.approx(500.0, abs=0.02)


def test_metres_east_and_north_undo_an_offset() -> None:
    start = GeoPoint(-33.0, 151.0)
    moved = offset(start, -120.0, 80.0)
    east, north = east_north_m(start, np.array([moved.latitude_deg]), np.array([moved.longitude_deg]))
    assert (east[0], north[0]) == (pytest.approx(-120.0, abs=1e-6), pytest.approx(80.0, abs=1e-6))


def test_distances_take_the_short_way_across_the_antimeridian() -> None:
    east, west = GeoPoint(0.0, 179.9995), GeoPoint(0.0, -179.9995)
    assert distance_m(east, west) == pytest.approx(111.3, abs=0.1)
    assert east_north_m(east, np.array([0.0]), np.array([-179.9995]))[0][0] == pytest.approx(111.3, abs=0.1)


@pytest.mark.parametrize(
    ("start", "east_m", "expected"), [(179.9995, 111.32, -179.9995), (-179.9995, -111.32, 179.9995)]
)
def test_an_offset_across_the_antimeridian_stays_in_range(start: float, east_m: float, expected: float) -> None:
    assert offset(GeoPoint(0.0, start), east_m, 0.0).longitude_deg == pytest.approx(expected, abs=1e-6)


def test_an_offset_that_ends_at_180_degrees_is_called_minus_180() -> None:
    assert offset(GeoPoint(0.0, 180.0), 0.0, 0.0) == GeoPoint(0.0, -180.0)


@pytest.mark.parametrize(
    ("latitude_deg", "east_m", "north_m"),
    [(89.9999, 0.0, 100.0), (-89.9999, 0.0, -100.0), (90.0, 1.0, 0.0), (0.0, 30_000_000.0, 0.0), (0.0, np.nan, 0.0)],
)
def test_an_offset_beyond_the_tangent_plane_is_refused(latitude_deg: float, east_m: float, north_m: float) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{east_m:g} m east and {north_m:g} m north of ")):
        offset(GeoPoint(latitude_deg, 8.0), east_m, north_m)


def test_sigma_is_that_of_the_worst_direction() -> None:
    assert sigma_m((9.0, 0.0, 4.0)) == 3.0
    assert circle_95_m((9.0, 0.0, 9.0)) == pytest.approx(3 * 2.4477, abs=1e-3)  # of a Rayleigh distribution
    assert sigma_m((10.0, -6.0, 10.0)) == 4.0  # 16 along the falling diagonal
    assert sigma_m((0.0, 0.0, 0.0)) == 0.0
