from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import kolmogorov
from scipy.stats import ks_2samp

from dphr_infer.measure.stats import (
    MIN_SAMPLES_P90,
    MIN_SAMPLES_P99,
    MIN_SAMPLES_P999,
    format_ms,
    format_percentile,
    format_summary,
    half_width_share,
    ks_distance,
    ks_p_value,
    percentile,
    summarise,
)


def test_percentiles_are_nearest_rank() -> None:
    samples = np.arange(10, 0, -1).astype(float)
    assert [percentile(samples, p) for p in (10, 50, 90, 99, 100)] == [1, 5, 9, 10, 10]
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [percentile(values, p) for p in (50, 90, 20, 21, 100, 0)] == [3.0, 5.0, 1.0, 2.0, 5.0, 1.0]


@pytest.mark.parametrize(("percent", "n"), [(90, MIN_SAMPLES_P90), (99, MIN_SAMPLES_P99), (99.9, MIN_SAMPLES_P999)])
def test_the_least_numbers_of_samples_are_those_of_the_stated_rule(percent: float, n: int) -> None:
    def doubt(count: int) -> float:
        p = percent / 100
        return p**count + count * (1 - p) * p ** (count - 1)

    assert doubt(n) <= 0.01 < doubt(n - 1)


def test_at_the_least_number_two_samples_lie_above_a_p90_in_99_of_100_runs() -> None:
    runs = np.random.default_rng(0).uniform(size=(20_000, 64))
    assert ((runs > 0.9).sum(axis=1) >= 2).mean() == pytest.approx(0.99, abs=0.003)


@pytest.mark.parametrize(
    ("n", "known"),
    [
        (63, (False, False, False)),
        (64, (True, False, False)),
        (661, (True, False, False)),
        (662, (True, True, False)),
        (6635, (True, True, False)),
        (6636, (True, True, True)),
    ],
)
def test_a_percentile_needs_its_number_of_samples(n: int, known: tuple[bool, ...]) -> None:
    summary = summarise(np.linspace(1, 2, n))
    assert tuple(value is not None for value in (summary.p90_ms, summary.p99_ms, summary.p999_ms)) == known


def test_a_missing_percentile_prints_how_many_samples_it_needs() -> None:
    cells = format_summary(summarise(np.array([1.0, 2.0, 3.0])))
    assert cells == ["3", "2.00", "n<64", "n<662", "n<6636", "3.00"]
    assert format_percentile(1.5, 64) == "1.50"


def test_the_half_width_is_that_of_the_order_statistics() -> None:
    """n = 100: ranks 50 - 9.8 and 51 + 9.8, outward: 40 and 61; the p50 is the 50th."""
    samples = np.arange(100, 0, -1).astype(float)
    assert half_width_share(samples) == pytest.approx((61 - 40) / 2 / 50)
    assert half_width_share(np.full(50, 3.0)) == 0
    assert half_width_share(np.array([1.0, 2.0, 3.0])) == math.inf


def test_the_interval_of_the_median_holds_the_true_one_in_95_of_100_runs() -> None:
    held = 0
    for run in np.random.default_rng(1).exponential(size=(2000, 80)):
        ordered = np.sort(run)
        reach = 1.96 * math.sqrt(80) / 2
        held += ordered[math.floor(40 - reach) - 1] <= math.log(2) <= ordered[math.ceil(41 + reach) - 1]
        width = (ordered[math.ceil(41 + reach) - 1] - ordered[math.floor(40 - reach) - 1]) / 2 / ordered[39]
        assert half_width_share(run) == pytest.approx(width)
    assert 0.94 < held / 2000 < 0.99


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0.00"), (0.01234, "0.0123"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1234")]
)
def test_durations_have_three_significant_digits(value: float, text: str) -> None:
    assert format_ms(value) == text


def test_the_ks_distance_is_the_largest_difference_of_cumulated_shares() -> None:
    # 0.5, 0.75, 1 against 0.1, 0.3, 1.
    assert ks_distance([2, 1, 1], [1, 2, 7]) == pytest.approx(0.45)
    assert ks_distance([3, 0, 1], [6, 0, 2]) == 0
    first, second = [0] * 2 + [1] + [2], [0] + [1] * 2 + [2] * 7
    assert ks_distance([2, 1, 1], [1, 2, 7]) == pytest.approx(ks_2samp(first, second).statistic)


@pytest.mark.parametrize("distance", [0.0, 0.05, 0.11, 0.2, 0.3, 0.45, 0.7, 1.0])
@pytest.mark.parametrize(("first", "second"), [(8, 100), (20, 100), (300, 200)])
def test_the_ks_p_value_is_kolmogorov_s(distance: float, first: int, second: int) -> None:
    scaled = distance * math.sqrt(first * second / (first + second))
    assert ks_p_value(distance, first, second) == pytest.approx(kolmogorov(scaled), rel=1e-9, abs=1e-300)


def test_samples_of_one_distribution_are_seldom_told_apart() -> None:
    rng, shares = np.random.default_rng(4), [0.55, 0.2, 0.1, 0.05, 0.1]
    pairs = ((rng.multinomial(20, shares), rng.multinomial(100, shares)) for _ in range(2000))
    apart = sum(ks_p_value(ks_distance(a.tolist(), b.tolist()), 20, 100) < 0.01 for a, b in pairs)
    assert apart <= 20
