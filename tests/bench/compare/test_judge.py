from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from bench.compare.judge import BATCHES, MIN_RUNS, MIN_SAMPLES, ROUNDING_MS, compare_two, judge_runs
from bench.compare.series import Series

N = 662


def series(samples_ms: NDArray[np.float64]) -> Series:
    return Series("whole", len(samples_ms), float(np.median(samples_ms)), samples_ms)


def width(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Of the interval of the log ratio of two runs."""
    change = compare_two(series(a), series(b))
    assert change.low is not None and change.high is not None
    return math.log(change.high / change.low)


def test_drift_widens_the_interval_where_shuffling_would_not() -> None:
    rng = np.random.default_rng(0)
    drifting, steady = np.exp(0.2 * np.linspace(0, 1, N) + 0.02 * rng.normal(size=N)), np.exp(0.02 * rng.normal(size=N))
    assert width(10 * drifting, steady) > 2 * width(10 * rng.permutation(drifting), steady)


def test_the_interval_of_two_runs_is_welchs_over_the_medians_of_their_batches() -> None:
    rng = np.random.default_rng(0)
    a, b = 1e3 * np.exp(0.05 * rng.normal(size=N)), 1.2e3 * np.exp(0.2 * rng.normal(size=2 * N))
    logs = [np.log([np.median(part) for part in np.array_split(samples, BATCHES)]) for samples in (a, b)]
    expected = stats.ttest_ind(logs[1], logs[0], equal_var=False).confidence_interval(0.95)
    change = compare_two(series(a), series(b))
    assert change.low is not None and change.high is not None
    assert (math.log(change.low), math.log(change.high)) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert change.verdict == ""
    assert not change.offends(0.05)


def test_runs_of_one_duration_have_an_interval_of_no_more_than_rounding() -> None:
    change = compare_two(series(np.full(N, 10.0)), series(np.full(N, 10.0)))
    assert change.ratio == 1
    assert (change.low, change.high) == pytest.approx((math.exp(-ROUNDING_MS / 10), math.exp(ROUNDING_MS / 10)))


@given(st.integers(MIN_SAMPLES, 300), st.floats(1, 100), st.integers(0, 2**32 - 1))
def test_the_interval_does_not_depend_on_the_unit(n: int, unit: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = 1e3 * np.exp(rng.normal(size=n)), 1e3 * np.exp(rng.normal(size=n))
    assert width(unit * a, unit * b) == pytest.approx(width(a, b), abs=1e-6)


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
    assert judge_runs("match", [(1.0, 0.0)] * MIN_RUNS, 1).verdict == "no interval: durations of 0 ms"
    assert judge_runs("match", [(0.0, 1.0)] * MIN_RUNS, 1).ratio == math.inf


@given(st.lists(st.floats(0.1, 10), min_size=MIN_RUNS, max_size=30), st.floats(0.5, 2.0), st.integers(1, 20))
def test_swapping_baseline_and_candidate_turns_the_interval_round(a: list[float], factor: float, n: int) -> None:
    pairs = [(value, factor * value * (1.1 if place % 2 else 0.9)) for place, value in enumerate(a)]
    forth, back = judge_runs("x", pairs, n), judge_runs("x", [(right, left) for left, right in pairs], n)
    assert back.ratio == pytest.approx(1 / forth.ratio)
    assert forth.low is not None and forth.high is not None
    assert (back.low, back.high) == (pytest.approx(1 / forth.high), pytest.approx(1 / forth.low))
