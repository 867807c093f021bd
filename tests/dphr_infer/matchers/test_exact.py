import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_matching import match_by_sorting

from dphr_infer.errors import ConfigError, GalleryError
from dphr_infer.locate.devices import open_matcher
from dphr_infer.locate.settings import DeviceSettings, Scan
from dphr_infer.matchers import block_scan
from dphr_infer.matchers import exact as numpy_exact
from dphr_infer.matchers.exact import NumpyExactMatcher
from dphr_infer.matchers.int8 import NumpyInt8Matcher

# Half of four entries is a unit vector, and inner products of such are exact in float32 in whatever order they are
# summed: multiples of a quarter, so that ties abound and both implementations must agree bit by bit.
DIM = 6

pytestmark = [pytest.mark.kernels, pytest.mark.usefixtures("threads_for_small_galleries")]


def exact_units(rng: np.random.Generator, n: int) -> np.ndarray:
    units = np.zeros((n, DIM), np.float32)
    for row in units:
        row[rng.choice(DIM, 4, replace=False)] = rng.choice([-0.5, 0.5], 4)
    return units


def in_blocks(kind: type, gallery: np.ndarray, block_bytes: int, **options: int) -> Any:
    """A matcher whose blocks take no more than that."""
    with mock.patch.object(block_scan, "BLOCK_BYTES", block_bytes):
        return kind(gallery, **options)


def random_units(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    units = rng.standard_normal((n, dim)).astype(np.float32)
    return units / np.linalg.norm(units, axis=1, keepdims=True)


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int, list[tuple[int, int]] | None]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(1, 60))
    gallery = exact_units(rng, n)[rng.integers(0, n, n)]  # drawn with repetition: duplicate rows
    if draw(st.booleans()):
        gallery = gallery.astype(np.float16)
    cuts = sorted(draw(st.lists(st.integers(0, n), min_size=2, max_size=8)))
    ranges = list(zip(cuts[::2], cuts[1::2], strict=False))
    allowed = sum(stop - start for start, stop in ranges)
    if allowed == 0 or draw(st.booleans()):
        ranges, allowed = None, n
    return gallery, exact_units(rng, draw(st.integers(1, 5))), draw(st.integers(1, allowed)), ranges


@settings(max_examples=150, deadline=None)
@given(problems(), st.integers(1, 4000), st.sampled_from([0, 64 << 20]))
def test_blocks_of_any_size_give_exactly_what_sorting_everything_gives(problem, block_bytes: int, gather: int) -> None:
    gallery, queries, k, ranges = problem
    with mock.patch.object(numpy_exact, "_GATHER_BYTES", gather):
        found = in_blocks(NumpyExactMatcher, gallery, block_bytes).match(queries, k, ranges)
    expected = match_by_sorting(gallery, queries, k, ranges)
    assert found.rows.dtype == np.int32 and found.similarity.dtype == np.float32
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_array_equal(found.similarity, expected.similarity)


def test_match_gives_ties_to_the_lower_row() -> None:
    gallery = np.array([[0, 1], [1, 0], [0, 1], [1, 0], [-1, 0]], np.float32)
    found = in_blocks(NumpyExactMatcher, gallery, 1).match(np.array([[1, 0]], np.float32), 5)
    assert found.rows.tolist() == [[1, 3, 0, 2, 4]]
    assert found.similarity.tolist() == [[1.0, 1.0, 0.0, 0.0, -1.0]]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dim", [7, 512])
