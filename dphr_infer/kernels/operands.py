"""Turns gallery rows, queries and row ranges into the arrays that the kernels of `topk.cu` read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

ScanDtype = Literal["fp16", "int8"]

VECTOR_BYTES = 16


@dataclass(frozen=True, slots=True, eq=False)
class Int8Queries:
    """Queries on two int8 levels: q = s1 a + s2 b + residual, and what the upper bound needs to know of them.

    Attributes:
        levels: int8 (Q, 2, D padded), a then b.
        bounds: float32 (Q, 4): s1, s2, norm (>= ||q||), slack (>= what residual and rounding can add to a similarity).
        residual: float32 (Q,), ||q - s1 a - s2 b||, rounded up.
    """

    levels: NDArray[np.int8]
    bounds: NDArray[np.float32]
    residual: NDArray[np.float32]


def vectors_a_row(dim: int, dtype: ScanDtype) -> int:
    """16-byte vectors of one padded row."""
    return -(-dim * (2 if dtype == "fp16" else 1) // VECTOR_BYTES)


def pad_rows(rows: NDArray[Any]) -> NDArray[Any]:
    """(N, D) -> C-contiguous (N, D padded): zeros behind each row up to a multiple of 16 bytes; no copy where none."""
    values = VECTOR_BYTES // rows.dtype.itemsize
    padding = -rows.shape[1] % values
    if padding == 0:
        return np.ascontiguousarray(rows)
    return np.pad(rows, ((0, 0), (0, padding)))


def pad_queries(queries: NDArray[np.float32]) -> NDArray[np.float32]:
    """Layout "float32": float32 (Q, D padded as fp16 rows are), for dot and rerank kernels."""
    padding = -queries.shape[1] % (VECTOR_BYTES // 2)
    return np.ascontiguousarray(np.pad(queries, ((0, 0), (0, padding))))


def split_queries_fp16(queries: NDArray[np.float32]) -> NDArray[np.float16]:
    """Layout "fp16 pair": float16 (Q, 2, D padded), hi then lo, with q = hi + lo / 2048 to within 2^-22 |q|."""
    hi = queries.astype(np.float16)
    lo = ((queries - hi.astype(np.float32)) * np.float32(2048)).astype(np.float16)
    return _pad_pair(hi, lo)


def split_queries_int8(queries: NDArray[np.float32]) -> Int8Queries:
    """Layout "int8 pair" and the bounds that go with it; see `Int8Queries`.

    The slack covers ||residual|| ||s c|| with ||s c|| <= 1.05 for rows of unit length, the float32 roundings of the
    upper bound itself, and those of the fp16 similarity that it is compared with.
    """
    exact = queries.astype(np.float64)
    s1 = _step(exact)
    a = np.rint(exact / s1[:, None])
    rest = exact - s1[:, None].astype(np.float64) * a
    s2 = _step(rest)
    b = np.rint(rest / s2[:, None])
    residual = np.linalg.norm(rest - s2[:, None].astype(np.float64) * b, axis=1)
    norm = np.linalg.norm(exact, axis=1)
    roundings = vectors_a_row(queries.shape[1], "fp16") + 16 + 16
    slack = 1.05 * residual + roundings * 2.0**-23 * norm
    bounds = np.stack([s1, s2, _up(norm), _up(slack)], axis=1)
    return Int8Queries(
        levels=_pad_pair(a.astype(np.int8), b.astype(np.int8)),
        bounds=np.ascontiguousarray(bounds, dtype=np.float32),
        residual=_up(residual),
    )


def prepare_ranges(row_ranges: Sequence[tuple[int, int]]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Sorted, disjoint, non-empty ranges -> int32 (R, 2) and their prefix sums, int32 (R + 1,), 0 first."""
    ranges = np.asarray(row_ranges, np.int32).reshape(-1, 2)
    prefix = np.zeros(len(ranges) + 1, np.int32)
    np.cumsum(ranges[:, 1] - ranges[:, 0], out=prefix[1:])
    return ranges, prefix


def _pad_pair(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(np.stack([pad_rows(first), pad_rows(second)], axis=1))


def _step(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """float32 (Q,) steps so that values / step lies within -127..127; 1 for a query of zeros."""
    largest = np.abs(values).max(axis=1)
    step = _up(largest / 127.0)
    return np.where(step > 0, step, np.float32(1)).astype(np.float32)


def _up(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """The next float32 at or above each value that is not negative."""
    nearest = values.astype(np.float32)
    return np.where(nearest < values, np.nextafter(nearest, np.float32(np.inf)), nearest).astype(np.float32)
