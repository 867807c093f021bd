"""Boxes against the plain loop: the same ranges, whatever lies where."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dphr_infer.files import row_blocks
from dphr_infer.files.hilbert import hilbert_order
from dphr_infer.files.row_blocks import RowBlocks
from dphr_infer.geo import east_north_m, metres_per_degree
from dphr_infer.types import GeoPoint

Ranges = tuple[tuple[int, int], ...]


def measure_every_row(latitude: np.ndarray, longitude: np.ndarray, point: GeoPoint, radius_m: float) -> Ranges:
    """The plain reference."""
    inside = [False, *(np.hypot(*east_north_m(point, latitude, longitude)) <= radius_m), False]
    edges = [row for row in range(len(inside) - 1) if inside[row] != inside[row + 1]]
    return tuple(zip(edges[::2], edges[1::2], strict=True))


@st.composite
def maps(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """A lattice in Hilbert order: of a city, across the antimeridian, at a pole or over the whole earth."""
    side = draw(st.integers(1, 60))
    step = draw(st.sampled_from([1e-5, 3e-4, 0.1, 3.0]))
    corner = draw(st.sampled_from([(46.84, -91.99), (-16.5, 179.99), (0.0, -180.0), (89.99, 0.0), (-90.0, -180.0)]))
    north, east = (axis.ravel().astype(float) for axis in np.mgrid[:side, :side])
    order = hilbert_order(east, north)
    latitude = np.clip(corner[0] + step * north[order], -90, 90)
    longitude = (corner[1] + step * east[order] + 180) % 360 - 180
    if draw(st.booleans()):
        longitude[longitude == -180] = 180  # the same meridian by its other name
    return latitude, longitude


@settings(max_examples=300, deadline=None)
@given(maps(), st.data())
def test_boxes_give_exactly_the_ranges_that_measuring_every_row_gives(places, data) -> None:
    latitude, longitude = places
    row = data.draw(st.integers(0, len(latitude) - 1))
    other = data.draw(st.integers(0, len(latitude) - 1))
    point = GeoPoint(float(latitude[row]), float(longitude[row]))
    if data.draw(st.booleans()):
        point = GeoPoint(data.draw(st.floats(-90, 90)), data.draw(st.floats(-180, 180)))
    to_a_row_m = float(np.hypot(*east_north_m(point, latitude[other], longitude[other])))  # exactly on the edge
    radius_m = data.draw(st.one_of(st.just(max(to_a_row_m, 1e-3)), st.floats(1e-3, 1e8)))
    found = RowBlocks(latitude, longitude).ranges_within(point, radius_m)
    assert found == measure_every_row(latitude, longitude, point, radius_m)


def test_only_blocks_that_the_circle_cuts_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    north, east = (axis.ravel().astype(float) for axis in np.mgrid[:128, :128])
    order = hilbert_order(east, north)
    per_lat, _ = metres_per_degree(0.0)
    latitude, longitude = north[order] / per_lat, east[order] / per_lat  # 16 blocks of 32 x 32 rows
    blocks, measured = RowBlocks(latitude, longitude), []

    def counting(point: GeoPoint, latitude: np.ndarray, longitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        measured.append(latitude.size)
        return east_north_m(point, latitude, longitude)

    monkeypatch.setattr(row_blocks, "east_north_m", counting)
    for radius_m, rows in ((5.0, 1), (1000.0, 16), (30.0, 3)):
        measured.clear()
        found = blocks.ranges_within(GeoPoint(16 / per_lat, 16 / per_lat), radius_m)
        assert found == measure_every_row(latitude, longitude, GeoPoint(16 / per_lat, 16 / per_lat), radius_m)
        assert measured[-1] == {1: 1024, 16: 0, 3: 3 * 1024}[rows], radius_m
    assert blocks.ranges_within(GeoPoint(1.0, 1.0), 1000.0) == () and measured[-1] == 0
