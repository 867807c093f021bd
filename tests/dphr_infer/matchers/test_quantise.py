import dataclasses
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_matching import match_by_sorting, match_int8_certified, upper_bounds

from dphr_infer.errors import GalleryError
from dphr_infer.matchers.quantise import (
    bound_slack,
    float_slack,
    quantise_rows,
    round_up,
    split_queries,
)

pytestmark = pytest.mark.kernels

# Entries are multiples of 2^-11 and rows at most 1 long: products are multiples of 2^-22 and every partial sum is
# below 2, so inner products are exact in float32 in whatever order they are summed, and float16 holds the entries.
GRID = 2.0**-11


def grid_rows(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    rows = rng.standard_normal((n, dim)) * rng.choice([1, 1, 8], (n, dim))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return (np.trunc(rows / GRID) * GRID).astype(np.float32)


def grid_queries(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    """As grid_rows, and of unit length within a matcher's tolerance."""
    rows = grid_rows(rng, n, dim)
    bad = np.linalg.norm(rows, axis=1) < 0.996
    rows[bad] = np.eye(dim, dtype=np.float32)[rng.integers(0, dim, int(bad.sum()))]
    return rows


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int, int, list[tuple[int, int]] | None]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, dim = draw(st.integers(1, 80)), draw(st.sampled_from([1, 2, 7, 32]))
    gallery, queries = grid_rows(rng, n, dim), grid_queries(rng, draw(st.integers(1, 4)), dim)
    kind = draw(st.sampled_from(["random", "duplicates", "near ties", "saturated", "zeros"]))
    if kind == "duplicates":
        gallery = gallery[rng.integers(0, max(1, n // 8), n)]
    elif kind == "near ties":  # all rows one grid step around one query
        gallery = queries[rng.integers(0, len(queries), n)] + rng.integers(-1, 2, (n, dim)).astype(np.float32) * GRID
        gallery *= np.float32(0.5)
    elif kind == "saturated":  # one entry takes the whole range, all others lie below one step of it
        gallery = rng.integers(-7, 8, (n, dim)).astype(np.float32) * GRID
        gallery[np.arange(n), rng.integers(0, dim, n)] = rng.choice([-0.5, 0.5], n)
    elif kind == "zeros":
        gallery[rng.random(n) < 0.7] = 0
    if kind != "near ties" and draw(st.booleans()):
        gallery = gallery.astype(np.float16)
    cuts = sorted(draw(st.lists(st.integers(0, n), min_size=2, max_size=8)))
    ranges = list(zip(cuts[::2], cuts[1::2], strict=False))
    allowed = sum(stop - start for start, stop in ranges)
    if allowed == 0 or draw(st.booleans()):
        ranges, allowed = None, n
    k = draw(st.integers(1, min(allowed, 12)))
    return gallery, queries, k, draw(st.integers(k, k + 20)), ranges


@settings(max_examples=300, deadline=None)
@given(problems())
def test_certified_matches_are_exactly_those_of_sorting_everything(problem) -> None:
    gallery, queries, k, candidates, ranges = problem
    found = match_int8_certified(gallery, quantise_rows(gallery), queries, k, candidates, ranges)
    expected = match_by_sorting(gallery, queries, k, ranges)
    assert found.matches.rows.dtype == np.int32 and found.matches.similarity.dtype == np.float32
    np.testing.assert_array_equal(found.matches.rows, expected.rows)
    np.testing.assert_array_equal(found.matches.similarity, expected.similarity)


@st.composite
def any_rows(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Rows of any magnitude that float16 or float32 holds, and unit queries."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dim = draw(st.sampled_from([1, 3, 16, 130]))
    gallery = rng.standard_normal((draw(st.integers(1, 12)), dim)) * 10.0 ** draw(st.integers(-30, 10))
    gallery *= 10.0 ** rng.integers(-3, 3, gallery.shape)
    queries = rng.standard_normal((3, dim)) * 10.0 ** rng.integers(-6, 1, (3, dim))
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    return gallery.astype(np.float32), queries.astype(np.float32)


def all_bounds(gallery, queries, quantised=None, split=None):
    quantised, split = quantised or quantise_rows(gallery), split or split_queries(queries)
    return upper_bounds(
        quantised, split, bound_slack(quantised.longest, float(quantised.error.max()), split), 0, len(gallery)
    )


@settings(max_examples=200, deadline=None)
@given(any_rows(), st.integers(0, 2**32 - 1))
def test_no_bound_is_below_the_similarity_summed_exactly_or_in_any_float32_order(problem, seed: int) -> None:
    gallery, queries = problem
    bounds = all_bounds(gallery, queries)
    assert bounds.dtype == np.float32
    exact = queries.astype(np.float64) @ gallery.astype(np.float64).T
    assert (bounds >= exact).all()
    order = np.random.default_rng(seed).permutation(gallery.shape[1])
    one_by_one = np.zeros_like(bounds)
    for column in order:
        one_by_one += queries[:, column, None] * gallery[:, column]
    assert (bounds >= one_by_one).all()
    assert (bounds >= queries @ gallery.T).all()


@settings(max_examples=200, deadline=None)
@given(any_rows(), st.integers(0, 2**32 - 1))
def test_no_bound_from_float32_queries_is_below_the_similarity_either(problem, seed: int) -> None:
    gallery, queries = problem
    quantised, order = quantise_rows(gallery), np.random.default_rng(seed).permutation(gallery.shape[1])
    slack = float_slack(quantised.longest, float(quantised.error.max()), queries)
    length = np.linalg.norm(queries, axis=1, keepdims=True).astype(np.float32) * np.float32(1.001)
    exact = queries.astype(np.float64) @ gallery.astype(np.float64).T
    one_by_one = np.zeros(exact.shape, np.float32)
    for column in order:
        one_by_one += queries[:, column, None] * quantised.codes[:, column]
    for products in (one_by_one, queries @ quantised.codes.astype(np.float32).T):
        bounds = products * quantised.scale + quantised.error * length + slack[:, None]
        assert bounds.dtype == np.float32
        assert (bounds >= exact).all()
        assert (bounds >= queries @ gallery.T).all()


@settings(max_examples=100, deadline=None)
@given(any_rows())
def test_the_stated_errors_are_never_below_the_true_ones(problem) -> None:
    gallery, queries = problem
    quantised, split = quantise_rows(gallery), split_queries(queries)
    for row, codes, scale, error in zip(gallery, quantised.codes, quantised.scale, quantised.error, strict=True):
        left = [Fraction(float(g)) - Fraction(float(scale)) * int(c) for g, c in zip(row, codes, strict=True)]
        assert sum(value**2 for value in left) <= Fraction(float(error)) ** 2
        approximation = sum((Fraction(float(scale)) * int(c)) ** 2 for c in codes)
        assert approximation <= Fraction(quantised.longest) ** 2
    for index, query in enumerate(queries):
        scales = Fraction(float(split.first_scale[index])), Fraction(float(split.second_scale[index]))
        levels = zip(query, split.first[index], split.second[index], strict=True)
        left = [Fraction(float(q)) - scales[0] * int(a) - scales[1] * int(b) for q, a, b in levels]
        assert sum(value**2 for value in left) <= Fraction(float(split.residual[index])) ** 2
        assert sum(Fraction(float(q)) ** 2 for q in query) <= Fraction(float(split.length[index])) ** 2


def misleading_gallery() -> tuple[np.ndarray, np.ndarray]:
    """Row 0 is the best match, but rounding took from it exactly what the query looks for; row 1 and 2 are exact."""
    step = 2.0**-7
    best = np.full(64, 8.4375 * step, np.float32)  # rounded to 8 steps: 0.4375 of a step lost in every entry
    best[0] = 127 * step
    query = np.full(64, 0.125, np.float32)  # 64 equal entries: unit length
    query[0] = 0
    query /= np.linalg.norm(query)
    others = np.full((2, 64), 8.25 * step, np.float32)  # between what row 0 seems and what it is
    others[:, 0] = 0
    return np.concatenate([best[None], others]), query[None]


def test_the_row_that_rounding_hid_is_found_and_is_lost_with_half_the_error_term() -> None:
    gallery, queries = misleading_gallery()
    quantised = quantise_rows(gallery)
    found = match_int8_certified(gallery, quantised, queries, 1, 1)
    assert found.matches.rows.tolist() == [[0]]
    halved = dataclasses.replace(quantised, error=quantised.error / 2)
    truth = queries @ gallery.T
    assert (all_bounds(gallery, queries) >= truth).all()
    assert all_bounds(gallery, queries, halved)[0, 0] < truth[0, 0]


def test_half_the_error_term_gives_a_wrong_match() -> None:
    gallery, queries = misleading_gallery()
    gallery[1] *= np.float32(8.4 / 8.25)
    quantised = quantise_rows(gallery)
    assert match_int8_certified(gallery, quantised, queries, 1, 2).matches.rows.tolist() == [[0]]
    halved = dataclasses.replace(quantised, error=quantised.error / 2)
    assert match_int8_certified(gallery, halved, queries, 1, 2).matches.rows.tolist() == [[1]]


def test_the_bound_needs_what_two_levels_leave_of_the_query() -> None:
    query = np.full((1, 16), 0.1, np.float32) + np.linspace(0, 0.01, 16, dtype=np.float32)
    query[0, 0] = 0.9
    query /= np.linalg.norm(query)
    split = split_queries(query)
    levels = split.first_scale[0] * split.first[0].astype(np.float64)
    levels += split.second_scale[0] * split.second[0].astype(np.float64)
    gallery = (np.sign(query - levels) / 4).astype(np.float32)  # along what is left; nearly exact in int8
    truth = query.astype(np.float64) @ gallery.astype(np.float64).T
    assert all_bounds(gallery, query)[0, 0] >= truth[0, 0]
    without = dataclasses.replace(split, residual=np.zeros(1, np.float32))
    assert all_bounds(gallery, query, split=without)[0, 0] < truth[0, 0]


def test_duplicates_beyond_the_candidates_widen_until_all_are_kept() -> None:
    gallery = np.tile(np.array([[0.5, 0.5, 0.5, 0.5]], np.float32), (100, 1))
    query = np.array([[1, 0, 0, 0]], np.float32)
    found = match_int8_certified(gallery, quantise_rows(gallery), query, 2, 2)
    assert found.matches.rows.tolist() == [[0, 1]]
    assert found.proven.tolist() == [False]
    assert found.widenings == 3  # 2, 8, 32, 100 of 128


def test_a_clear_best_row_is_proven_by_the_first_scan() -> None:
    gallery = np.eye(8, dtype=np.float32)
    found = match_int8_certified(gallery, quantise_rows(gallery), gallery[:2].copy(), 1, 2)
    assert found.matches.rows.tolist() == [[0], [1]]
    assert found.proven.tolist() == [True, True]
    assert found.widenings == 0


def test_random_rows_of_512_dimensions_are_proven_with_eight_candidates_a_match() -> None:
    rng = np.random.default_rng(4)
    gallery, queries = grid_rows(rng, 5000, 512).astype(np.float16), grid_queries(rng, 16, 512)
    found = match_int8_certified(gallery, quantise_rows(gallery), queries, 10, 80)
    assert found.proven.mean() > 0.9
    np.testing.assert_array_equal(found.matches.rows, match_by_sorting(gallery, queries, 10).rows)


def test_codes_scale_and_error_of_a_row_are_these() -> None:
    quantised = quantise_rows(np.array([[127, -63.25, 0.25, 0], [0, 0, 0, 0]], np.float32))
    assert quantised.codes.tolist() == [[127, -63, 0, 0], [0, 0, 0, 0]]
    assert quantised.scale.tolist() == [1.0, 0.0]
    assert quantised.error[0] == pytest.approx(0.125**0.5, rel=1e-6)
    assert quantised.error[1] == 0


def test_rounding_up_gives_the_least_float32_that_is_not_below() -> None:
    values = np.array([1.0, 1 + 2.0**-40, 1 - 2.0**-40, -1 - 2.0**-40, 0.0])
    assert round_up(values).tolist() == [1.0, 1 + 2.0**-23, 1.0, -1.0, 0.0]


@pytest.mark.parametrize(
    ("gallery", "candidates", "message"),
    [
        (np.eye(4, dtype=np.float32), 1, "1 candidates cannot hold 2 matches"),
        (np.eye(4, dtype=np.float32)[:3], 2, r"codes are \(4, 4\) but the gallery is \(3, 4\)"),
    ],
)
def test_what_cannot_be_certified_is_refused(gallery, candidates, message) -> None:
    quantised = quantise_rows(np.eye(4, dtype=np.float32))
    with pytest.raises(GalleryError, match=message):
        match_int8_certified(gallery, quantised, np.eye(4, dtype=np.float32)[:1].copy(), 2, candidates)


def test_threads_give_the_same_codes_for_any_number_of_rows() -> None:
    rows = grid_rows(np.random.default_rng(6), 20_011, 7)
    alone = quantise_rows(rows)
    with ThreadPoolExecutor(3) as pool:
        together = quantise_rows(rows, pool)
    for name in ("codes", "scale", "error", "longest"):
        np.testing.assert_array_equal(getattr(alone, name), getattr(together, name))
    assert np.array_equal(alone.codes[20_010], quantise_rows(rows[-1:]).codes[0])


def test_rows_that_are_not_finite_are_refused() -> None:
    with pytest.raises(GalleryError, match="not finite"):
        quantise_rows(np.array([[1, np.inf]], np.float32))
