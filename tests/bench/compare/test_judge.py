from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.compare.judge import (
    BATCHES,
    FLOOR,
    MIN_RUNS,
    MIN_SAMPLES,
    STRETCHES,
    judge_runs,
    median_variance,
    student_quantile,
)

N = 662


def test_drift_widens_the_interval_where_shuffling_would_not() -> None:
    rng = np.random.default_rng(0)
    drifting = 10 * np.exp(0.2 * np.linspace(0, 1, N) + 0.02 * rng.normal(size=N))
    assert median_variance(drifting) > 5 * median_variance(rng.permutation(drifting))


def test_the_variance_is_that_of_the_stated_formula() -> None:
    # Batch k holds 8 samples of e^(k/100) and 8 of e^(k/100 + 0.02): its median is their mean, halves differ by 0.02.
    halves = np.array([k / 100 + 0.02 * half for k in range(BATCHES) for half in (0, 1)])
    samples = np.exp(np.repeat(halves, 8))
    medians = np.log([(math.exp(k / 100) + math.exp(k / 100 + 0.02)) / 2 for k in range(BATCHES)])
    spread, local = medians.var(ddof=1), 0.02**2 / 4
    expected = FLOOR**2 + (spread - local) / STRETCHES + local / BATCHES
    assert median_variance(samples) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("probability", "freedom", "table"),
    [(0.975, 9, 2.262), (0.975, 18, 2.101), (0.995, 9, 3.250), (0.9995, 9, 4.781), (0.9995, 18, 3.922), (0.5, 9, 0.0)],
)
def test_students_quantiles_are_those_of_the_tables(probability: float, freedom: float, table: float) -> None:
    assert student_quantile(probability, freedom) == pytest.approx(table, rel=0.01, abs=1e-9)


@given(st.integers(MIN_SAMPLES, 300), st.floats(0.01, 100), st.integers(0, 2**32 - 1))
def test_the_variance_does_not_depend_on_the_unit(n: int, unit: float, seed: int) -> None:
    samples = np.exp(np.random.default_rng(seed).normal(size=n))
    assert median_variance(unit * samples) == pytest.approx(median_variance(samples))
    assert median_variance(samples) >= FLOOR**2


def test_pairs_that_all_changed_alike_have_an_interval_of_no_more_than_rounding() -> None:
    change = judge_runs("whole", [(10.0, 11.0)] * MIN_RUNS, 3)
    assert (change.p50_ms, change.ratio) == (pytest.approx((10.0, 11.0)), pytest.approx(1.1))
    assert (change.low, change.high) == (pytest.approx(1.1, rel=2e-5), pytest.approx(1.1, rel=2e-5))
    tiny = judge_runs("filter", [(0.0012, 0.0013)] * MIN_RUNS, 1)  # 12 and 13 units of the rounding
    assert tiny.verdict == "no change found"
    assert change.verdict == "slower"
    assert change.offends(0.05)
    assert not change.offends(0.2)


def test_the_interval_of_pairs_is_students() -> None:
    # Log ratios of +-0.1 about 0, five of each: s = 0.1 sqrt(10/9), t(0.975, 9) = 2.262.
    pairs = [(10.0, 10.0 * math.exp(0.1 * sign)) for sign in (1, -1)] * 5
    change = judge_runs("whole", pairs, 1)
    assert change.high == pytest.approx(math.exp(2.262 * 0.1 * math.sqrt(10 / 9) / math.sqrt(10)), rel=1e-3)
    assert change.low == pytest.approx(1 / change.high)
    assert change.verdict == "no change found"
    assert change.run_ratios == pytest.approx([math.exp(0.1), math.exp(-0.1)] * 5)


def test_the_change_is_that_of_the_durations_shown() -> None:
    pairs = [(8.0, 9.0), (10.0, 10.5), (20.0, 19.0), (11.0, 14.0)] * 3
    change = judge_runs("whole", pairs, 1)
    assert change.p50_ms[0] == pytest.approx((8 * 10 * 20 * 11) ** 0.25)
    assert change.ratio == pytest.approx(change.p50_ms[1] / change.p50_ms[0])


def test_pairs_without_a_duration_are_not_judged() -> None:
    assert judge_runs("match", [(1.0, 0.0)] * MIN_RUNS, 1).verdict == "not judged: durations of 0 ms"
    assert judge_runs("match", [(0.0, 1.0)] * MIN_RUNS, 1).ratio == math.inf


@given(st.lists(st.floats(0.1, 10), min_size=MIN_RUNS, max_size=30), st.floats(0.5, 2.0), st.integers(1, 20))
def test_swapping_baseline_and_candidate_turns_the_interval_round(a: list[float], factor: float, n: int) -> None:
    pairs = [(value, factor * value * (1.1 if place % 2 else 0.9)) for place, value in enumerate(a)]
    forth, back = judge_runs("x", pairs, n), judge_runs("x", [(right, left) for left, right in pairs], n)
    assert back.ratio == pytest.approx(1 / forth.ratio)
    assert forth.low is not None and forth.high is not None
    assert (back.low, back.high) == (pytest.approx(1 / forth.high), pytest.approx(1 / forth.low))
