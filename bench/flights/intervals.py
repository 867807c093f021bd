"""A figure with its count and its 95 % interval; each interval says what it takes as independent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Figure:
    """A value, None where there is nothing to tell it from, and an interval that is None where n is too small.

    Attributes:
        n: what it was taken from: frames, segments or flights, as the figure's name says.
        k: of a share, how many.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    k: int | None = None


def share(k: int, n: int, method: Literal["wilson", "exact"] = "wilson") -> Figure:
    """The share k / n, by Wilson's interval or by that of Clopper and Pearson ("exact"), which is never too short."""
    from scipy.stats import binomtest

    if n == 0:
        return Figure(None, None, None, 0, 0)
    interval = binomtest(k, n).proportion_ci(CONFIDENCE, method)
    return Figure(k / n, float(interval.low), float(interval.high), n, k)


def quantile(values: NDArray[np.float64], q: float) -> Figure:
    """The nearest-rank quantile between order statistics that hold it whatever the distribution is (Conover 1999)."""
    from scipy.stats import binom

    n = len(values)
    if n == 0:
        return Figure(None, None, None, 0)
    ordered = np.sort(values)
    tail = (1 - CONFIDENCE) / 2
    # The true quantile has k of n samples below it with probability binom(n, q).pmf(k).
    first, last = int(binom.ppf(tail, n, q)), int(binom.ppf(1 - tail, n, q)) + 1
    low = None if first < 1 else float(ordered[first - 1])
    high = None if last > n else float(ordered[last - 1])
    return Figure(float(ordered[max(1, math.ceil(q * n)) - 1]), low, high, n)


def mean(values: NDArray[np.float64], groups: NDArray[np.int64]) -> Figure:
    """The mean, and its interval by resampling whole groups, so that values of one group need not be independent."""
    n = len(values)
    if n == 0:
        return Figure(None, None, None, 0)
    _, index = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(index, values), np.bincount(index)
    if len(sums) < 2:
        return Figure(float(values.mean()), None, None, n)
    drawn = np.random.default_rng(0).integers(0, len(sums), (_RESAMPLES, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Figure(float(values.mean()), float(low), float(high), n)


def root(figure: Figure) -> Figure:
    """Of a mean of squares, its root: the RMSE and its interval."""
    value, low, high = (None if end is None else math.sqrt(end) for end in (figure.value, figure.low, figure.high))
    return Figure(value, low, high, figure.n)
