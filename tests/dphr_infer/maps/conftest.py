"""The plain reference of a view, a loop over its pixels; and maps whose marks lie at known places."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dphr_infer.geo import offset
from dphr_infer.maps.raster import MapRaster
from dphr_infer.types import GeoPoint


def look_up(
    image: np.ndarray,
    covered: np.ndarray,
    to_px: Callable[[GeoPoint], tuple[float, float]],
    centre: GeoPoint,
    width_px: int,
    height_px: int,
    gsd_m: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Each pixel of a view interpolated where `geo.offset` says that it lies; float64 (h, w, 3) and bool (h, w)."""
    height, width = covered.shape
    view, known = np.zeros((height_px, width_px, 3)), np.zeros((height_px, width_px), bool)
    for row in range(height_px):
        for column in range(width_px):
            east_m, north_m = (column + 0.5 - width_px / 2) * gsd_m, (height_px / 2 - row - 0.5) * gsd_m
            x, y = (value - 0.5 for value in to_px(offset(centre, east_m, north_m)))  # from the first pixel's middle
            left, top = int(np.floor(x)), int(np.floor(y))
            if not (0 <= left < width - 1 and 0 <= top < height - 1 and covered[top : top + 2, left : left + 2].all()):
                continue
            a, b = x - left, y - top
            near = image[top : top + 2, left : left + 2].astype(float)
            view[row, column] = (1 - b) * ((1 - a) * near[0, 0] + a * near[0, 1]) + b * (
                (1 - a) * near[1, 0] + a * near[1, 1]
            )
            known[row, column] = True
    return view, known


@pytest.fixture(scope="session", name="look_up")
def look_up_fixture() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """`look_up(image, covered, to_px, centre, width_px, height_px, gsd_m)`."""
    return look_up


@pytest.fixture
def blots(write_map) -> Callable[..., tuple[Path, GeoPoint, list[tuple[float, float]], float]]:
    """`blots(laid, sigma_m)`: a map of 900 pixels a side with nine round blots on black.

    Gives its path, its middle, the blots' places in metres east and north of it, and how far from the middle views may
    reach.
    """

    def write(laid: dict, sigma_m: float) -> tuple[Path, GeoPoint, list[tuple[float, float]], float]:
        side = 900
        with MapRaster(write_map(np.zeros((side, side, 3), np.uint8), **laid)) as raster:
            middle, reach_m = raster.centre, 0.25 * side * raster.gsd_m
            spots = [(east * reach_m, north * reach_m) for east, north in itertools.product((-0.7, 0.0, 0.7), repeat=2)]

            def to_px(east_m: float, north_m: float) -> np.ndarray:
                return np.array(raster.to_px(offset(middle, east_m, north_m)))

            rows, columns = np.mgrid[:side, :side] + 0.5
            light = np.zeros((side, side))
            for east, north in spots:
                x, y = to_px(east, north)
                # A blot is so small that the projection is affine over it.
                px_per_m = np.stack([to_px(east + 1, north) - (x, y), to_px(east, north + 1) - (x, y)], axis=1)
                ground = np.einsum("ij,jrc->irc", np.linalg.inv(px_per_m), np.stack([columns - x, rows - y]))
                light += np.exp(-(ground**2).sum(axis=0) / (2 * sigma_m**2))
        image = np.repeat(np.round(250 * np.clip(light, 0, 1))[..., None], 3, axis=2).astype(np.uint8)
        return write_map(image, **laid), middle, spots, reach_m

    return write
