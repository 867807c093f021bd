"""The Hilbert curve: a one-dimensional order in which neighbours on the ground are mostly neighbours in the file.

A prior such as "within 300 m of here" then allows few, long row ranges, and a memory-mapped gallery reads few pages.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ORDER = 16


def hilbert_distance(x: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[np.int64]:
    """Position of grid cells along the Hilbert curve that fills a square of 2**ORDER cells a side.

    The curve starts at (0, 0), ends at (2**ORDER - 1, 0), and each step goes to one of the four neighbours; a square of
    2**n cells at the start is filled before anything else.
    D. Hilbert, "Über die stetige Abbildung einer Linie auf ein Flächenstück", 1891; quadrant by quadrant.

    Args:
        x, y: int64 (n,), each in 0 .. 2**ORDER - 1.

    Returns:
        int64 (n,), in 0 .. 4**ORDER - 1; distinct for distinct cells.
    """
    x, y = x.astype(np.int64), y.astype(np.int64)
    distance = np.zeros_like(x)
    side = 1 << (ORDER - 1)
    while side:
        right, upper = (x & side) > 0, (y & side) > 0
        distance += side * side * ((3 * right) ^ upper.astype(np.int64))
        # Turn the quadrant so that the curve inside it again runs from (0, 0) to the right.
        flip = ~upper & right
        x, y = np.where(flip, side - 1 - (x & (side - 1)), x), np.where(flip, side - 1 - (y & (side - 1)), y)
        x, y = np.where(upper, x, y), np.where(upper, y, x)
        side >>= 1
    return distance


def hilbert_order(east_m: NDArray[np.float64], north_m: NDArray[np.float64]) -> NDArray[np.int64]:
    """The permutation that brings points into Hilbert order; points in the same cell keep their order.

    The square over the points' larger extent has 65,536 cells a side.

    Args:
        east_m, north_m: float64 (n,), n >= 1.

    Returns:
        int64 (n,), indices into the points.
    """
    extent = max(float(np.ptp(east_m)), float(np.ptp(north_m)), 1e-9)
    scale = ((1 << ORDER) - 1) / extent
    x = ((east_m - east_m.min()) * scale).astype(np.int64)
    y = ((north_m - north_m.min()) * scale).astype(np.int64)
    return np.argsort(hilbert_distance(x, y), kind="stable")
