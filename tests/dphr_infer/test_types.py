import math

import pytest

from dphr_infer.errors import ConfigError, GalleryError
from dphr_infer.types import GeoPoint, Prior, RowRanges


@pytest.mark.parametrize(("latitude_deg", "longitude_deg"), [(90.0, 180.0), (-90.0, -180.0), (0.0, 0.0)])
def test_a_point_may_lie_on_the_edges_of_the_earth(latitude_deg: float, longitude_deg: float) -> None:
    assert GeoPoint(latitude_deg, longitude_deg).latitude_deg == latitude_deg


@pytest.mark.parametrize(
    ("latitude_deg", "longitude_deg"),
    [(200.0, 500.0), (90.001, 0.0), (0.0, -180.001), (math.nan, 0.0), (0.0, math.nan), (math.inf, 0.0)],
)
def test_a_point_that_is_not_on_the_earth_is_refused_with_both_numbers(
    latitude_deg: float, longitude_deg: float
) -> None:
    for value in (lambda: GeoPoint(latitude_deg, longitude_deg), lambda: Prior(latitude_deg, longitude_deg, 100.0)):
        with pytest.raises(ConfigError, match=f"latitude {latitude_deg:g} and longitude {longitude_deg:g};"):
            value()


def test_a_prior_has_its_centre() -> None:
    assert Prior(47.0, 8.0, 250.0).centre == GeoPoint(47.0, 8.0)


@pytest.mark.parametrize("radius_m", [0.0, -1.0, math.inf, math.nan])
def test_a_prior_without_a_radius_is_refused(radius_m: float) -> None:
    with pytest.raises(ConfigError, match=f"`radius_m` is {radius_m:g}; expected metres"):
        Prior(47.0, 8.0, radius_m)


def test_row_ranges_count_their_rows_and_are_compared_by_content() -> None:
    ranges = RowRanges(((0, 3), (3, 5), (9, 10)))
    assert (ranges.count, len(ranges), list(ranges)) == (6, 3, [(0, 3), (3, 5), (9, 10)])
    assert ranges == RowRanges(((0, 3), (3, 5), (9, 10))) != RowRanges(((0, 5), (9, 10)))
    assert (RowRanges(()).count, len(RowRanges(()))) == (0, 0)


@pytest.mark.parametrize("ranges", [((0, 3), (2, 5)), ((5, 6), (0, 1)), ((4, 4),), ((3, 1),), ((-1, 2),)])
def test_row_ranges_that_no_matcher_takes_are_refused(ranges: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(GalleryError, match=r"Row range \[-?\d, \d\) follows one that ends at \d"):
        RowRanges(ranges)
