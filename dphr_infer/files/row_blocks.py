"""Which rows of a gallery lie near a point: boxes around blocks of rows, so that few distances are measured.

Rows lie in Hilbert order, so 1,024 consecutive ones cover a small piece of ground. A block whose box lies outside the
circle is skipped, one whose box lies inside is taken whole, and only the rows of the others are measured.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dphr_infer.geo import east_north_m, metres_per_degree
from dphr_infer.types import GeoPoint

ROWS_A_BLOCK = 1024
# Distances of a box and of a row are rounded by less than this share; a box so near to the radius is measured.
_ROUNDING = 1e-12
_WIDEST_DEG = 359.0


class RowBlocks:
    """Boxes of a gallery's places, made once: 32 bytes per 1,024 rows.

    Args:
        latitude_deg, longitude_deg: float64 (N,), N >= 1; kept, not copied.
    """

    def __init__(self, latitude_deg: NDArray[np.float64], longitude_deg: NDArray[np.float64]) -> None:
        self._latitude_deg, self._longitude_deg = latitude_deg, longitude_deg
        self._starts = np.arange(0, len(latitude_deg), ROWS_A_BLOCK)
        self._boxes = [
            bound.reduceat(degrees, self._starts)
            for degrees in (latitude_deg, longitude_deg)
            for bound in (np.minimum, np.maximum)
        ]

    def ranges_within(self, point: GeoPoint, radius_m: float) -> tuple[tuple[int, int], ...]:
        """The rows whose distance from a point is at most `radius_m`, exactly as measuring every row finds them.

        Returns:
            Sorted, disjoint, half-open [start, stop) ranges that touch nowhere; none where nothing lies near.
        """
        nearest_m, farthest_m = self._distances_m(point)
        whole = farthest_m <= radius_m * (1 - _ROUNDING)
        edge = ~whole & ~(nearest_m > radius_m * (1 + _ROUNDING))
        starts, stops = self._measure(self._starts[edge], point, radius_m)
        taken = self._starts[whole]
        starts = np.sort(np.concatenate([taken, starts]))
        stops = np.sort(np.concatenate([np.minimum(taken + ROWS_A_BLOCK, len(self._latitude_deg)), stops]))
        apart = starts[1:] != stops[:-1]
        first, last = np.ones((2, len(starts)), np.bool_)
        first[1:], last[:-1] = apart, apart
        return tuple(zip(starts[first].tolist(), stops[last].tolist(), strict=True))

    def _distances_m(self, point: GeoPoint) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """At most and at least how far the rows of each block lie from a point: two float64 (blocks,)."""
        south, north, west, east = self._boxes
        low, high = east_north_m(point, south, west), east_north_m(point, north, east)
        # A box across the meridian opposite the point begins east of it and ends west of it: its sides say nothing.
        opposite = (low[0] > high[0]) | (east - west > _WIDEST_DEG)
        half_round_m = 180.0 * metres_per_degree(point.latitude_deg)[1]
        sides = [
            (np.where(opposite, -half_round_m, low[0]), np.where(opposite, half_round_m, high[0])),
            (low[1], high[1]),
        ]
        nearest = [np.maximum(0.0, np.maximum(least, -most)) for least, most in sides]
        farthest = [np.maximum(-least, most) for least, most in sides]
        return np.hypot(*nearest), np.hypot(*farthest)

    def _measure(
        self, blocks: NDArray[np.int64], point: GeoPoint, radius_m: float
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Row by row: where the pieces near the point start and stop, of blocks given by their first rows."""
        latitude, longitude = np.full((2, len(blocks), ROWS_A_BLOCK), np.nan)  # the last block may be shorter
        for block, first in enumerate(blocks.tolist()):
            part = self._latitude_deg[first : first + ROWS_A_BLOCK]
            latitude[block, : len(part)] = part
            longitude[block, : len(part)] = self._longitude_deg[first : first + ROWS_A_BLOCK]
        inside = np.zeros((len(blocks), ROWS_A_BLOCK + 2), np.bool_)
        inside[:, 1:-1] = np.hypot(*east_north_m(point, latitude, longitude)) <= radius_m
        number, place = np.nonzero(inside[:, 1:] != inside[:, :-1])
        edges = blocks[number] + place
        return edges[::2], edges[1::2]