def test_equal_rows_of_any_values_tie_for_one_query_wherever_they_lie(dim: int, threads: int) -> None:
    rng = np.random.default_rng(5)
    different = random_units(rng, 400, dim)
    which = rng.integers(0, 400, 40_000)
    with NumpyExactMatcher(different[which], threads=threads) as matcher:
        found = matcher.match(different[17:18], 60)
        within = matcher.match(different[17:18], 20, [(1003, 2500), (2501, 40_000)])
    copies = np.flatnonzero(which == 17)
    assert found.rows[0].tolist() == copies[:60].tolist()
    inside = [row for row in copies if 1003 <= row < 2500 or row >= 2501]
    assert within.rows[0].tolist() == inside[:20]
    assert np.unique(found.similarity[0]).tolist() == np.unique(within.similarity[0]).tolist()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dim=st.sampled_from([3, 7, 48, 130, 512]),
    dtype=st.sampled_from([np.float16, np.float32]),
    scan=st.sampled_from(("rows", "int8")),
    threads=st.sampled_from([1, 3]),
    budgets=st.tuples(st.sampled_from([0, 64 << 20]), st.sampled_from([40 * 300, 32 << 20])),
    data=st.data(),
)
def test_one_query_alone_gives_each_row_one_dot_product_and_a_batch_agrees_to_a_millionth(
    seed: int, dim: int, dtype: type, scan: Scan, threads: int, budgets: tuple[int, int], data: st.DataObject
) -> None:
    gather, block_bytes = budgets
    rng = np.random.default_rng(seed)
    gallery, queries = random_units(rng, 600, dim).astype(dtype), random_units(rng, 9, dim)
    cuts = sorted(data.draw(st.lists(st.integers(0, 600), min_size=2, max_size=12, unique=True)))
    ranges = data.draw(st.sampled_from([None, list(zip(cuts[::2], cuts[1::2], strict=False))]))
    k = min(20, 600 if ranges is None else sum(stop - start for start, stop in ranges))
    kind = NumpyExactMatcher if scan == "rows" else NumpyInt8Matcher
    with (
        mock.patch.object(numpy_exact, "_GATHER_BYTES", gather),
        in_blocks(kind, gallery, block_bytes, threads=threads) as matcher,
    ):
        alone = [matcher.match(query[None], k, ranges) for query in queries]
        together = matcher.match(queries, k, ranges)
    for one, query in zip(alone, queries, strict=True):
        dots = [np.dot(gallery[row].astype(np.float32), query) for row in one.rows[0]]
        assert one.similarity[0].tolist() == np.array(dots, np.float32).tolist()
    similarity = np.concatenate([one.similarity for one in alone])
    np.testing.assert_allclose(together.similarity, similarity, rtol=0, atol=1e-6)
    for place in np.argwhere(together.rows != np.concatenate([one.rows for one in alone])):
        row = together.rows[tuple(place)]  # another one only where it is as similar
        assert abs(float(gallery[row].astype(np.float32) @ queries[place[0]]) - similarity[tuple(place)]) <= 1e-6


def test_minus_zero_ties_with_zero() -> None:
    gallery = np.array([[-0.0, 1], [0.0, 1], [0.0, -1]], np.float32)
    found = NumpyExactMatcher(gallery).match(np.array([[1, 0]], np.float32), 3)
    assert found.rows.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_random_rows_give_what_sorting_gives_for_more_queries_than_one_pass_takes(dtype: type) -> None:
    rng = np.random.default_rng(1)
    gallery, queries = random_units(rng, 500, 32).astype(dtype), random_units(rng, 300, 32)
    found = in_blocks(NumpyExactMatcher, gallery, 100_000).match(queries, 7)
    expected = match_by_sorting(gallery, queries, 7)
    np.testing.assert_allclose(found.similarity, expected.similarity, atol=2e-6)
    differ = found.rows != expected.rows  # only where two rows are nearer to each other than the summing is exact
    assert differ.mean() < 0.01


@pytest.mark.parametrize("zeros", [0, 1000])  # 1006 dimensions: many products a block, and a shorter one at its end
@pytest.mark.parametrize("n_queries", [1, 2, 8, 32, 33])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_every_way_to_multiply_gives_what_sorting_gives_with_and_without_threads(n_queries, dtype, zeros) -> None:
    """Rows repeat 30 times, over many blocks; the number of rows is a multiple of nothing."""
    rng = np.random.default_rng(n_queries)
    gallery = np.pad(np.tile(exact_units(rng, 100), (30, 1))[:-7].astype(dtype), ((0, 0), (0, zeros)))
    queries = np.pad(exact_units(rng, n_queries), ((0, 0), (0, zeros)))
    expected = match_by_sorting(gallery, queries, 50)
    alone = in_blocks(NumpyExactMatcher, gallery, 40 * 32 * 300).match(queries, 50)
    with (
        mock.patch.object(numpy_exact, "WIDEN_BYTES", 0),
        in_blocks(NumpyExactMatcher, gallery, 40 * 32 * 300, threads=3) as matcher,
    ):
        together = [matcher.match(queries, 50) for _ in range(3)]
    for found in (alone, *together):
        np.testing.assert_array_equal(found.rows, expected.rows)
        np.testing.assert_array_equal(found.similarity, expected.similarity)


