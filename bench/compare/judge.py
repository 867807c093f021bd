"""How much a metric changed, and between which bounds, from the samples of two runs or from many runs taken in turns.

**Two runs** show only what varies within each. A duration's neighbours resemble each other (clocks drift, another
program runs for a second), so the samples of a run, in the order of the calls, are cut into BATCHES consecutive
batches, and the interval is Welch's for the difference of the batches' mean log medians. Two runs of one program also
differ in what is constant within each, such as the place of the memory or the other guests of the host: an interval
that leaves out 1 is no verdict, and none is given.

**Many runs**, baseline and candidate in turns, show that too. The pairs' log ratios of medians have mean m and standard
deviation s, and the interval is m -/+ t s / sqrt(pairs), with Student's t at pairs - 1 degrees of freedom. It holds at
95 % for all metrics of a comparison together (Bonferroni), so that a report with twenty metrics is no likelier to be
blamed than one with a single.

To either interval comes what the rounding of the samples may do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.compare.series import Series

BATCHES = 10
MIN_SAMPLES = 64  # six per batch, and MLPerf's least count for a p90
MIN_RUNS = 10
CONFIDENCE = 0.95
ROUNDING_MS = 1e-4  # of the samples in a report


@dataclass(frozen=True, slots=True)
class Change:
    """One metric of a baseline and a candidate.

    Attributes:
        n: samples of each, or runs where there are many.
        p50_ms: of all samples; the geometric mean over the runs' p50 where there are many, whose ratio is the change.
        ratio: candidate / baseline; above 1 is slower.
        low, high: interval of the ratio; None where there is none.
        no_interval: why not; empty where there is one.
        run_ratios: candidate / baseline of each pair of runs; empty for two single runs.
    """

    name: str
    n: tuple[int, int]
    p50_ms: tuple[float, float]
    ratio: float
    low: float | None
    high: float | None
    no_interval: str
    run_ratios: tuple[float, ...] = ()

    @property
    def verdict(self) -> str:
        """ "slower", "faster" or "no change found" of many runs, or why there is none; empty of two single runs."""
        if self.low is None or self.high is None:
            return f"no interval: {self.no_interval}"
        if not self.run_ratios:
            return ""
        return "slower" if self.low > 1 else "faster" if self.high < 1 else "no change found"

    def offends(self, fail_above: float) -> bool:
        """Of many runs: slower by more than this share, beyond noise."""
        return bool(self.run_ratios) and self.ratio > 1 + fail_above and (self.low or 0) > 1


def _quantile(n_metrics: int, freedom: float) -> float:
    from scipy.stats import t

    return float(t.ppf(1 - (1 - CONFIDENCE) / 2 / n_metrics, freedom))


def _bounds(middle: float, half: float, p50_ms: tuple[float, float]) -> tuple[float, float]:
    """The interval of a ratio whose log lies at `middle`, with what rounding alone may do."""
    half += ROUNDING_MS / 2 * (1 / p50_ms[0] + 1 / p50_ms[1])
    return math.exp(middle - half), math.exp(middle + half)


def _log_medians(samples_ms: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log([np.median(part) for part in np.array_split(samples_ms, BATCHES)])


def _obstacle(a: Series, b: Series) -> str:
    if a.samples_ms is None or b.samples_ms is None:
        return "no samples"
    if min(a.samples_ms.min(), b.samples_ms.min()) == 0:
        return "durations of 0 ms"
    return f"n<{MIN_SAMPLES}" if min(a.n, b.n) < MIN_SAMPLES else ""


def compare_two(a: Series, b: Series) -> Change:
    """Two runs by their samples."""
    ratio = b.p50_ms / a.p50_ms if a.p50_ms else math.inf if b.p50_ms else 1.0
    counts, medians, why_not = (a.n, b.n), (a.p50_ms, b.p50_ms), _obstacle(a, b)
    if why_not or a.samples_ms is None or b.samples_ms is None:
        return Change(a.name, counts, medians, ratio, None, None, why_not)
    left, right = _log_medians(a.samples_ms), _log_medians(b.samples_ms)
    errors = [float(np.var(batches, ddof=1)) / BATCHES for batches in (left, right)]
    squares = sum(error**2 for error in errors)
    freedom = sum(errors) ** 2 * (BATCHES - 1) / squares if squares else 2.0 * (BATCHES - 1)
    half = _quantile(1, freedom) * math.sqrt(sum(errors))
    return Change(a.name, counts, medians, ratio, *_bounds(float(right.mean() - left.mean()), half, medians), "")


def judge_runs(name: str, medians_ms: Sequence[tuple[float, float]], n_metrics: int, why_not: str = "") -> Change:
    """Runs in turns by how their pairs scatter; needs MIN_RUNS pairs unless `why_not` says why there is no interval.

    Args:
        medians_ms: (baseline, candidate) of each pair, at least one.
        n_metrics: that share the confidence.
    """
    pairs = np.array(medians_ms)
    counts = (len(pairs), len(pairs))
    if pairs.min() <= 0:
        a, b = (float(value) for value in np.median(pairs, axis=0))
        return Change(name, counts, (a, b), b / a if a else math.inf, None, None, "durations of 0 ms")
    a, b = (float(value) for value in np.exp(np.log(pairs).mean(axis=0)))
    logs = np.log(pairs[:, 1] / pairs[:, 0])
    mean, shown = float(logs.mean()), tuple(float(ratio) for ratio in np.exp(logs))
    if why_not:
        return Change(name, counts, (a, b), math.exp(mean), None, None, why_not, shown)
    half = _quantile(n_metrics, len(pairs) - 1) * float(logs.std(ddof=1)) / math.sqrt(len(pairs))
    return Change(name, counts, (a, b), math.exp(mean), *_bounds(mean, half, (a, b)), "", shown)
