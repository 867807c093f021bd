"""The matcher on a real GPU equals NumPy. Skipped where there is no GPU or no PyCUDA; `make gpu-test` runs this.

Tests with "sanitized" in their name are small: they run once more under compute-sanitizer.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from plain_matching import match_by_sorting

from dphr_infer.cuda import memory
from dphr_infer.cuda.build import load_fatbin
from dphr_infer.cuda.driver import open_cuda
from dphr_infer.cuda.graph import CudaGraph
from dphr_infer.cuda.topk import matcher as cuda_exact
from dphr_infer.cuda.topk.launch import DeviceScan, Limits
from dphr_infer.cuda.topk.matcher import CudaExactMatcher
from dphr_infer.matchers.exact import NumpyExactMatcher


def random_units(seed: int, n: int, dim: int) -> np.ndarray:
    units: np.ndarray = np.random.default_rng(seed).standard_normal((n, dim), dtype=np.float32)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    return units


def exact_units(seed: int, n: int, dim: int) -> np.ndarray:
    """Inner products of these are exact in whatever order they are summed, and often equal."""
    rng = np.random.default_rng(seed)
    units = np.zeros((n, dim), np.float32)
    places = rng.permuted(np.tile(np.arange(dim), (n, 1)), axis=1)[:, :4]
    np.put_along_axis(units, places, rng.choice(np.array([-0.5, 0.5], np.float32), (n, 4)), axis=1)
    return units


def assert_agrees(found: Any, gallery: np.ndarray, queries: np.ndarray, ranges: Any = None) -> None:
    """Equal to a float64 search up to float32 rounding: each row is as similar as said, and none better was missed."""
    k = found.rows.shape[1]
    allowed = np.arange(len(gallery)) if ranges is None else np.concatenate([np.arange(*pair) for pair in ranges])
    for query, rows, similarity in zip(queries, found.rows, found.similarity, strict=True):
        exact = gallery.astype(np.float64) @ query.astype(np.float64)
        np.testing.assert_allclose(similarity, exact[rows], atol=2e-6)
        assert len(set(rows)) == k and np.isin(rows, allowed).all()
        assert (np.diff(similarity) <= 0).all()
        assert exact[rows].min() >= np.sort(exact[allowed])[-k] - 4e-6


@pytest.mark.parametrize("scan", ["fp16", "int8"])
@pytest.mark.parametrize(("n", "dim", "n_queries", "k"), [(1, 4, 1, 1), (700, 36, 3, 5), (3000, 64, 20, 10)])
def test_sanitized_exact_inner_products_and_ties_equal_sorting(
    n: int, dim: int, n_queries: int, k: int, scan: Any
) -> None:
    gallery, queries = exact_units(1, n, dim).astype(np.float16), exact_units(2, n_queries, dim)
    with CudaExactMatcher(gallery, scan=scan) as matcher:
        found = matcher.match(queries, k)
    expected = match_by_sorting(gallery, queries, k)
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_array_equal(found.similarity, expected.similarity)


@pytest.mark.parametrize("scan", ["fp16", "int8"])
@pytest.mark.parametrize("n", [33, 10_000, 200_000])
def test_random_galleries_agree_with_a_float64_search(n: int, scan: Any) -> None:
    for dim in (48, 250, 512, 1024):
        gallery = random_units(n + dim, n, dim).astype(np.float16)
        with CudaExactMatcher(gallery, max_queries=300, scan=scan) as matcher:
            for n_queries, k in ((1, 1), (1, 32), (8, 10), (9, 32), (64, 10), (300, 5)):
                queries = random_units(n_queries, n_queries, dim)
                found = matcher.match(queries, k)
                assert_agrees(first_queries(found, 12), gallery, queries[:12])


def first_queries(found: Any, count: int) -> Any:
    """The first queries: the float64 search takes too long for all."""
    return type(found)(found.rows[:count], found.similarity[:count])


@pytest.mark.parametrize("k", [33, 100, 1024])
def test_large_k_agrees(k: int) -> None:
    gallery, queries = random_units(5, 50_000, 256).astype(np.float16), random_units(6, 70, 256)
    with CudaExactMatcher(gallery, max_queries=70, max_k=1024) as matcher:
        found = matcher.match(queries, k)
    assert_agrees(first_queries(found, 8), gallery, queries[:8])


@pytest.mark.parametrize("scan", ["fp16", "int8"])
def test_only_the_rows_of_the_ranges_are_matched(scan: Any) -> None:
    gallery, queries = random_units(7, 30_000, 128).astype(np.float16), random_units(8, 9, 128)
    with CudaExactMatcher(gallery, scan=scan) as matcher:
        for ranges in ([(5, 6)], [(0, 100), (200, 300), (29_990, 30_000)], [(i, i + 3) for i in range(0, 30_000, 7)]):
            found = matcher.match(queries, 1 if len(ranges) == 1 else 20, ranges)
            assert_agrees(found, gallery, queries, ranges)


def test_a_streamed_gallery_agrees_with_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MOST_MARGIN_BYTES", 1 << 50)  # the largest margin, an eighth, and then
    monkeypatch.setattr(memory, "_MARGIN_PART", 1)  # all of the memory: nothing fits beside it
    monkeypatch.setattr(cuda_exact, "STREAM_BYTES", 1 << 20)
    gallery, queries = exact_units(9, 50_000, 64).astype(np.float16), exact_units(10, 5, 64)
    with CudaExactMatcher(gallery) as matcher, NumpyExactMatcher(gallery) as numpy:
        assert matcher.name.endswith("streamed")
        found, expected = matcher.match(queries, 32), numpy.match(queries, 32)
    np.testing.assert_array_equal(found.rows, expected.rows)


def test_int8_answers_what_it_cannot_prove_at_first_exactly() -> None:
    near = np.tile(random_units(11, 1, 64), (5000, 1)) + 1e-4 * random_units(12, 5000, 64)
    gallery = (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float16)
    queries = random_units(11, 1, 64)
    with CudaExactMatcher(gallery, scan="int8") as matcher:
        found = matcher.match(queries, 10)
        assert matcher.widened > 0
    assert_agrees(found, gallery, queries)


@pytest.mark.parametrize("scan", ["fp16", "int8"])
@pytest.mark.parametrize("n_queries", [1, 8, 64])
def test_twenty_repeats_give_the_same_bits(n_queries: int, scan: Any) -> None:
    gallery = random_units(13, 100_000, 512).astype(np.float16)
    gallery[50_000:] = gallery[:50_000]  # every similarity twice
    queries = random_units(14, n_queries, 512)
    with CudaExactMatcher(gallery, scan=scan) as matcher:
        first = matcher.match(queries, 20)
        for _ in range(20):
            again = matcher.match(queries, 20)
            assert again.rows.tobytes() == first.rows.tobytes()
            assert again.similarity.tobytes() == first.similarity.tobytes()
    assert (first.rows[:, ::2] < 50_000).all()  # of two equal rows the lower one comes first


@pytest.mark.parametrize("scan", ["fp16", "int8"])
def test_the_gpus_part_of_a_match_is_no_more_than_all_of_it(scan: Any) -> None:
    gallery, queries = random_units(17, 100_000, 256).astype(np.float16), random_units(18, 1, 256)
    with CudaExactMatcher(gallery, scan=scan) as matcher:
        wall_ms = []
        for _ in range(50):
            start = time.perf_counter()
            matcher.match(queries, 10)
            wall_ms.append(1e3 * (time.perf_counter() - start))
        assert 0 < np.median([matcher.gpu_ms(queries, 10) for _ in range(20)]) <= np.median(wall_ms)


def test_a_call_can_be_captured_in_a_graph_and_replayed(gpu: Any) -> None:
    gallery, queries = exact_units(15, 20_000, 64).astype(np.float16), exact_units(16, 4, 64)
    with open_cuda() as cuda, cuda.active():
        scan = DeviceScan(cuda, load_fatbin(gpu.capability, gpu.driver), Limits(len(gallery), 64, 4, 10), "fp16")
        scan.put_rows(0, gallery)
        ranges = ((0, len(gallery)),)
        found = scan.scan(queries, 10, ranges)
        launch = scan.ready(4, 10, ranges)
        graph = CudaGraph(cuda, lambda: scan.enqueue(launch))
        for _ in range(3):
            launch.outputs[:] = 0
            graph.launch()
            cuda.synchronize()
            np.testing.assert_array_equal(launch.found.rows, found.rows)
            np.testing.assert_array_equal(launch.found.similarity, found.similarity)
        graph.free()