@pytest.mark.parametrize(("n_rows", "n_queries", "woken"), [(100, 1, False), (1000, 8, False), (2000, 8, True)])
def test_threads_are_woken_only_where_they_save_more_than_that_takes(
    n_rows: int, n_queries: int, woken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_scan, "_WORTH_THREADS", 1_000_000)  # 1,000 rows of 100 values with 8 queries, no more
    rng = np.random.default_rng(6)
    gallery, queries = random_units(rng, n_rows, 100), random_units(rng, n_queries, 100)
    with NumpyExactMatcher(gallery, threads=2) as matcher, mock.patch.object(ThreadPoolExecutor, "map") as waking:
        waking.side_effect = lambda scan, numbers: [scan(number) for number in numbers]
        found = matcher.match(queries, 5)
    assert waking.called == woken
    assert np.array_equal(found.rows, match_by_sorting(gallery, queries, 5).rows)


def test_threads_give_ties_to_the_lower_row_though_its_block_ends_last() -> None:
    """Every row ties, so that the answer is the first k rows only if ties are settled by row across blocks."""
    gallery = np.tile(np.array([[0, 1, 0, 0]], np.float32), (20_000, 1))
    queries = np.tile(np.array([[0.5, 0.5, 0.5, 0.5]], np.float32), (4, 1))
    with in_blocks(NumpyExactMatcher, gallery, 40 * 4 * 4 * 500, threads=4) as matcher:
        for _ in range(10):
            assert matcher.match(queries, 3, [(700, 20_000)]).rows.tolist() == [[700, 701, 702]] * 4


@pytest.mark.parametrize("block_rows", [1, 63, 64, 65, 300])
@pytest.mark.parametrize("cut", [1, 63, 64, 65, 255, 256, 257, 700])
@pytest.mark.parametrize("gather", [0, 64 << 20])
def test_a_best_row_at_either_side_of_a_range_border_counts_only_inside_it(
    block_rows: int, cut: int, gather: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numpy_exact, "_GATHER_BYTES", gather)
    gallery = np.tile(np.array([[0, 1]], np.float32), (1000, 1))
    gallery[[cut - 1, cut, 998, 999]] = [1, 0]
    query = np.array([[1, 0]], np.float32)
    matcher = in_blocks(NumpyExactMatcher, gallery, 40 * block_rows)
    assert matcher.match(query, 2, [(cut, 999)]).rows.tolist() == [[cut, 998]]
    assert matcher.match(query, 2, [(0, cut), (999, 1000)]).rows.tolist() == [[cut - 1, 999]]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 256, 4999])
@pytest.mark.parametrize("n_queries", [1, 4, 40])
def test_one_value_that_is_not_finite_anywhere_is_refused_from_any_thread(value, row, n_queries) -> None:
    rng = np.random.default_rng(5)
    gallery = random_units(rng, 5000, 8)
    gallery[row, 3] = value
    with (
        in_blocks(NumpyExactMatcher, gallery, 40 * 40 * 2 * 500, threads=2) as matcher,
        pytest.raises(GalleryError, match="not finite"),
    ):
        matcher.match(random_units(rng, n_queries, 8), 3)


def test_a_matcher_that_was_left_can_be_entered_again() -> None:
    matcher = NumpyExactMatcher(GALLERY, threads=2)
    for _ in range(2):
        with matcher:
            assert matcher.match(GALLERY[:2].copy(), 1).rows.tolist() == [[0], [1]]
    assert matcher.match(GALLERY[:2].copy(), 1).rows.tolist() == [[0], [1]]


@pytest.mark.parametrize("widen_bytes", [0, 4 * 100 * 8 - 1, 4 * 100 * 8])
def test_a_float16_gallery_gives_the_same_matches_widened_once_or_in_every_call(widen_bytes: int) -> None:
    rng = np.random.default_rng(3)
    gallery, queries = exact_units(rng, 100).astype(np.float16), exact_units(rng, 5)
    expected = match_by_sorting(gallery, queries, 4)
    with mock.patch.object(numpy_exact, "WIDEN_BYTES", widen_bytes), NumpyExactMatcher(gallery) as matcher:
        found = matcher.match(queries, 4)
    assert np.array_equal(found.rows, expected.rows)
    assert np.array_equal(found.similarity, expected.similarity)


