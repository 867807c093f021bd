"""Could noise alone have changed a metric so much? From the samples of two runs, or from many runs taken in turns.

**Two runs.** A duration's neighbours resemble each other: clocks drift, another program runs for a second, a cache
stays warm. Tests that take each sample for independent (Mann-Whitney, a plain bootstrap) then find a change between two
runs of the same program; so does a block bootstrap where the drift is longer than a block. So the samples of a run, in
the order of the calls, are cut into BATCHES consecutive batches, and the variance of the log median of the run is taken
as

    v = F^2 + P / STRETCHES + (S - P) / BATCHES,    P = max(0, S - L)

    S   variance of the batches' log medians,
    L   what S would be if only local noise moved them: a quarter of the variance of the difference between the log
        medians of a batch's two halves,
    P   the rest, which outlives a batch. It is taken to live for half the run, so that STRETCHES of it are averaged.
    F   two runs of one program differ by about this much in ways that are constant within each (the place of the
        memory, what the host's other guests do), which no sample of theirs can show. An assumption, not a
        measurement: FLOOR on a machine of one's own, SHARED_FLOOR on a virtual one.

With medians a and b of all samples, the change is log(b / a), its variance v_a + v_b, and its interval Student's with
Welch's degrees of freedom.

**Many runs.** Where baseline and candidate were run in turns, nothing has to be assumed. The pairs' log ratios of
medians have mean m and standard deviation s, and the interval is m -/+ t s / sqrt(pairs), with Student's t at pairs - 1
degrees of freedom.

To either interval comes what the rounding of the samples may do. It holds at 95 % for all metrics of a comparison
together (Bonferroni), so that a report with twenty metrics is no likelier to be blamed than one with a single.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from bench.compare.series import Series

BATCHES = 10
# Six samples a batch, and MLPerf's least count for a p90.
MIN_SAMPLES = 64
TOO_FEW = f"n<{MIN_SAMPLES}"
# `student_quantile` is right to 1 % from 9 degrees of freedom on.
MIN_RUNS = 10
CONFIDENCE = 0.95
FLOOR = 0.01
# Runs of some seconds of one program scattered by 7 to 17 % on the virtual machine of the reports, by metric.
SHARED_FLOOR = 0.12
STRETCHES = 2
# Of the samples in a report.
ROUNDING_MS = 1e-4


@dataclass(frozen=True, slots=True)
class Change:
    """One metric of a baseline and a candidate.

    Attributes:
        n: samples of each, or runs where they were judged by those.
        p50_ms: of all samples; the geometric mean over the runs' p50 where there are many, whose ratio is the change.
        ratio: candidate / baseline; above 1 is slower.
        low, high: interval of the ratio; None where it cannot be judged.
        not_judged: why not; empty where it is.
        lost_samples: the baseline has enough samples, and the candidate too few although it is slower than two runs of
            one program are taken to be: a case of limited time makes fewer as it gets slower.
        run_ratios: candidate / baseline of each pair of runs; empty for two single runs.
    """

    name: str
    n: tuple[int, int]
    p50_ms: tuple[float, float]
    ratio: float
    low: float | None
    high: float | None
    not_judged: str
    lost_samples: bool = False
    run_ratios: tuple[float, ...] = ()

    @property
    def verdict(self) -> str:
        """ "slower", "faster", "no change found", or why there is none."""
        if self.low is None or self.high is None:
            return f"not judged: {self.not_judged}"
        return "slower" if self.low > 1 else "faster" if self.high < 1 else "no change found"

    def offends(self, fail_above: float) -> bool:
        """Slower by more than this share: beyond noise, or so that it lost the samples to be judged by."""
        return self.ratio > 1 + fail_above and ((self.low or 0) > 1 or self.lost_samples)


def student_quantile(probability: float, freedom: float) -> float:
    """Quantile of Student's distribution by its expansion about the normal one, Abramowitz and Stegun 26.7.5.

    Within 1 % for 9 degrees of freedom and more at probabilities of 0.0005 to 0.9995.
    """
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom ** (power + 1) for power, term in enumerate(terms))


def _least_half(a_ms: float, b_ms: float) -> float:
    """How far the rounding of samples alone may move a log ratio."""
    return ROUNDING_MS / 2 * (1 / a_ms + 1 / b_ms)


def _quantile(n_metrics: int, freedom: float) -> float:
    return student_quantile(1 - (1 - CONFIDENCE) / 2 / n_metrics, freedom)


def _log_medians(samples_ms: NDArray[np.float64], parts: int) -> NDArray[np.float64]:
    return np.log([np.median(part) for part in np.array_split(samples_ms, parts)])


def median_variance(samples_ms: NDArray[np.float64], floor: float = FLOOR) -> float:
    """Variance of the log of the median of float64 (n,), n >= MIN_SAMPLES, all above 0; see the head of this file."""
    batches = float(np.var(_log_medians(samples_ms, BATCHES), ddof=1))
    halves = _log_medians(samples_ms, 2 * BATCHES)
    # The halves' difference has no mean: both come from the same distribution unless the run drifts within a batch.
    local = float(np.mean((halves[1::2] - halves[::2]) ** 2)) / 4
    lasting = max(0.0, batches - local)
    return floor**2 + lasting / STRETCHES + (batches - lasting) / BATCHES


def obstacle(a: Series, b: Series) -> str:
    """Why two runs' samples of a metric cannot be judged; empty where they can."""
    if a.samples_ms is None or b.samples_ms is None:
        return "no samples"
    if min(a.samples_ms.min(), b.samples_ms.min()) == 0:
        return "durations of 0 ms"
    return TOO_FEW if min(a.n, b.n) < MIN_SAMPLES else ""


