"""Samples -> the figures that are reported. A percentile without enough samples is not a number.

Percentiles are nearest-rank: the smallest sample that at least p percent of all samples do not exceed, so each one was
really measured.

The least counts are those of MLPerf Inference's early stopping: n is enough for the p-th percentile when, at 99 %
confidence, at least two of n independent samples lie above the true one. A sample does so with probability 1 - p, so
n is the least with

    P(Binomial(n, 1 - p) <= 1) = p^n + n (1 - p) p^(n-1) <= 0.01

which gives MLPerf's 64 for p90 and 662 for p99, and 6636 for p99.9.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_SAMPLES_P90 = 64
MIN_SAMPLES_P99 = 662
MIN_SAMPLES_P999 = 6636
# Of the standard normal distribution: 95 % lie within.
_Z_95 = 1.96


@dataclass(frozen=True, slots=True)
class LatencySummary:
    """Durations in milliseconds. A percentile is None where n is too small for it."""

    n: int
    p50_ms: float
    p90_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    max_ms: float


def percentile(samples: NDArray[np.float64] | Sequence[float], percent: float) -> float:
    """The nearest-rank percentile of n >= 1 samples in any order; 0 <= percent <= 100."""
    rank = max(1, math.ceil(percent / 100 * len(samples)))
    return float(np.partition(samples, rank - 1)[rank - 1])


def half_width_share(samples: NDArray[np.float64]) -> float:
    """Half the width of the 95 % confidence interval of the p50, over the p50; infinite for too few samples.

    The interval lies between the order statistics of rank n/2 - z sqrt(n)/2 and n/2 + 1 + z sqrt(n)/2, z = 1.96, and
    needs no distribution. It takes samples as independent: where they drift together it is too narrow.
    """
    n = len(samples)
    reach = _Z_95 * math.sqrt(n) / 2
    low, high = math.floor(n / 2 - reach), math.ceil(n / 2 + 1 + reach)
    if low < 1 or high > n:
        return math.inf
    middle = math.ceil(n / 2)
    ordered = np.partition(samples, (low - 1, middle - 1, high - 1))
    if ordered[middle - 1] <= 0:
        return math.inf
    return float((ordered[high - 1] - ordered[low - 1]) / 2 / ordered[middle - 1])


def summarise(samples_ms: NDArray[np.float64]) -> LatencySummary:
    """Summarise float64 (n,), n >= 1."""
    n = len(samples_ms)
    return LatencySummary(
        n=n,
        p50_ms=percentile(samples_ms, 50),
        p90_ms=percentile(samples_ms, 90) if n >= MIN_SAMPLES_P90 else None,
        p99_ms=percentile(samples_ms, 99) if n >= MIN_SAMPLES_P99 else None,
        p999_ms=percentile(samples_ms, 99.9) if n >= MIN_SAMPLES_P999 else None,
        max_ms=float(samples_ms.max()),
    )


def format_ms(value: float) -> str:
    """A duration with three significant digits."""
    digits = 2 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(digits, 4)}f}"


def format_percentile(value: float | None, needed: int) -> str:
    """A percentile, or the number of samples that it lacks."""
    return f"n<{needed}" if value is None else format_ms(value)


def format_summary(summary: LatencySummary) -> list[str]:
    """n, p50, p90, p99, p99.9 and max as table cells."""
    return [
        str(summary.n),
        format_ms(summary.p50_ms),
        format_percentile(summary.p90_ms, MIN_SAMPLES_P90),
        format_percentile(summary.p99_ms, MIN_SAMPLES_P99),
        format_percentile(summary.p999_ms, MIN_SAMPLES_P999),
        format_ms(summary.max_ms),
    ]


def ks_distance(first: Sequence[int], second: Sequence[int]) -> float:
    """Largest difference of two distributions' cumulated shares, each given as counts of the same bins in order."""
    shares = [np.cumsum(counts) / np.sum(counts) for counts in (first, second)]
    return float(np.abs(shares[0] - shares[1]).max())


def ks_p_value(distance: float, first: int, second: int) -> float:
    """How often samples of one distribution come at least so far apart: Kolmogorov's limit for two samples.

    Args:
        distance: of `ks_distance`.
        first, second: sizes of the samples. For counts of few bins the true value is smaller.
    """
    scaled = distance * math.sqrt(first * second / (first + second))
    if scaled < 0.2:  # 1 to twelve digits; the series would need many terms
        return 1.0
    terms = [math.exp(-2 * (i * scaled) ** 2) for i in range(1, 101)]
    return min(1.0, 2 * (sum(terms[::2]) - sum(terms[1::2])))
