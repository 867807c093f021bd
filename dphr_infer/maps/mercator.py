"""Web Mercator, the square world of map tiles: a sphere's Mercator projection of WGS84's geodetic latitude."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dphr_infer.geo import metres_per_degree

TILE_PX = 256
MERCATOR_TURN_M = 2 * math.pi * 6378137.0
# The latitude at which the world is a square.
MAX_MERCATOR_DEG = math.degrees(math.atan(math.sinh(math.pi)))


def world_px(zoom: int) -> int:
    """Side of the world in pixels, at a zoom level whose tiles take 256 each way."""
    return TILE_PX << zoom


def to_world(points: NDArray[np.float64], zoom: int) -> NDArray[np.float64]:
    """Latitude and longitude, float64 (n, 2) -> x and y in pixels of the world, from its north-western corner.

    NaN beyond 85.05 degrees of latitude.
    """
    latitude_deg = np.where(np.abs(points[:, 0]) <= MAX_MERCATOR_DEG, points[:, 0], np.nan)
    y = 0.5 - np.arcsinh(np.tan(np.radians(latitude_deg))) / (2 * math.pi)
    return np.stack([(points[:, 1] / 360.0 + 0.5), y], axis=1) * world_px(zoom)


def to_places(x_px: NDArray[np.float64], y_px: NDArray[np.float64], zoom: int) -> NDArray[np.float64]:
    """The other way, float64 (n, 2); x may lie beyond the world's edges, longitudes lie in [-180, 180)."""
    side = world_px(zoom)
    latitude_deg = np.degrees(np.arctan(np.sinh((0.5 - y_px / side) * 2 * math.pi)))
    return np.stack([latitude_deg, x_px / side * 360.0 % 360.0 - 180.0], axis=1)


def pixel_m(latitude_deg: float, zoom: int) -> tuple[float, float]:
    """True metres that a pixel takes to the right and down, at a latitude."""
    degree = 360.0 / world_px(zoom)
    per_lat, per_lon = metres_per_degree(latitude_deg)
    return degree * per_lon, degree * math.cos(math.radians(latitude_deg)) * per_lat
