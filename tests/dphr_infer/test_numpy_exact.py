import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dphr_infer.errors import EngineError, GalleryError
from dphr_infer.matchers.numpy_exact import NumpyExactMatcher, match_by_sorting
from dphr_infer.matchers.open import open_matcher

# Half of four entries is a unit vector, and inner products of such are exact in float32 in whatever order they are
# summed: multiples of a quarter, so that ties abound and both implementations must agree bit by bit.
DIM = 6


def exact_units(rng: np.random.Generator, n: int) -> np.ndarray:
    units = np.zeros((n, DIM), np.float32)
    for row in units:
        row[rng.choice(DIM, 4, replace=False)] = rng.choice([-0.5, 0.5], 4)
    return units


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
@given(problems(), st.integers(1, 4000))
def test_blocks_of_any_size_give_exactly_what_sorting_everything_gives(problem, block_bytes: int) -> None:
    gallery, queries, k, ranges = problem
    found = NumpyExactMatcher(gallery, block_bytes).match(queries, k, ranges)
    expected = match_by_sorting(gallery, queries, k, ranges)
    assert found.rows.dtype == np.int32 and found.similarity.dtype == np.float32
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_array_equal(found.similarity, expected.similarity)


def test_match_gives_ties_to_the_lower_row() -> None:
    gallery = np.array([[0, 1], [1, 0], [0, 1], [1, 0], [-1, 0]], np.float32)
    found = NumpyExactMatcher(gallery, block_bytes=1).match(np.array([[1, 0]], np.float32), 5)
    assert found.rows.tolist() == [[1, 3, 0, 2, 4]]
    assert found.similarity.tolist() == [[1.0, 1.0, 0.0, 0.0, -1.0]]


def test_minus_zero_ties_with_zero() -> None:
    gallery = np.array([[-0.0, 1], [0.0, 1], [0.0, -1]], np.float32)
    found = NumpyExactMatcher(gallery).match(np.array([[1, 0]], np.float32), 3)
    assert found.rows.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_random_rows_give_what_sorting_gives_for_more_queries_than_one_pass_takes(dtype: type) -> None:
    rng = np.random.default_rng(1)
    gallery, queries = random_units(rng, 500, 32).astype(dtype), random_units(rng, 300, 32)
    found = NumpyExactMatcher(gallery, block_bytes=100_000).match(queries, 7)
    expected = match_by_sorting(gallery, queries, 7)
    np.testing.assert_allclose(found.similarity, expected.similarity, atol=2e-6)
    differ = found.rows != expected.rows  # only where two rows are nearer to each other than the summing is exact
    assert differ.mean() < 0.01


@pytest.mark.parametrize("widen_bytes", [0, 4 * 100 * 8 - 1, 4 * 100 * 8])
def test_a_float16_gallery_gives_the_same_matches_widened_once_or_in_every_call(widen_bytes: int) -> None:
    rng = np.random.default_rng(3)
    gallery, queries = exact_units(rng, 100).astype(np.float16), exact_units(rng, 5)
    expected = match_by_sorting(gallery, queries, 4)
    with NumpyExactMatcher(gallery, widen_bytes=widen_bytes) as matcher:
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
    NumpyExactMatcher(gallery, block_bytes=4 << 20).match(queries, 10)
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
    with pytest.raises(EngineError, match="'cuda' is not available"):
        open_matcher(GALLERY, "cuda")
