"""Maps laid in every way that a view has to cope with, and the check that what was put on one is seen there."""

import numpy as np
import pytest

from dphr_infer.maps.view import MapPixels

# Each lays a map of about half a metre a pixel; options of the fixture `write_map`.
PLACES = {
    "utm": {"crs": "EPSG:32632", "west": 400_000.0, "north": 6_650_000.0, "px": 0.5},
    "utm turned": {"crs": "EPSG:32632", "west": 400_000.0, "north": 6_650_000.0, "px": 0.5, "turn_deg": 33.0},
    "utm upside down": {"crs": "EPSG:32632", "west": 400_000.0, "north": 6_650_000.0, "px": 0.5, "turn_deg": 180.0},
    "degrees": {"crs": "EPSG:4326", "west": 10.0, "north": 60.0, "px": (9e-6, 4.5e-6)},
    "oblong degrees": {"crs": "EPSG:4326", "west": 10.0, "north": 60.0, "px": (4.5e-6, 4.5e-6)},
    "mercator": {"crs": "EPSG:3857", "west": 1_113_194.9, "north": 8_399_000.0, "px": 1.0},
    "polar": {"crs": "EPSG:3413", "west": 400_000.0, "north": -1_000_000.0, "px": 0.5},
    "degrees across": {"crs": "EPSG:4326", "west": 179.998, "north": 60.0, "px": (9e-6, 4.5e-6)},
    "degrees beyond": {"crs": "EPSG:4326", "west": -180.002, "north": 60.0, "px": (9e-6, 4.5e-6)},
    "mercator across": {"crs": "EPSG:3857", "west": 20_037_300.0, "north": 8_399_000.0, "px": 1.0},
    "utm across": {"crs": "EPSG:32601", "west": 332_500.0, "north": 6_655_000.0, "px": 0.5},
}


def assert_blots_lie_right(
    pixels: MapPixels, middle, spots: list[tuple[float, float]], reach_m: float, gsd_m: float
) -> None:
    """The centre of mass of each blot lies within 0.1 px of its (east, north) in metres from the middle."""
    width = int(2 * reach_m / gsd_m) + 3
    height = width - 2
    view = pixels.view(middle, width, height, gsd_m)
    assert view.covered.all()
    seen = view.image[..., 0].astype(float)
    for east_m, north_m in spots:
        column, row = east_m / gsd_m + width / 2, height / 2 - north_m / gsd_m
        left, top = max(0, round(column - 12)), max(0, round(row - 12))
        part = seen[top : round(row + 12), left : round(column + 12)]
        part = np.where(part > 6.0, part, 0.0)  # the noise of lossy pictures around it
        y, x = np.mgrid[: part.shape[0], : part.shape[1]] + 0.5
        found = ((x * part).sum() / part.sum() + left, (y * part).sum() / part.sum() + top)
        assert found == pytest.approx((column, row), abs=0.1)
