"""Figures of flights placed by hand, and their intervals beside textbook values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.flights.figures import find_figures, is_false
from bench.flights.fly import Flown
from bench.flights.intervals import mean, quantile, root, share


def flown(kind: Any = "right", jump: int | None = None, **columns: list[Any]) -> Flown:
    """Ten frames, 50 m and 5 s apart, tiles of 100 m; fixes 1 m off from the third frame on."""
    n = 10
    fixed = [False, False, *[True] * 8]
    frames: dict[str, list[Any]] = {
        "photo": [f"{i}.jpg" for i in range(n)],
        "time_s": [5.0 * i for i in range(n)],
        "flown_m": [50.0 * i for i in range(n)],
        "on_map": [True] * n,
        "fix": ["registered" if one else "" for one in fixed],
        "error_m": [1.0 if one else None for one in fixed],
        "protection_m": [3.0 if one else None for one in fixed],
        "nees": [2.0 if one else None for one in fixed],
        "track_error_m": [4.0] * n,
        "verdict": ["verified"] * n,
        "photo_error_m": [0.5] * n,
    }
    return Flown(kind, "f", "f", 100.0, {**frames, **columns}, jump, np.array([]), {}, {})


def test_a_share_has_wilsons_interval_or_that_of_clopper_and_pearson() -> None:
    wilson, exact = share(37, 40), share(0, 59, "exact")
    assert (wilson.value, wilson.low, wilson.high) == pytest.approx((0.925, 0.80136, 0.97416), abs=1e-5)
    # No success in n: the upper end solves (1 - p)^n = 0.025.
    assert (exact.low, exact.high) == pytest.approx((0.0, 1 - 0.025 ** (1 / 59)))
    assert share(0, 0).value is None


def test_a_median_lies_between_order_statistics_that_hold_it_whatever_the_distribution() -> None:
    ten = quantile(np.arange(1.0, 11.0), 0.5)
    # Of ten samples the second and the ninth hold the median at 97.9 %, the third and the eighth at 89.1 %.
    assert (ten.value, ten.low, ten.high, ten.n) == (5.0, 2.0, 9.0, 10)
    few = quantile(np.array([3.0, 1.0, 2.0]), 0.95)
    assert (few.value, few.high) == (3.0, None)
    assert quantile(np.array([]), 0.5).value is None


def test_the_interval_of_a_mean_resamples_whole_groups() -> None:
    values, groups = np.repeat([0.0, 2.0], 50), np.repeat([0, 1], 50)
    of_two = mean(values, groups)
    assert (of_two.value, of_two.low, of_two.high) == (1.0, 0.0, 2.0)
    alone = mean(values, np.arange(100))
    assert alone.low is not None and alone.low > 0.7
    rmse = root(mean(np.array([9.0, 16.0]) ** 2 / np.array([9.0, 16.0]), np.zeros(2)))
    assert rmse.value == pytest.approx(12.5**0.5) and rmse.low is None


def test_a_registered_fix_is_false_beyond_ten_metres_and_a_retrieved_one_beyond_a_tile() -> None:
    one = flown(
        fix=["registered", "registered", "retrieved", "retrieved", *[""] * 6],
        error_m=[9.9, 10.1, 99.0, 101.0, *[None] * 6],
    )
    assert is_false(one).tolist() == [False, True, False, True, *[False] * 6]
    assert is_false(flown("wrong")).tolist() == [False, False, *[True] * 8]


def test_availability_first_fix_and_the_longest_gap_are_of_each_flight() -> None:
    gap = flown(fix=["", "", "registered", "", "", "", *["registered"] * 4])
    found = find_figures([flown(), gap])
    assert (found["availability"]["k"], found["availability"]["n"]) == (8 + 5, 20)
    assert (found["available_after_first_fix"]["k"], found["available_after_first_fix"]["n"]) == (13, 16)
    assert (found["first_fix_s"]["value"], found["first_fix_m"]["value"]) == (10.0, 100.0)
    assert found["first_fix_most_tiles"]["value"] == 1.0
    assert (found["longest_gap_s"]["value"], found["longest_gap_m"]["value"]) == (20.0, 200.0)


def test_silence_beyond_the_map_is_no_gap() -> None:
    off = flown(
        fix=["registered", "registered", *[""] * 7, "registered"],
        on_map=[True, True, *[False] * 7, True],
    )
    found = find_figures([off])
    assert found["longest_gap_m"]["value"] == 50.0
    assert (found["available_after_first_fix"]["k"], found["available_after_first_fix"]["n"]) == (3, 3)


def test_recovery_counts_from_the_jump_to_the_first_fix_that_is_not_false() -> None:
    lost = flown(
        "kidnapped",
        jump=4,
        fix=["registered"] * 10,
        error_m=[1.0] * 4 + [300.0, 300.0] + [1.0] * 4,
    )
    never = flown("kidnapped", jump=4, fix=[*["registered"] * 4, *[""] * 6], error_m=[*[1.0] * 4, *[None] * 6])
    found = find_figures([lost, never])
    assert (found["recovered"]["k"], found["recovered"]["n"]) == (1, 2)
    assert found["recovery_most_tiles"]["value"] == 1.0
    assert (found["false_fixes"]["k"], found["false_fixes"]["n"]) == (2, 14)
    # Frames 4 and 5 lie within one tile length: a single segment.
    assert (found["false_segments"]["k"], found["false_segments"]["n"]) == (1, 5 + 2)


def test_errors_promises_and_covariances_are_of_the_fixes_alone() -> None:
    found = find_figures([flown(error_m=[None, None, 0.5, 4.0, 6.0, 12.0, 2.0, 2.0, 2.0, 2.0])])
    within = [found[f"fix_within_{m}_m"]["k"] for m in (1, 5, 10, 25)]
    assert within == [1, 6, 7, 8]
    assert found["fix_rmse_m"]["value"] == pytest.approx(((0.25 + 16 + 36 + 144 + 4 * 4) / 8) ** 0.5)
    assert (found["beyond_protection"]["k"], found["beyond_protection"]["n"]) == (3, 8)
    assert (found["anees"]["value"], found["track_median_m"]["value"]) == (2.0, 4.0)
    endless = find_figures([flown(protection_m=[None] * 10)])
    assert (endless["protection_infinite"]["k"], endless["beyond_protection"]["n"]) == (8, 0)


def test_over_a_wrong_map_only_the_counts_are_told() -> None:
    found = find_figures([flown("wrong", verdict=["none"] * 9 + ["verified"])])
    assert (found["false_fixes"]["k"], found["verified"]["k"]) == (8, 1)
    assert "fix_median_m" not in found and "verified_median_m" not in found