def judge_two(a: Series, b: Series, n_metrics: int, floor: float, why_not: str) -> Change:
    """Two runs by their samples; `n_metrics` share the confidence, `why_not` leaves the metric unjudged."""
    ratio = b.p50_ms / a.p50_ms if a.p50_ms else math.inf if b.p50_ms else 1.0
    counts, medians = (a.n, b.n), (a.p50_ms, b.p50_ms)
    if why_not or a.samples_ms is None or b.samples_ms is None:
        usual = math.exp(_quantile(n_metrics, 2 * (BATCHES - 1)) * floor * math.sqrt(2))
        lost = why_not == TOO_FEW and a.n >= MIN_SAMPLES > b.n and ratio > usual
        return Change(a.name, counts, medians, ratio, None, None, why_not, lost)
    left, right = median_variance(a.samples_ms, floor), median_variance(b.samples_ms, floor)
    freedom = (left + right) ** 2 * (BATCHES - 1) / (left**2 + right**2)
    half = _quantile(n_metrics, freedom) * math.sqrt(left + right) + _least_half(*medians)
    return Change(a.name, counts, medians, ratio, ratio * math.exp(-half), ratio * math.exp(half), "")


def judge_runs(name: str, medians_ms: Sequence[tuple[float, float]], n_metrics: int, why_not: str = "") -> Change:
    """Runs in turns by how their pairs scatter; needs MIN_RUNS pairs unless `why_not` says why it is left unjudged.

    Args:
        medians_ms: (baseline, candidate) of each pair, at least one.
    """
    pairs = np.array(medians_ms)
    counts = (len(pairs), len(pairs))
    if pairs.min() <= 0:
        a, b = (float(value) for value in np.median(pairs, axis=0))
        return Change(name, counts, (a, b), b / a if a else math.inf, None, None, "durations of 0 ms")
    a, b = (float(value) for value in np.exp(np.log(pairs).mean(axis=0)))
    ratios = pairs[:, 1] / pairs[:, 0]
    mean, shown = float(np.log(ratios).mean()), tuple(float(ratio) for ratio in ratios)
    if why_not:
        return Change(name, counts, (a, b), math.exp(mean), None, None, why_not, run_ratios=shown)
    half = _quantile(n_metrics, len(pairs) - 1) * float(np.log(ratios).std(ddof=1)) / math.sqrt(len(pairs))
    half += _least_half(a, b)
    low, high = math.exp(mean - half), math.exp(mean + half)
    return Change(name, counts, (a, b), math.exp(mean), low, high, "", run_ratios=shown)
