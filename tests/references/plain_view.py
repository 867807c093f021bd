"""A view of a map written as plainly as its definition: a loop over its pixels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dphr_infer.geo import offset
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
