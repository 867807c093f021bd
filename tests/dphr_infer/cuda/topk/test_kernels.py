"""Every scan kernel finds exactly what sorting all similarities finds, whatever the sizes and the schedule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plain_matching import match_by_sorting, upper_bounds
from topk_launches import Found, TopkOnCpu, best_rows, exact_units, random_units

from dphr_infer.matchers.exact import NumpyExactMatcher
from dphr_infer.matchers.quantise import QuantisedRows, bound_slack, quantise_rows, split_queries

PROPERTY = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
# Floor and ceiling of what one kernel takes: dot 1, 2, 4, 8, mma 8, 16, 32, 64, several tiles.
QUERY_COUNTS = (1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 64, 65, 150)


def assert_equal(found: Found, expected: Any) -> None:
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_array_equal(found.similarity, expected.similarity)


@st.composite
def problems(draw: st.DrawFn) -> dict[str, Any]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dim, n = draw(st.integers(4, 80) | st.integers(81, 400)), draw(st.integers(1, 400))
    gallery = exact_units(rng, n, dim)[rng.integers(0, n, n)].astype(np.float16)  # with repetition: duplicate rows
    cuts = sorted(draw(st.sets(st.integers(0, n), min_size=2, max_size=12)))
    ranges = list(zip(cuts[::2], cuts[1::2], strict=False))
    if draw(st.booleans()):
        ranges = [(0, n)]
    allowed = sum(stop - start for start, stop in ranges)
    return {
        "gallery": gallery,
        "queries": exact_units(rng, draw(st.sampled_from(QUERY_COUNTS)), dim),
        "k": draw(st.integers(1, min(allowed, draw(st.sampled_from((3, 10, 33, 400)))))),
        "ranges": ranges,
        "seed": draw(st.integers(0, 50)),
        "resident_blocks": draw(st.integers(1, 6)),
    }


@PROPERTY
@given(problem=problems())
def test_rows_and_similarities_are_those_of_sorting_everything(topk_device: Any, problem: dict[str, Any]) -> None:
    gpu = TopkOnCpu(topk_device, sm_count=3)
    found = gpu.scan(**problem)
    expected = match_by_sorting(problem["gallery"], problem["queries"], problem["k"], problem["ranges"])
    assert_equal(found, expected)
    assert gpu.workspace_is_clean()


@pytest.mark.parametrize("n_queries", QUERY_COUNTS)
def test_random_rows_are_ranked_to_float32_rounding(gpu: TopkOnCpu, n_queries: int) -> None:
    rng = np.random.default_rng(n_queries)
    gallery, queries = random_units(rng, 300, 400).astype(np.float16), random_units(rng, n_queries, 400)
    found = gpu.scan(gallery, queries, 10, seed=1)
    exact = queries.astype(np.float64) @ gallery.astype(np.float64).T
    expected = NumpyExactMatcher(gallery).match(queries, 10)
    np.testing.assert_allclose(found.similarity, expected.similarity, rtol=0, atol=2e-6)
    at_rank = np.take_along_axis(exact, found.rows.astype(np.int64), axis=1)
    np.testing.assert_allclose(found.similarity, at_rank, rtol=0, atol=5e-7)
    order = np.sort(exact, axis=1)[:, ::-1]
    clear = (np.abs(np.diff(order[:, :11], axis=1)) > 2e-6).cumprod(axis=1).astype(bool)  # no near tie so far
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(found.rows[clear], expected.rows[clear])


@pytest.mark.parametrize("n_queries", [1, 8, 9, 40])
def test_equal_rows_tie_bit_by_bit_wherever_they_lie(gpu: TopkOnCpu, n_queries: int) -> None:
    rng = np.random.default_rng(5)
    gallery = np.repeat(random_units(rng, 1, 70).astype(np.float16), 500, axis=0)
    found = gpu.scan(gallery, random_units(rng, n_queries, 70), 40, seed=2)
    np.testing.assert_array_equal(found.rows, np.tile(np.arange(40), (n_queries, 1)))
    assert (found.similarity == found.similarity[:, :1]).all()


@pytest.mark.parametrize("n_queries", [1, 7, 64])
def test_similarities_of_minus_one_zero_and_one_rank_in_that_order(gpu: TopkOnCpu, n_queries: int) -> None:
    gallery = np.array([[-1, 0, 0], [-0.0, -1, 0], [0, 1, -0.0], [1, 0, 0], [-1, 0, 0], [1, 0, 0]], np.float16)
    queries = np.repeat(np.array([[1, 0, 0]], np.float32), n_queries, axis=0)
    found = gpu.scan(gallery, queries, 6)
    assert found.rows.tolist() == [[3, 5, 1, 2, 0, 4]] * n_queries
    assert found.similarity.tolist() == [[1, 1, 0, 0, -1, -1]] * n_queries
    assert not np.signbit(found.similarity[:, 2:4]).any()


@pytest.mark.parametrize("n_queries", [2, 12])
@pytest.mark.parametrize("order", ["rising", "falling"])
def test_rows_in_the_order_of_their_similarity_are_ranked(gpu: TopkOnCpu, n_queries: int, order: str) -> None:
    values = np.arange(1000) / 1024 if order == "rising" else np.arange(1000)[::-1] / 1024
    gallery = np.zeros((1000, 8), np.float16)
    gallery[:, 0] = values
    found = gpu.scan(gallery, np.eye(1, 8, dtype=np.float32).repeat(n_queries, axis=0), 20, seed=3)
    expected = np.arange(999, 979, -1) if order == "rising" else np.arange(20)
    np.testing.assert_array_equal(found.rows, np.tile(expected, (n_queries, 1)))


@pytest.mark.parametrize("n_queries", [1, 6, 12, 64, 200])
def test_a_k_of_1024_is_kept(gpu: TopkOnCpu, n_queries: int) -> None:
    rng = np.random.default_rng(6)
    gallery, queries = exact_units(rng, 1500, 8).astype(np.float16), exact_units(rng, n_queries, 8)
    assert_equal(gpu.scan(gallery, queries, 1024, seed=1), match_by_sorting(gallery, queries, 1024))


@pytest.mark.parametrize("n_queries", [1, 5, 20, 70])
def test_only_allowed_rows_are_read_and_found(gpu: TopkOnCpu, n_queries: int) -> None:
    rng = np.random.default_rng(7)
    gallery, queries = exact_units(rng, 900, 32).astype(np.float16), exact_units(rng, n_queries, 32)
    ranges = [(row, row + 1 + row % 3) for row in range(5, 880, 9)]  # ranges of one, two and three rows
    found = gpu.scan(gallery, queries, 8, ranges, seed=1)
    assert_equal(found, match_by_sorting(gallery, queries, 8, ranges))
    allowed = sum(stop - start for start, stop in ranges)
    assert found.gallery_bytes == found.plan.grid[0] * allowed * 64


@pytest.mark.parametrize("dtype", ["fp16", "int8"])
@pytest.mark.parametrize("n_queries", [1, 3, 8, 9, 32, 64])
def test_up_to_64_queries_cost_one_read_of_the_gallery(gpu: TopkOnCpu, n_queries: int, dtype: str) -> None:
    rng = np.random.default_rng(8)
    gallery = random_units(rng, 500, 512).astype(np.float16)
    rows = quantise_rows(gallery) if dtype == "int8" else gallery
    found = gpu.scan(rows, random_units(rng, n_queries, 512), 10)
    row_bytes = 512 if dtype == "int8" else 1024
    assert 500 * row_bytes <= found.gallery_bytes <= 1.02 * 500 * row_bytes


def test_more_queries_read_the_gallery_once_a_tile_of_64(gpu: TopkOnCpu) -> None:
    rng = np.random.default_rng(9)
    gallery = random_units(rng, 200, 64).astype(np.float16)
    found = gpu.scan(gallery, random_units(rng, 200, 64), 10)
    assert found.plan.grid[0] == 4 and found.gallery_bytes == 4 * gallery.nbytes


def test_launches_follow_each_other_without_a_reset_in_between(gpu: TopkOnCpu) -> None:
    rng = np.random.default_rng(10)
    for n_queries, k in ((3, 5), (64, 40), (2, 1), (90, 7), (3, 5)):
        gallery, queries = exact_units(rng, 400, 24).astype(np.float16), exact_units(rng, n_queries, 24)
        assert_equal(gpu.scan(gallery, queries, k, seed=n_queries), match_by_sorting(gallery, queries, k))
        assert gpu.workspace_is_clean()


@pytest.mark.parametrize("n_queries", [4, 33])
def test_every_schedule_gives_the_same_bits(topk_device: Any, n_queries: int) -> None:
    rng = np.random.default_rng(11)
    gallery, queries = random_units(rng, 600, 40).astype(np.float16), random_units(rng, n_queries, 40)
    first = TopkOnCpu(topk_device, sm_count=4).scan(gallery, queries, 12)
    for seed in range(1, 7):
        again = TopkOnCpu(topk_device, sm_count=1 + seed).scan(
            gallery, queries, 12, seed=seed, resident_blocks=seed, preempt_every=4 * seed
        )
        assert_equal(again, first)


# ---- int8: the similarity is an upper bound
def bounds_rounded_as_by_the_kernel(rows: QuantisedRows, queries: np.ndarray) -> np.ndarray:
    """float32 (Q, N): `quantise.upper_bounds` with multiply-adds that round once, where the kernel has them."""
    split = split_queries(queries)
    a, b = (level.astype(np.float64) @ rows.codes.astype(np.float64).T for level in (split.first, split.second))
    of_query = (
        split.first_scale,
        split.second_scale,
        split.length,
        bound_slack(rows.longest, float(rows.error.max()), split),
    )
    s1, s2, length, slack = (value[:, None].astype(np.float64) for value in of_query)
    product = (s2 * b + (s1 * a.astype(np.float32)).astype(np.float32)).astype(np.float32)
    rest = (rows.error.astype(np.float64) * length + slack).astype(np.float32)
    return (rows.scale.astype(np.float64) * product + rest).astype(np.float32)


@st.composite
def int8_problems(draw: st.DrawFn) -> dict[str, Any]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, dim = draw(st.integers(1, 300)), draw(st.integers(1, 90) | st.integers(91, 800))
    levels = draw(st.sampled_from(([-127, 127], [-127, 0, 127], list(range(-127, 128)))))  # saturated rows too
    codes = rng.choice(levels, (n, dim)).astype(np.int8)[rng.integers(0, n, n)]
    scale, error = (rng.uniform(low, 1e-2, n).astype(np.float32) for low in (1e-4, 0))
    longest = float(np.linalg.norm(codes * scale[:, None].astype(np.float64), axis=1).max()) * 1.001
    return {
        "gallery": QuantisedRows(codes, scale, error, longest),
        "queries": random_units(rng, draw(st.sampled_from(QUERY_COUNTS)), dim),
        "k": draw(st.integers(1, min(n, 70))),
        "seed": draw(st.integers(0, 50)),
    }


@PROPERTY
@given(problem=int8_problems())
def test_an_int8_scan_keeps_the_rows_of_highest_bound(topk_device: Any, problem: dict[str, Any]) -> None:
    gpu = TopkOnCpu(topk_device, sm_count=3)
    rows, queries = problem["gallery"], problem["queries"]
    bounds = bounds_rounded_as_by_the_kernel(rows, queries)
    assert_equal(gpu.scan(**problem), best_rows(bounds, problem["k"]))
    split = split_queries(queries)
    reference = upper_bounds(rows, split, bound_slack(rows.longest, float(rows.error.max()), split), 0, len(rows.codes))
    np.testing.assert_allclose(bounds, reference, rtol=0, atol=1e-6 * (1 + rows.longest))
    assert gpu.workspace_is_clean()


@pytest.mark.parametrize("dim", [4, 50, 512])
def test_the_bound_lies_above_the_similarity_and_near_it(gpu: TopkOnCpu, dim: int) -> None:
    rng = np.random.default_rng(dim)
    gallery, queries = random_units(rng, 64, dim).astype(np.float16), random_units(rng, 9, dim)
    found = gpu.scan(quantise_rows(gallery), queries, 64)
    exact = gpu.scan(gallery, queries, 64)
    by_row = np.empty((9, 64), np.float32)
    np.put_along_axis(by_row, found.rows.astype(np.int64), found.similarity, axis=1)
    above = np.take_along_axis(by_row, exact.rows.astype(np.int64), axis=1) - exact.similarity
    assert (above > 0).all()
    assert above.max() < 0.03


@pytest.mark.parametrize("n_queries", [1, 5, 20])
def test_candidates_ranked_by_fp16_rows_are_the_fp16_scan_where_proven(gpu: TopkOnCpu, n_queries: int) -> None:
    rng = np.random.default_rng(12)
    gallery = random_units(rng, 700, 64).astype(np.float16)
    queries = random_units(rng, n_queries, 64)
    queries[:, :] += 1.5 * gallery[: len(queries)].astype(np.float32)  # each has a row that stands out
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    kept = gpu.scan(quantise_rows(gallery), queries, 64, seed=1)
    found = gpu.rerank(gallery, queries, 3, kept, seed=2)
    assert found.proven is not None and (found.proven == 1).mean() > 0.5
    expected = match_by_sorting(gallery, queries, 3)
    np.testing.assert_allclose(found.similarity, expected.similarity, rtol=0, atol=2e-6)
    np.testing.assert_array_equal(found.rows[found.proven == 1], expected.rows[found.proven == 1])
    if n_queries <= 8:  # the same arithmetic
        assert_equal(found, gpu.scan(gallery, queries, 3))


def test_an_answer_that_dropped_rows_could_change_is_not_proven(gpu: TopkOnCpu) -> None:
    rng = np.random.default_rng(13)
    gallery = np.repeat(random_units(rng, 1, 16).astype(np.float16), 50, axis=0)  # all alike: no k-th stands out
    queries = gallery[:2].astype(np.float32)
    kept = gpu.scan(quantise_rows(gallery), queries, 10)
    found = gpu.rerank(gallery, queries, 3, kept)
    assert found.proven is not None and found.proven.tolist() == [0, 0]


def test_candidates_that_are_no_row_are_skipped(gpu: TopkOnCpu) -> None:
    gallery, queries = np.eye(8, dtype=np.float16), np.eye(8, dtype=np.float32)[:1]
    kept = Found(np.array([[5, -1, 0, 3, -1]], np.int32), np.full((1, 5), 0.5, np.float32), None, 0, None)
    found = gpu.rerank(gallery, queries, 3, kept)
    assert found.rows.tolist() == [[0, 3, 5]] and found.proven is not None and found.proven.tolist() == [0]
