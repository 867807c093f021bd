"""Which places are near which, on the ground or in the embedding: the lists that hard batches are drawn from.

Sample4Geo (Deuser et al., ICCV 2023) starts with the ground (GPS sampling) and turns to the embedding after a few
epochs (dynamic similarity sampling, DSS). The original code feeds degrees to a haversine that wants radians; here the
distances are what their name says.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dphr_infer.errors import DatasetError
from dphr_infer.matchers.exact import NumpyExactMatcher
from dphr_train.types import Positions

_BLOCK = 1024


def nearest_places(positions: Positions, count: int) -> NDArray[np.int64]:
    """The nearest other places of each place on the ground.

    In degrees, nearest by great circle: the chord between two points of the unit sphere grows with the haversine
    distance, so a k-d tree over chords has the same order. In metres, nearest in the plane.

    Args:
        positions: of N places.
        count: neighbours a place; fewer where there are fewer other places.

    Returns:
        int64 (N, min(count, N - 1)), nearest first; equal distances by the lower row.

    Raises:
        DatasetError: a coordinate is not finite, or there is one place only.
    """
    values = np.asarray(positions.values, np.float64)
    n = len(values)
    if n < 2 or not np.isfinite(values).all():
        raise DatasetError(
            f"Neighbours need at least 2 places with finite coordinates; there are {n} places, "
            f"{int((~np.isfinite(values)).any(axis=1).sum())} of them without."
        )
    points = _on_unit_sphere(values) if positions.kind == "degrees" else values
    keep = min(count, n - 1)
    distance, rows = cKDTree(points).query(points, k=keep + 1)
    order = np.lexsort((rows, distance))
    return _without_self(np.take_along_axis(rows, order, axis=1).astype(np.int64))


def most_similar(queries: NDArray[np.float32], references: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """DSS: for each place, the other places whose reference is most similar to its query.

    Args:
        queries, references: float32 (N, D), unit length; row i of both shows place i.
        count: neighbours a place; fewer where there are fewer other places.

    Returns:
        int64 (N, min(count, N - 1)), most similar first; a place is never its own neighbour.
    """
    n = len(references)
    keep = min(count, n - 1)
    with NumpyExactMatcher(references) as matcher:
        blocks = [
            matcher.match(np.ascontiguousarray(queries[start : start + _BLOCK]), keep + 1).rows
            for start in range(0, n, _BLOCK)
        ]
    return _without_self(np.concatenate(blocks).astype(np.int64))


def _on_unit_sphere(degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    latitude, longitude = np.radians(degrees).T
    return np.stack(
        [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], axis=1
    )


def _without_self(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N, keep + 1) candidates of each place -> (N, keep) without the place itself.

    Where a place is not among its own candidates, the last one is one too many.
    """
    other = rows != np.arange(len(rows))[:, None]
    other[other.all(axis=1), -1] = False
    without: NDArray[np.int64] = rows[other].reshape(len(rows), -1)
    return without
