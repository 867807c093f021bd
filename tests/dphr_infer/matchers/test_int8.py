import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_matching import match_by_sorting

from dphr_infer.errors import ConfigError, EngineError, GalleryError
from dphr_infer.locate.devices import open_matcher
from dphr_infer.locate.settings import DeviceSettings
from dphr_infer.matchers import block_scan
from dphr_infer.matchers import int8 as numpy_int8
from dphr_infer.matchers.exact import NumpyExactMatcher
from dphr_infer.matchers.int8 import NumpyInt8Matcher
from dphr_infer.types import Matches

# Multiples of 2^-11 in rows at most 1 long: inner products are exact in float32 in whatever order they are summed, and
# float16 holds the entries.
GRID = 2.0**-11

pytestmark = [pytest.mark.kernels, pytest.mark.usefixtures("threads_for_small_galleries")]


def on_grid(rows: np.ndarray) -> np.ndarray:
    return (np.trunc(rows / GRID) * GRID).astype(np.float32)


def random_units(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    units = rng.standard_normal((n, dim)).astype(np.float32)
    return units / np.linalg.norm(units, axis=1, keepdims=True)


def grid_queries(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    rows = on_grid(random_units(rng, n, dim))
    bad = np.linalg.norm(rows, axis=1) < 0.996
    rows[bad] = np.eye(dim, dtype=np.float32)[rng.integers(0, dim, int(bad.sum()))]
    return rows


def assert_equal(found: Matches, expected: Matches) -> None:
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_array_equal(found.similarity, expected.similarity)
    assert (found.rows.dtype, found.similarity.dtype) == (np.int32, np.float32)


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int, list[tuple[int, int]] | None]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, dim = draw(st.integers(1, 400)), draw(st.sampled_from([1, 2, 7, 32]))
    gallery, queries = on_grid(random_units(rng, n, dim)), grid_queries(rng, draw(st.integers(1, 5)), dim)
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
    return gallery, queries, draw(st.integers(1, min(allowed, draw(st.sampled_from([2, 12, 400]))))), ranges


@settings(max_examples=150, deadline=None)
@given(problems(), st.integers(1, 20_000), st.sampled_from([(1, 1), (1, 8), (4, 50), (128, 2048)]), st.integers(1, 3))
def test_matches_are_exactly_those_of_sorting_everything(problem, block_bytes, candidates, threads) -> None:
    gallery, queries, k, ranges = problem
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numpy_int8, "_FEWEST_CANDIDATES", candidates[0])
        patch.setattr(numpy_int8, "_MOST_CANDIDATES", candidates[1])
        patch.setattr(block_scan, "BLOCK_BYTES", block_bytes)
        with NumpyInt8Matcher(gallery, threads) as matcher:
            assert_equal(matcher.match(queries, k, ranges), match_by_sorting(gallery, queries, k, ranges))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("n_queries", [1, 2, 32, 33, 300])
def test_many_blocks_and_every_way_to_multiply_give_what_sorting_gives(
    n_queries: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_scan, "BLOCK_BYTES", 40 * n_queries * 300)
    rng = np.random.default_rng(n_queries)
    gallery = on_grid(random_units(rng, 3007, 64)).astype(np.float16)
    queries, ranges = grid_queries(rng, n_queries, 64), [(5, 1200), (1201, 3001)]
    with NumpyInt8Matcher(gallery, threads) as matcher:
        assert_equal(matcher.match(queries, 10, ranges), match_by_sorting(gallery, queries, 10, ranges))


def test_random_rows_agree_with_the_float32_scan_and_need_no_second_one() -> None:
    rng = np.random.default_rng(1)
    gallery, queries = random_units(rng, 20_000, 256).astype(np.float16), random_units(rng, 20, 256)
    with NumpyInt8Matcher(gallery) as matcher, NumpyExactMatcher(gallery) as reference:
        found, expected = matcher.match(queries, 10), reference.match(queries, 10)
        assert (matcher.widened, matcher.rescanned) == (0, 0)
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_allclose(found.similarity, expected.similarity, atol=1e-6)


def test_duplicates_widen_until_all_are_kept_and_it_is_counted() -> None:
    gallery = np.tile(np.array([[0.5, 0.5, 0.5, 0.5]], np.float32), (1500, 1))
    query = np.array([[1, 0, 0, 0], [0, 1, 0, 0]], np.float32)
    with NumpyInt8Matcher(gallery) as matcher:
        assert matcher.match(query, 2).rows.tolist() == [[0, 1], [0, 1]]
        assert (matcher.widened, matcher.rescanned) == (2, 0)  # 128, 512, all
        matcher.match(query, 2, [(3, 100)])
        assert (matcher.widened, matcher.rescanned) == (2, 0)
    with matcher:
        assert (matcher.widened, matcher.rescanned) == (0, 0)


