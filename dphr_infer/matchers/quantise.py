"""Exact search by int8 codes: scan cheap upper bounds, re-rank a few rows exactly, and prove that no other row enters.

A gallery row is g ~ scale * c and a query q ~ first_scale * a + second_scale * b, with c, a, b int8 in [-127, 127].
With e = g - scale * c and r = q - first_scale * a - second_scale * b,

    g . q = scale * (first_scale * (a . c) + second_scale * (b . c))  +  e . q  +  scale * (c . r)

and by Cauchy-Schwarz the last two terms are at most ||e|| ||q|| + ||scale * c|| ||r||. That sum is the upper bound. If
the k-th best exact similarity lies above the smallest bound that was kept, no row that was not kept can be among the
best k; otherwise more rows are kept and the scan is repeated.

tests/references/plain_matching.py holds the bounds and the search by them as plainly as this is written.
"""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import GalleryError

LARGEST_CODE = 127
WIDEN_BY = 4

# Relative errors of the float64 sums below are under D * 2^-52; this covers D up to 2^21.
_SUM_MARGIN = 1 + 2.0**-30
# Of one step of a float32 sum: 2^-24 where it rounds to nearest, 2^-23 where a tensor core cuts off.
_STEP_ERROR = 2.0**-23
# Nine roundings of 2^-24 each make a bound; sixteen are granted.
_BOUND_ERROR = 2.0**-20
# A device may flush numbers below 2^-126 to zero.
_FLUSHED = 2.0**-100
# In the second-level cache as float64, twice.
_VALUES_AT_ONCE = 1 << 15
_ROWS_A_SHARE = 1 << 13


@dataclass(frozen=True, slots=True, eq=False)
class QuantisedRows:
    """Gallery rows as int8, each with its own scale.

    Attributes:
        codes:   int8 (N, D), in [-127, 127].
        scale:   float32 (N,), >= 0; 0 for a row of zeros.
        error:   float32 (N,), at least ||g - scale * codes||.
        longest: at least ||scale * codes|| of every row.
    """

    codes: NDArray[np.int8]
    scale: NDArray[np.float32]
    error: NDArray[np.float32]
    longest: float


@dataclass(frozen=True, slots=True, eq=False)
class SplitQueries:
    """Queries as two levels of int8.

    Attributes:
        first, second:             int8 (Q, D), in [-127, 127].
        first_scale, second_scale: float32 (Q,).
        residual:                  float32 (Q,), at least ||q - first_scale * first - second_scale * second||.
        length:                    float32 (Q,), at least ||q||.
    """

    first: NDArray[np.int8]
    second: NDArray[np.int8]
    first_scale: NDArray[np.float32]
    second_scale: NDArray[np.float32]
    residual: NDArray[np.float32]
    length: NDArray[np.float32]


