import cmath
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dphr_infer.register.features import NO_FEATURES, Features
from dphr_infer.register.vote import best_matches, distinct_cells, fit, vote_similarity, vote_translation

SHIFT = 7 - 4j


def scattered(count: int, seed: int, side_m: float = 100.0) -> np.ndarray:
    """Points of a square around 0."""
    draw = np.random.default_rng(seed)
    return draw.uniform(-side_m / 2, side_m / 2, count) + 1j * draw.uniform(-side_m / 2, side_m / 2, count)


def planted(turn: complex, agreeing: int, others: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Matches of which the first agree within 0.3 m, and the others point anywhere."""
    photo = scattered(agreeing + others, seed)
    ground = turn * photo + SHIFT + scattered(agreeing + others, seed + 1, 0.4)
    ground[agreeing:] = scattered(others, seed + 2, 250.0)
    return photo, ground


@given(st.integers(8, 40), st.integers(0, 80), st.integers(0, 10_000))
def test_a_translation_is_found_among_outliers(agreeing: int, others: int, seed: int) -> None:
    photo, ground = planted(1.0, agreeing, others, seed)
    found = vote_translation(photo, ground, 2.0, 8.0)
    assert found.inliers[:agreeing].sum() >= 0.8 * agreeing and found.inliers[agreeing:].sum() <= 0.1 * others + 3
    assert abs(found.shift - SHIFT) < 2.0 and found.turn == 1.0
    assert (found.used, found.hypotheses) == (1, agreeing + others)
    assert found.rivals < agreeing


@given(
    st.floats(0.85, 1.18),
    st.floats(-170, 170),
    st.integers(14, 40),
    st.integers(0, 60),
    st.integers(0, 10_000),
)
def test_a_similarity_is_found_among_outliers(scale: float, turn_deg: float, agreeing, others, seed) -> None:
    turn = cmath.rect(scale, math.radians(turn_deg))
    photo, ground = planted(turn, agreeing, others, seed)
    found = vote_similarity(photo, ground, 2.0, 8.0, 1.25, 180.0)
    assert found.inliers[:agreeing].sum() >= 0.8 * agreeing and found.inliers[agreeing:].sum() <= 0.1 * others + 3
    assert abs(found.turn - turn) < 0.08 and abs(found.shift - SHIFT) < 2.0
    assert found.used == 2 and found.rivals < agreeing


@pytest.mark.parametrize(
    ("turn", "kept"),
    [
        (cmath.rect(1.0, math.radians(14)), True),
        (cmath.rect(1.0, math.radians(-14)), True),
        (cmath.rect(1.0, math.radians(25)), False),
        (cmath.rect(1.0, math.radians(180)), False),
        (1.2, True),
        (1 / 1.2, True),
        (1.5, False),
        (0.6, False),
    ],
)
def test_a_similarity_beyond_the_bounds_is_not_looked_for(turn: complex, kept: bool) -> None:
    found = vote_similarity(*planted(turn, 30, 0, 3), 1.0, 4.0, 1.25, 15.0)
    assert (found.inliers.sum() >= 29) == kept
    if not kept:
        assert found.inliers.sum() < 10


def test_where_no_pair_keeps_the_bounds_nothing_agrees() -> None:
    photo = scattered(6, 0)
    found = vote_similarity(photo, -photo, 1.0, 4.0, 1.25, 15.0)
    assert not found.inliers.any() and (found.rivals, found.hypotheses) == (0, 1)
    # Nor where all matches are one point.
    assert not vote_similarity(np.zeros(5, complex), np.ones(5, complex), 1.0, 4.0, 1.25, 15.0).inliers.any()


def test_the_most_matches_that_agree_elsewhere_are_the_rivals() -> None:
    photo = scattered(30, 5)
    ground = photo + SHIFT
    ground[20:] += 40.0  # ten agree on a place 40 m further
    for found in (vote_translation(photo, ground, 1.0, 4.0), vote_similarity(photo, ground, 1.0, 4.0, 1.25, 15.0)):
        assert (found.inliers.sum(), found.rivals) == (20, 10)
    # What lies nearer than that is the same place.
    assert vote_translation(photo, ground, 1.0, 50.0).rivals == 0


def test_the_same_matches_give_the_same_vote() -> None:
    photo, ground = planted(1.0, 20, 40, 9)
    one, two = (vote_similarity(photo, ground, 2.0, 8.0, 1.25, 15.0) for _ in range(2))
    assert (one.turn, one.shift, one.rivals) == (two.turn, two.shift, two.rivals)
    np.testing.assert_array_equal(one.inliers, two.inliers)


def described(points: list[tuple[float, float]], kinds: list[int], sizes: list[float] | float = 4.0) -> Features:
    """Features whose descriptors are equal where their kinds are, and else at right angles."""
    return Features(
        np.array(points, np.float32),
        np.broadcast_to(np.array(sizes, np.float32), len(points)).copy(),
        np.eye(16, dtype=np.float32)[kinds],
    )


APART = [(10.0 * i, 0.0) for i in range(6)]


def test_each_is_matched_to_its_like() -> None:
    from_query, from_target = best_matches(
        described(APART, [0, 1, 2, 3, 4, 5]), described(APART, [5, 4, 3, 2, 1, 0]), 0.9, 1.5, 2.0
    )
    assert dict(zip(from_query.tolist(), from_target.tolist(), strict=True)) == {i: 5 - i for i in range(6)}


def test_a_match_is_one_to_one_and_a_thing_that_stands_there_twice_matches_nothing() -> None:
    # Both of the first two are like the only one of their kind.
    twice = best_matches(described(APART[:3], [0, 0, 1]), described(APART[:3], [0, 1, 2]), 0.9, 1.5, 2.0)
    assert len(twice[0]) == len(set(twice[1].tolist())) == 2
    # One is like two: its distance to either is the same.
    from_query, _ = best_matches(described(APART[:2], [0, 1]), described(APART[:3], [0, 0, 1]), 0.9, 1.5, 2.0)
    assert from_query.tolist() == [1]


def test_only_features_of_like_sizes_are_compared() -> None:
    query, target = described(APART[:2], [0, 1], [4.0, 4.0]), described(APART[:2], [0, 1], [5.9, 6.1])
    assert best_matches(query, target, 0.9, 1.5, 2.0)[0].tolist() == [0]
    assert best_matches(target, query, 0.9, 1.5, 2.0)[0].tolist() == [0]


def test_of_matches_close_together_the_most_distinct_counts() -> None:
    query = described([(0.0, 0.0), (1.0, 0.0), (3.1, 0.0), (30.0, 0.0)], [0, 1, 2, 3])
    query.descriptors[0] = (np.eye(16)[0] + 0.5 * np.eye(16)[9]) / math.hypot(1, 0.5)  # less like its match
    from_query, _ = best_matches(query, described(APART[:4], [0, 1, 2, 3]), 0.9, 1.5, 2.0)
    assert sorted(from_query.tolist()) == [1, 2, 3]


def test_without_features_or_with_one_alone_there_is_no_match() -> None:
    some = described(APART, [0, 1, 2, 3, 4, 5])
    for query, target in ((NO_FEATURES, some), (some, NO_FEATURES), (some, described(APART[:1], [0]))):
        from_query, from_target = best_matches(query, target, 0.9, 1.5, 2.0)
        assert len(from_query) == len(from_target) == 0


def test_cells_count_once_however_many_points_they_hold() -> None:
    assert distinct_cells(np.array([1 + 1j, 2 + 2j, 9 + 9j, 11 + 1j, -1 + 1j, -1 - 1j]), 10.0) == 4
    assert distinct_cells(np.zeros(0, complex), 10.0) == 0


SQUARE = np.array([1 + 1j, -1 + 1j, -1 - 1j, 1 - 1j]) * 10


def test_a_translation_fitted_by_hand() -> None:
    # Residuals of 1 m north and south: four squares of 1 in 8 values less 2 parameters.
    ground = SQUARE + SHIFT + np.array([1j, -1j, 1j, -1j])
    found = fit(SQUARE, ground, 2)
    assert (found.turn, found.shear) == (1.0, 0.0) and found.shift == pytest.approx(SHIFT)
    assert found.variance_m2 == pytest.approx(4 / 6)
    assert found.lever == pytest.approx(1 / 4)  # the mean of four


def test_a_similarity_fitted_by_hand() -> None:
    turn = cmath.rect(1.05, 0.1)
    found = fit(SQUARE, turn * SQUARE + SHIFT, 4)
    assert (found.turn, found.shift) == (pytest.approx(turn), pytest.approx(SHIFT)) and found.shear == 0.0
    assert found.variance_m2 == pytest.approx(0.0, abs=1e-20)
    assert found.lever == pytest.approx(1 / 4)  # around the middle no turn moves it


def test_far_from_its_matches_a_fit_is_less_sure_of_the_middle() -> None:
    # The variance of a line at 0: 1/n + mean² / sum of squares about the mean.
    far = SQUARE + 30.0
    assert fit(far, far, 4).lever == pytest.approx(1 / 4 + 30**2 / 800)
    assert fit(far, far, 2).lever == pytest.approx(1 / 4)


def test_an_affine_map_fitted_by_hand() -> None:
    # Twice as wide, half as high, and shifted.
    ground = 2 * SQUARE.real + 0.5j * SQUARE.imag + SHIFT
    found = fit(SQUARE, ground, 6)
    assert (found.turn, found.shear) == (pytest.approx(1.25), pytest.approx(0.75))
    assert found.shift == pytest.approx(SHIFT) and found.variance_m2 == pytest.approx(0.0, abs=1e-20)
    assert found.lever == pytest.approx(1 / 4)


def test_matches_on_a_line_leave_an_affine_map_open_and_a_similarity_not() -> None:
    line = np.linspace(-10, 10, 13) * (1 + 1j)
    assert fit(line, line + SHIFT, 6).lever == math.inf
    assert fit(line, line + SHIFT, 4).lever == pytest.approx(1 / 13)
    assert fit(np.ones(4, complex), np.ones(4, complex), 4).lever == math.inf


@pytest.mark.parametrize("parameters", [2, 4, 6])
def test_the_variance_of_a_fit_is_what_many_draws_show(parameters: int) -> None:
    draw, photo = np.random.default_rng(parameters), scattered(20, 1) + 20
    shifts, variances = [], []
    for _ in range(400):
        found = fit(photo, photo + SHIFT + draw.normal(0, 0.5, 20) + 1j * draw.normal(0, 0.5, 20), parameters)
        shifts.append(found.shift)
        variances.append(found.variance_m2)
    assert np.mean(variances) == pytest.approx(0.25, rel=0.1)
    spread = np.var(np.real(shifts)), np.var(np.imag(shifts))
    assert np.mean(spread) == pytest.approx(0.25 * found.lever, rel=0.2)
