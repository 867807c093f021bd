"""Samples -> the figures that are reported. A percentile without enough samples is not a number.

Percentiles are nearest-rank: the smallest sample that at least p percent of all samples do not exceed, so each one was
really measured. The least counts are MLPerf's: 64 samples for a p90, 662 for a p99.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_SAMPLES_P90 = 64
MIN_SAMPLES_P99 = 662


@dataclass(frozen=True, slots=True)
class LatencySummary:
    """Durations in milliseconds. `p90_ms` and `p99_ms` are None where n is too small for them."""

    n: int
    p50_ms: float
    p90_ms: float | None
    p99_ms: float | None
    max_ms: float


def percentile(samples: NDArray[np.float64], percent: float) -> float:
    """The nearest-rank percentile of float64 (n,), n >= 1, any order."""
    rank = max(1, math.ceil(percent / 100 * len(samples)))
    return float(np.partition(samples, rank - 1)[rank - 1])


def summarise(samples_ms: NDArray[np.float64]) -> LatencySummary:
    """Summarise float64 (n,), n >= 1."""
    n = len(samples_ms)
    return LatencySummary(
        n=n,
        p50_ms=percentile(samples_ms, 50),
        p90_ms=percentile(samples_ms, 90) if n >= MIN_SAMPLES_P90 else None,
        p99_ms=percentile(samples_ms, 99) if n >= MIN_SAMPLES_P99 else None,
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
    """n, p50, p90, p99 and max as table cells."""
    return [
        str(summary.n),
        format_ms(summary.p50_ms),
        format_percentile(summary.p90_ms, MIN_SAMPLES_P90),
        format_percentile(summary.p99_ms, MIN_SAMPLES_P99),
        format_ms(summary.max_ms),
    ]
