"""Maps whose marks lie at known places."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dphr_infer.geo import offset
from dphr_infer.maps.raster import MapRaster
from dphr_infer.types import GeoPoint


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
