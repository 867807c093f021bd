import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dphr_infer.register.false_alarms import log10_false_alarms, log10_tail


def exact_tail(successes: int, trials: int, probability: Fraction) -> Fraction:
    return sum(
        (
            math.comb(trials, k) * probability**k * (1 - probability) ** (trials - k)
            for k in range(max(successes, 0), trials + 1)
        ),
        Fraction(0),
    )


def log10_of(value: Fraction) -> float:
    """Of numerator and denominator apart: neither need fit a float."""
    return math.log10(value.numerator) - math.log10(value.denominator) if value else -math.inf


@given(st.integers(-2, 65), st.integers(0, 60), st.fractions(0, 1, max_denominator=10_000))
def test_the_tail_is_the_exact_sum(successes: int, trials: int, probability: Fraction) -> None:
    expected = log10_of(exact_tail(successes, trials, probability))
    found = log10_tail(successes, trials, float(probability))
    assert found <= 0
    assert found == expected or found == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_tails_far_below_the_smallest_float_have_their_logarithm() -> None:
    assert log10_tail(400, 400, 1e-3) == pytest.approx(-1200.0)
    exact = log10_of(exact_tail(300, 500, Fraction(1, 200)))
    assert exact < -500 and log10_tail(300, 500, 1 / 200) == pytest.approx(exact, rel=1e-9)


def test_false_alarms_are_the_hypotheses_times_the_tail_of_what_they_were_not_made_of() -> None:
    # 10 of 50 matches agree, one of them because the hypothesis is made of it: 9 of 49.
    expected = 2 + log10_of(exact_tail(9, 49, Fraction(1, 100)))
    assert log10_false_alarms(10, 50, 1, 0.01, 100.0) == pytest.approx(expected)
    assert log10_false_alarms(10, 50, 2, 0.01, 100.0) > expected
    # What agrees with itself alone is no surprise: each hypothesis does as well.
    assert log10_false_alarms(2, 50, 2, 0.01, 1000.0) == 3.0
    assert log10_false_alarms(0, 50, 2, 0.01, 0.0) == 0.0


@given(st.integers(3, 40), st.integers(0, 40), st.floats(1e-4, 0.4))
def test_more_inliers_and_fewer_outliers_are_less_by_chance(inliers: int, outliers: int, probability: float) -> None:
    found = log10_false_alarms(inliers, inliers + outliers, 2, probability, 50.0)
    assert log10_false_alarms(inliers + 1, inliers + 1 + outliers, 2, probability, 50.0) < found
    assert log10_false_alarms(inliers, inliers + outliers + 1, 2, probability, 50.0) > found
