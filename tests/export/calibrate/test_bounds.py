from __future__ import annotations

import math

import pytest

from export.calibrate.bounds import loosest, needed_n, upper_bound


def binomial_bound(wrong: int, n: int) -> float:
    """Clopper-Pearson by its definition: bisect for the share at which at most `wrong` of n has a chance of 5 %."""

    def at_most(share: float) -> float:
        return sum(math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(wrong + 1))

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if at_most(middle) > 0.05 else (low, middle)
    return low


@pytest.mark.parametrize(("wrong", "n"), [(0, 1), (0, 59), (1, 59), (3, 100), (17, 40), (39, 40), (2, 300)])
def test_the_upper_bound_is_that_of_the_binomial_sum(wrong: int, n: int) -> None:
    assert upper_bound(wrong, n) == pytest.approx(binomial_bound(wrong, n), abs=1e-9)


def test_of_nothing_and_of_all_wrong_the_bound_is_1() -> None:
    assert upper_bound(0, 0) == upper_bound(5, 5) == 1.0


@pytest.mark.parametrize(("alpha", "n"), [(0.05, 59), (0.01, 299), (0.001, 2995), (0.5, 5)])
def test_a_claim_takes_as_many_units_without_an_error_as_the_binomial_says(alpha: float, n: int) -> None:
    assert needed_n(alpha) == n
    assert upper_bound(0, n) <= alpha < upper_bound(0, n - 1)


def test_the_loosest_threshold_is_the_last_before_the_first_that_fails() -> None:
    # 1 of 100 has the bound 4.66 %, 2 of 100 6.16 %; after a failure nothing is tried, whatever it would give.
    counts = {0.99: [(0, 100)], 0.98: [(1, 100)], 0.97: [(2, 100)], 0.9: [(0, 100)]}
    assert loosest(counts.items(), 0.05) == 0.98
    assert loosest(counts.items(), 0.07) == 0.9
    assert loosest(counts.items(), 0.02) is None
    assert loosest([], 0.05) is None


def test_of_several_kinds_each_has_to_hold() -> None:
    counts = [("strict", [(0, 100), (0, 59)]), ("loose", [(0, 100), (1, 59)])]
    assert loosest(counts, 0.05) == "strict"
    assert loosest([("short", [(0, 1000), (0, 58)])], 0.05) is None