def test_only_the_query_that_int8_cannot_prove_is_scanned_by_its_rows() -> None:
    gallery = np.concatenate([np.eye(4, dtype=np.float32), np.tile(np.float32(0.5), (5000, 4))])
    queries = np.concatenate([np.eye(4, dtype=np.float32)[:2], np.full((1, 4), 0.5, np.float32)])
    with NumpyInt8Matcher(gallery, threads=2) as matcher:
        found = matcher.match(queries, 1)
        assert (matcher.widened, matcher.rescanned) == (2, 1)  # 128, 512, 2048, then the rows
    assert found.rows.tolist() == [[0], [1], [4]]


def test_the_row_that_rounding_hid_behind_more_rows_than_are_kept_is_found() -> None:
    step = 2.0**-7
    hidden = np.full(64, 8.4375 * step, np.float32)  # rounded to 8 steps: 0.4375 of a step lost in every entry
    hidden[0] = 127 * step
    query = np.full((1, 64), 0.125, np.float32)
    query[0, 0] = 0
    query /= np.linalg.norm(query)
    others = np.tile(np.linspace(8.40, 8.38, 300, dtype=np.float32)[:, None] * np.float32(step), (1, 64))
    others[:, 0] = 0  # all entries of a row are equal, so that int8 is exact for it
    with NumpyInt8Matcher(np.concatenate([others, hidden[None]])) as matcher:
        assert matcher.match(query, 1).rows.tolist() == [[300]]
        assert matcher.widened == 0


def test_memory_stays_at_one_byte_a_value_and_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_scan, "BLOCK_BYTES", 4 << 20)
    rng = np.random.default_rng(3)
    gallery, queries = random_units(rng, 60_000, 32), random_units(rng, 256, 32)  # all bounds: 61 MB
    tracemalloc.start()
    with NumpyInt8Matcher(gallery, threads=1) as matcher:
        matcher.match(queries, 10)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < (60_000 * 32) + (14 << 20)


def test_a_gallery_on_disk_is_matched_like_one_in_memory(tmp_path) -> None:
    rng = np.random.default_rng(2)
    gallery, queries = on_grid(random_units(rng, 500, 8)).astype(np.float16), grid_queries(rng, 3, 8)
    gallery.tofile(tmp_path / "rows")
    with NumpyInt8Matcher(np.memmap(tmp_path / "rows", np.float16, "r", 0, gallery.shape)) as matcher:
        assert_equal(matcher.match(queries, 5), match_by_sorting(gallery, queries, 5))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 9000])
def test_a_row_that_is_not_finite_is_refused_on_entering_and_no_thread_stays(value: float, row: int) -> None:
    gallery = np.tile(np.eye(4, dtype=np.float16), (3000, 1))
    gallery[row, 2] = value
    before = threading.active_count()
    with pytest.raises(GalleryError, match="hold values that are not finite"), NumpyInt8Matcher(gallery, threads=2):
        pass
    assert threading.active_count() == before


GALLERY = np.eye(4, dtype=np.float32)
QUERY = GALLERY[:1].copy()


@pytest.mark.parametrize(
    ("queries", "k", "ranges", "message"),
    [
        (np.array([[1, 0]], np.float32), 1, None, "2 dimensions but the gallery has 4"),
        (QUERY * np.nan, 1, None, "not finite"),
        (QUERY * 2, 1, None, "not of unit length"),
        (QUERY, 5, None, "4 gallery rows may be matched"),
        (QUERY, 1, [(2, 3), (0, 1)], "sorted and disjoint"),
    ],
)
def test_what_would_be_answered_wrongly_is_refused(queries, k, ranges, message) -> None:
    with NumpyInt8Matcher(GALLERY) as matcher, pytest.raises(GalleryError, match=message):
        matcher.match(queries, k, ranges)


def test_matching_before_entering_and_after_leaving_is_refused_and_entering_again_is_not() -> None:
    matcher = NumpyInt8Matcher(GALLERY)
    for _ in range(2):
        with pytest.raises(EngineError, match="not open"):
            matcher.match(QUERY, 1)
        with matcher:
            assert matcher.match(QUERY, 1).rows.tolist() == [[0]]


def test_no_query_gives_no_match() -> None:
    with NumpyInt8Matcher(GALLERY) as matcher:
        assert matcher.match(QUERY[:0], 3).rows.shape == (0, 3)


def test_a_gallery_of_another_dtype_is_refused() -> None:
    with pytest.raises(GalleryError, match="float64"):
        NumpyInt8Matcher(np.eye(3))


def test_the_scan_is_chosen_by_name_and_another_name_is_refused() -> None:
    asked = [DeviceSettings(device, scan=scan) for device in ("cpu", "cuda") for scan in ("rows", "int8")]
    names = [open_matcher(GALLERY, on).name for on in asked]
    assert names == ["numpy exact", "numpy int8", "cuda exact fp16", "cuda exact int8"]
    with pytest.raises(ConfigError, match="`scan` is 'fp8'; expected one of auto, rows, int8"):
        DeviceSettings(scan="fp8")