def test_a_gallery_on_disk_is_matched_like_one_in_memory(tmp_path) -> None:
    rng = np.random.default_rng(2)
    gallery, queries = random_units(rng, 100, 8).astype(np.float16), random_units(rng, 3, 8)
    gallery.tofile(tmp_path / "rows")
    mapped = np.memmap(tmp_path / "rows", np.float16, "r", 0, gallery.shape)
    np.testing.assert_array_equal(
        NumpyExactMatcher(mapped).match(queries, 5).rows, match_by_sorting(gallery, queries, 5).rows
    )


def test_memory_stays_within_the_block_while_the_full_matrix_would_not_fit() -> None:
    rng = np.random.default_rng(3)
    gallery, queries = random_units(rng, 40_000, 8), random_units(rng, 200, 8)  # full matrix: 32 MB
    tracemalloc.start()
    in_blocks(NumpyExactMatcher, gallery, 4 << 20).match(queries, 10)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 << 20


GALLERY = np.eye(4, dtype=np.float32)
QUERY = np.array([[1, 0, 0, 0]], np.float32)


@pytest.mark.parametrize(
    ("queries", "k", "ranges", "message"),
    [
        (np.array([[1, 0]], np.float32), 1, None, "2 dimensions but the gallery has 4"),
        (QUERY.astype(np.float64), 1, None, "takes float32"),
        (QUERY[0], 1, None, r"takes float32 \(Q, 4\)"),
        (QUERY * 2, 1, None, "not of unit length"),
        (QUERY * np.nan, 1, None, "not finite"),
        (QUERY, 0, None, r"choose k in 1\.\.4"),
        (QUERY, 5, None, "4 gallery rows may be matched"),
        (QUERY, 3, [(0, 1), (2, 3)], "2 gallery rows may be matched"),
        (QUERY, 1, [], "0 gallery rows may be matched"),
        (QUERY, 1, [(1, 1)], "0 gallery rows may be matched"),
        (QUERY, 1, [(2, 3), (0, 1)], "sorted and disjoint"),
        (QUERY, 1, [(0, 2), (1, 3)], "sorted and disjoint"),
        (QUERY, 1, [(2, 5)], "outside the gallery's 4 rows"),
        (QUERY, 1, [(-1, 2)], "outside the gallery's 4 rows"),
        (QUERY, 1, [(3, 2)], "outside the gallery's 4 rows"),
    ],
)
def test_what_would_be_answered_wrongly_is_refused(queries, k, ranges, message) -> None:
    for match in (NumpyExactMatcher(GALLERY).match, lambda *a: match_by_sorting(GALLERY, *a)):
        with pytest.raises(GalleryError, match=message):
            match(queries, k, ranges)


def test_a_range_of_one_row_gives_that_row() -> None:
    assert NumpyExactMatcher(GALLERY).match(QUERY, 1, [(0, 0), (2, 3)]).rows.tolist() == [[2]]


def test_a_gallery_row_that_is_not_finite_is_refused_instead_of_ranked() -> None:
    gallery = GALLERY.copy()
    gallery[2, 1] = np.nan
    with pytest.raises(GalleryError, match="not finite"):
        NumpyExactMatcher(gallery).match(QUERY, 1)


def test_a_gallery_of_another_dtype_is_refused() -> None:
    with pytest.raises(GalleryError, match="float64"):
        NumpyExactMatcher(np.eye(3))


def test_an_unavailable_device_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="`device` is 'abacus'; expected one of cpu"):
        open_matcher(GALLERY, DeviceSettings("abacus"))


@pytest.mark.parametrize("gathered", [True, False])
def test_scattered_ranges_are_answered_alike_copied_together_or_one_by_one(
    gathered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numpy_exact, "_GATHER_BYTES", 64 << 20 if gathered else 0)
    rng = np.random.default_rng(4)
    gallery = np.zeros((5000, 16), np.float32)
    np.put_along_axis(gallery, rng.integers(0, 16, (5000, 1)), 1.0, axis=1)  # many ties, exact products
    ranges = [
        (start, start + int(length)) for start, length in zip(range(0, 5000, 50), rng.integers(0, 50, 100), strict=True)
    ]
    with NumpyExactMatcher(gallery) as matcher:
        assert matcher._are_scattered([(0, 3), (5, 9)]) is gathered
        found = matcher.match(gallery[:3], 200, ranges)
    expected = match_by_sorting(gallery, gallery[:3], 200, ranges)
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_array_equal(found.similarity, expected.similarity)
    assert found.rows.dtype == np.int32