def round_up(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """The least float32 that is not below each value."""
    nearest = values.astype(np.float32)
    higher: NDArray[np.float32] = np.nextafter(nearest, np.float32(np.inf))
    return np.where(nearest < values, higher, nearest)


def _lengths(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """At least the length of each row."""
    lengths: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", vectors, vectors)) * _SUM_MARGIN
    return lengths


def _encode(
    vectors: NDArray[np.float64], whole: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """Turn vectors (n, D) in place into what their codes leave of them, and `whole` into those codes.

    Returns:
        Scales float32 (n,); lengths of what is left, and of scale * codes, float64 (n,): at least those.
    """
    highest = np.maximum(vectors.max(axis=1), -vectors.min(axis=1))
    scale = (highest / LARGEST_CODE).astype(np.float32)
    factor = scale.astype(np.float64)
    np.divide(vectors, np.where(scale > 0, factor, 1)[:, None], out=whole)
    np.rint(whole, out=whole)
    np.clip(whole, -LARGEST_CODE, LARGEST_CODE, out=whole)
    lengths = factor * _lengths(whole)
    vectors -= whole * factor[:, None]
    return scale, _lengths(vectors), lengths


def quantise_rows(gallery: NDArray[np.float16] | NDArray[np.float32], pool: Executor | None = None) -> QuantisedRows:
    """Quantise each row symmetrically: its largest magnitude becomes 127.

    Args:
        gallery: float16 or float32 (N, D); needs 25 % (of float32) as much memory again, and 2 MB a thread to work in.
        pool: threads to share the work; None is this one.

    Raises:
        GalleryError: a row is not finite.
    """
    n, dim = gallery.shape
    codes, scale, error = np.empty((n, dim), np.int8), np.empty(n, np.float32), np.empty(n, np.float32)
    step = max(1, _VALUES_AT_ONCE // dim)

    def quantise(first: int, last: int) -> float:
        vectors, longest = np.empty((2, min(step, last - first), dim)), 0.0
        for start in range(first, last, step):
            part = slice(start, min(start + step, last))
            rows, whole = vectors[:, : part.stop - start]
            np.copyto(rows, gallery[part])
            with np.errstate(invalid="ignore"):
                finite = np.isfinite(rows.sum())
            if not finite:
                raise GalleryError(
                    f"Gallery rows {start}..{part.stop - 1} hold values that are not finite: build it again."
                )
            scale[part], left, lengths = _encode(rows, whole)
            codes[part], error[part] = whole, round_up(left)
            longest = max(longest, float(lengths.max()))
        return longest

    shares = [(first, min(first + _ROWS_A_SHARE, n)) for first in range(0, n, _ROWS_A_SHARE)]
    longest = max((map if pool is None else pool.map)(lambda share: quantise(*share), shares))
    return QuantisedRows(codes, scale, error, float(round_up(np.array(longest))))


def split_queries(queries: NDArray[np.float32]) -> SplitQueries:
    """Quantise each query, then what that left of it.

    Args:
        queries: float32 (Q, D), finite.
    """
    left, levels = queries.astype(np.float64), np.empty((2, *queries.shape))
    length = round_up(_lengths(left))
    first_scale, _, _ = _encode(left, levels[0])
    second_scale, residual, _ = _encode(left, levels[1])
    first, second = levels.astype(np.int8)
    return SplitQueries(first, second, first_scale, second_scale, round_up(residual), length)


def _slack(
    longest: float,
    largest_error: float,
    dim: int,
    length: NDArray[np.float64],
    levels: NDArray[np.float64],
    residual: NDArray[np.float64],
) -> NDArray[np.float32]:
    """See `bound_slack`; float64 (Q,): at least ||q||, the length of what is multiplied with codes, and the residual.

    It covers, in this order: ||scale * c|| times the residual; the rounding of the float32 similarity that the bound
    is compared with, summed in whatever order (at most D + 1 steps, each relative to at most ||g|| ||q||, where
    ||g|| <= longest + error); and the rounding of the bound itself, every intermediate of which is at most the sum of
    the magnitudes of its terms.
    """
    gallery_length = longest + largest_error
    from_residual = longest * residual
    from_summing = (dim + 1) * _STEP_ERROR * gallery_length * length
    magnitude = longest * levels + gallery_length * length + from_residual + from_summing
    return round_up((from_residual + from_summing + _BOUND_ERROR * magnitude) * _SUM_MARGIN + _FLUSHED)


def bound_slack(longest: float, largest_error: float, split: SplitQueries) -> NDArray[np.float32]:
    """The part of the upper bounds that is the same for all rows: float32 (Q,).

    Args:
        longest, largest_error: at least ||scale * c|| and the error of every row.
    """
    levels = split.first_scale * _lengths(split.first.astype(np.float64))
    levels += split.second_scale * _lengths(split.second.astype(np.float64))
    length, residual = split.length.astype(np.float64), split.residual.astype(np.float64)
    return _slack(longest, largest_error, split.first.shape[1], length, levels, residual)


def float_slack(longest: float, largest_error: float, queries: NDArray[np.float32]) -> NDArray[np.float32]:
    """As `bound_slack`, where a float32 sum of q_i c_i in whatever order takes the place of both integer products.

    The bound is then scale * (q . c) + error * length + slack, with any length that is at least ||q|| and at most twice
    that. What that sum rounds, at most D + 1 steps relative to ||q|| ||c||, takes the place of the residual.
    """
    length, dim = _lengths(queries.astype(np.float64)), queries.shape[1]
    return _slack(longest, largest_error, dim, 2 * length, length, (dim + 1) * _STEP_ERROR * length)
