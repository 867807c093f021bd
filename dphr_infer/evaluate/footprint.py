"""Does a tile show what a photo shows? Overlap of two convex outlines on the ground, in local metres."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dphr_infer.geo import east_north_m
from dphr_infer.types import GeoPoint

MIN_OVERLAP = 0.5

Outline = NDArray[np.float64]
"""float64 (n, 2), the corners of a convex polygon in order, east and north in metres."""


def area_m2(outline: Outline) -> float:
    """Signed area by the shoelace formula: positive counterclockwise (east right, north up)."""
    x, y = outline[:, 0], outline[:, 1]
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) / 2)


def _counterclockwise(outline: Outline) -> Outline:
    return outline if area_m2(outline) >= 0 else outline[::-1]


def clip(subject: Outline, window: Outline) -> Outline:
    """The common part of two convex polygons; float64 (0, 2) where they have none.

    I. Sutherland, G. Hodgman, "Reentrant polygon clipping", 1974.
    """
    corners = [(float(x), float(y)) for x, y in _counterclockwise(subject)]
    edges = _counterclockwise(window)
    for (ax, ay), (bx, by) in zip(edges, np.roll(edges, -1, axis=0), strict=True):
        kept: list[tuple[float, float]] = []
        left = [float((bx - ax) * (y - ay) - (by - ay) * (x - ax)) for x, y in corners]
        for i, (x, y) in enumerate(corners):
            j = (i + 1) % len(corners)
            if left[i] >= 0:
                kept.append((x, y))
            if (left[i] > 0 > left[j]) or (left[i] < 0 < left[j]):
                t = left[i] / (left[i] - left[j])
                kept.append((x + t * (corners[j][0] - x), y + t * (corners[j][1] - y)))
        corners = kept
    return np.array(corners, np.float64).reshape(-1, 2)


def overlap(a: Outline, b: Outline) -> float:
    """Area that two convex polygons share, over the area of the smaller: 1 where one lies within the other."""
    smaller = min(abs(area_m2(a)), abs(area_m2(b)))
    return abs(area_m2(clip(a, b))) / smaller if smaller > 0 else 0.0


def tile_shows(corners: Sequence[GeoPoint], tile_centre: GeoPoint, tile_m: float) -> bool:
    """Whether a tile is a right match of a photo.

    It is if the tile's square and the photo's footprint share at least half of the area of the smaller of the two.

    Args:
        corners: of the photo's footprint on the ground, in order; convex.
        tile_centre: of the tile, whose sides run north and east.
        tile_m: its side.
    """
    east_m, north_m = east_north_m(
        tile_centre,
        np.array([corner.latitude_deg for corner in corners]),
        np.array([corner.longitude_deg for corner in corners]),
    )
    half = tile_m / 2
    square = np.array([[-half, -half], [half, -half], [half, half], [-half, half]])
    return overlap(np.stack([east_m, north_m], axis=1), square) >= MIN_OVERLAP
