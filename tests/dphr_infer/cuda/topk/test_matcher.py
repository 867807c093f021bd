import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import fake_pycuda
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plain_matching import match_by_sorting
from topk_launches import pad_queries

from dphr_infer.cuda import build as fatbin
from dphr_infer.cuda import driver as cuda
from dphr_infer.cuda import memory
from dphr_infer.cuda.memory import room_on_device
from dphr_infer.cuda.topk import launch as topk_launch
from dphr_infer.cuda.topk import matcher as cuda_exact
from dphr_infer.cuda.topk.matcher import CudaExactMatcher, cut_ranges, merge
from dphr_infer.cuda.topk.plan import SCAN_ARGUMENTS, pack_arguments, plan_topk
from dphr_infer.errors import DphrError, EngineError, GalleryError, MissingPackageError
from dphr_infer.locate.devices import open_matcher
from dphr_infer.locate.settings import DeviceSettings
from dphr_infer.matchers.exact import NumpyExactMatcher
from dphr_infer.types import Matches

pytestmark = pytest.mark.kernels

KERNELS = fatbin.source_of("topk")


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A GPU that records launches, and whose kernels write nothing."""
    made = fake_pycuda.FakeDriver()
    monkeypatch.setitem(sys.modules, "pycuda", ModuleType("pycuda"))
    monkeypatch.setitem(sys.modules, "pycuda.driver", made)
    monkeypatch.setattr(cuda, "pop_released_context", made.raw_stack.pop)
    monkeypatch.setattr(cuda_exact, "load_fatbin", lambda capability, version: b"image")
    return made


@pytest.fixture
def gpu(driver: Any, cuda_on_cpu: Any) -> Any:
    """The same with kernels that run, on this processor."""
    driver.cpu = cuda_on_cpu.build(KERNELS)
    return driver


def crowd(driver: Any) -> None:
    """Other programs leave so little of the GPU's memory that no gallery fits beside the margin."""
    driver.others_bytes = driver.memory_bytes - driver.memory_bytes // 8


@contextmanager
def patch_stream_bytes(n_bytes: int) -> Iterator[None]:
    """Streamed parts of so many bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_exact, "STREAM_BYTES", n_bytes)
        yield


def all_given_back(driver: Any) -> bool:
    return not (driver.device_memory or driver.pinned or driver.retained or driver.raw_stack or driver.own_stack)


def exact_units(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    """Inner products of these are multiples of a quarter: exact in whatever order they are summed, and often equal."""
    units = np.zeros((n, dim), np.float32)
    for row in units:
        row[rng.choice(dim, 4, replace=False)] = rng.choice([-0.5, 0.5], 4)
    return units


def random_units(seed: int, n: int, dim: int) -> np.ndarray:
    units = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return units / np.linalg.norm(units, axis=1, keepdims=True)


def assert_equal(found: Matches, expected: Matches) -> None:
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_array_equal(found.similarity, expected.similarity)
    assert (found.rows.dtype, found.similarity.dtype) == (np.int32, np.float32)


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int, list[tuple[int, int]] | None]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, dim = draw(st.integers(1, 300)), draw(st.integers(4, 40))
    gallery = exact_units(rng, n, dim)[rng.integers(0, n, n)]  # drawn with repetition: duplicate rows
    if draw(st.booleans()):
        gallery = gallery.astype(np.float16)
    cuts = sorted(draw(st.lists(st.integers(0, n), min_size=2, max_size=12)))
    ranges = list(zip(cuts[::2], cuts[1::2], strict=False))
    allowed = sum(stop - start for start, stop in ranges)
    if allowed == 0 or draw(st.booleans()):
        ranges, allowed = None, n
    return gallery, exact_units(rng, draw(st.integers(1, 20)), dim), draw(st.integers(1, min(32, allowed))), ranges


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(problems(), st.sampled_from(["fp16", "int8", "stream"]), st.integers(1, 20))
def test_the_kernels_give_exactly_what_sorting_everything_gives(
    gpu: Any, problem: Any, mode: str, max_queries: int
) -> None:
    gallery, queries, k, ranges = problem
    gpu.others_bytes = 0
    if mode == "stream":
        crowd(gpu)
    with (
        patch_stream_bytes(8000),
        CudaExactMatcher(gallery, max_queries, scan="fp16" if mode == "stream" else mode) as matcher,
    ):
        found = matcher.match(queries, k, ranges)
        assert matcher.name.endswith("streamed") == (mode == "stream")
    assert_equal(found, match_by_sorting(gallery, queries, k, ranges))
    assert all_given_back(gpu)


@pytest.mark.parametrize("scan", ["fp16", "int8"])
def test_calls_of_all_sizes_on_one_open_matcher_agree_with_numpy(scan: Any, gpu: Any) -> None:
    gallery, queries = random_units(1, 700, 60).astype(np.float16), random_units(2, 70, 60)
    cases = [(1, 1, None), (64, 32, [(10, 50)]), (70, 7, None), (3, 32, [(0, 9), (11, 40), (699, 700)]), (1, 1, None)]
    with CudaExactMatcher(gallery, scan=scan) as matcher, NumpyExactMatcher(gallery) as reference:
        for n_queries, k, ranges in cases:
            found = matcher.match(queries[:n_queries], k, ranges)
            expected = reference.match(queries[:n_queries], k, ranges)
            np.testing.assert_array_equal(found.rows, expected.rows)
            np.testing.assert_allclose(found.similarity, expected.similarity, atol=1e-6)


def test_a_float32_gallery_is_matched_as_its_float16_rows(gpu: Any) -> None:
    gallery, queries = random_units(3, 200, 33), random_units(4, 3, 33)
    with CudaExactMatcher(gallery) as first, CudaExactMatcher(gallery.astype(np.float16)) as second:
        assert_equal(first.match(queries, 5), second.match(queries, 5))


def test_match_gives_ties_to_the_lower_row_also_across_streamed_parts(gpu: Any) -> None:
    gallery = np.tile(np.eye(4, dtype=np.float32), (5, 1))
    query = np.array([[0, 1, 0, 0]], np.float32)
    for name in ("cuda exact int8", "cuda exact fp16", "cuda exact fp16 streamed"):
        if name.endswith("streamed"):
            crowd(gpu)
        with patch_stream_bytes(48), CudaExactMatcher(gallery, scan=name.split()[2]) as matcher:  # three rows a part
            found = matcher.match(query, 4, [(2, 20)])
            assert matcher.name == name
        assert found.rows.tolist() == [[5, 9, 13, 17]], name


@pytest.mark.parametrize("scan", ["fp16", "int8"])
def test_more_ranges_than_there_is_room_for_make_more_room(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, scan: Any
) -> None:
    monkeypatch.setattr(topk_launch, "FIRST_RANGES", 3)
    gallery, queries = random_units(5, 200, 16).astype(np.float16), random_units(6, 9, 16)
    with CudaExactMatcher(gallery, scan=scan) as matcher:
        for step in (100, 20, 10, 100):  # 2, 10, 20 and again 2 ranges
            ranges = [(start, start + 2) for start in range(0, 200, step)]
            found = matcher.match(queries, 4, ranges)
            np.testing.assert_array_equal(found.rows, match_by_sorting(gallery, queries, 4, ranges).rows)
        gpu.calls.clear()
        matcher.match(queries, 4, [(start, start + 2) for start in range(0, 200, 10)])
        assert "mem_alloc" not in gpu.calls
    assert all_given_back(gpu)


def test_int8_widens_until_it_is_proven_and_counts_it(gpu: Any) -> None:
    # 200 rows nearer to each other than int8 tells apart: bounds of all of them lie above the best similarity.
    rng = np.random.default_rng(7)
    near = np.tile(random_units(8, 1, 32), (200, 1)) + rng.normal(0, 1e-4, (200, 32)).astype(np.float32)
    gallery = np.concatenate([random_units(9, 300, 32), near / np.linalg.norm(near, axis=1, keepdims=True)])
    gallery = gallery.astype(np.float16)
    queries = np.concatenate([random_units(8, 1, 32), -gallery[:1].astype(np.float32)])
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    with CudaExactMatcher(gallery, scan="int8") as matcher:
        found = matcher.match(queries, 5)
        assert (matcher.widened, matcher.rescanned) == (2, 0)  # 32, 128, then all 500 rows
        scans = [launch for launch in gpu.launches if "_i8_" in launch.kernel]
        assert [launch.kernel for launch in scans] == ["topk_dot_i8_q2", "topk_dot_i8_q1", "topk_dot_i8_q1"]
    np.testing.assert_array_equal(found.rows, match_by_sorting(gallery, queries, 5).rows)


def test_what_int8_cannot_prove_is_scanned_by_float16(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_exact, "MAX_K", 64)
    gallery = np.tile(random_units(10, 1, 16), (300, 1)).astype(np.float16)
    queries = random_units(10, 1, 16)
    with CudaExactMatcher(gallery, scan="int8") as matcher:
        found = matcher.match(queries, 3)
        assert (matcher.widened, matcher.rescanned) == (1, 1)
    assert found.rows.tolist() == [[0, 1, 2]]
    assert [launch.kernel for launch in gpu.launches[-1:]] == ["topk_dot_f16_q1"]


def test_arguments_are_packed_in_the_planners_order(driver: Any) -> None:
    gallery, queries = random_units(11, 90, 20).astype(np.float16), random_units(12, 3, 20)
    with CudaExactMatcher(gallery) as matcher:
        matcher.match(queries, 4, [(1, 5), (8, 80)])
        (launch,) = driver.launches
        plan = plan_topk(76, 20, 3, 4, "fp16", 2, 166_912)
        assert (launch.kernel, launch.grid, launch.block) == (plan.kernel, plan.grid, plan.block)
        assert launch.shared_bytes == plan.shared_bytes
        values = dict(zip(SCAN_ARGUMENTS, struct.unpack("@6Q4i6Q", launch.arguments), strict=True))
        assert {name: values[name] for name in ("n_ranges", "n_vectors", "n_queries", "k")} == {
            "n_ranges": 2,
            "n_vectors": 3,
            "n_queries": 3,
            "k": 4,
        }
        assert values["row_bounds"] == values["query_bounds"] == 0

        def read(name: str, dtype: type, count: int) -> np.ndarray:
            return driver.on_device(values[name], count * np.dtype(dtype).itemsize).view(dtype)

        np.testing.assert_array_equal(read("gallery", np.float16, 90 * 24).reshape(90, 24)[:, :20], gallery)
        assert not read("gallery", np.float16, 90 * 24).reshape(90, 24)[:, 20:].any()
        np.testing.assert_array_equal(read("queries", np.float32, 3 * 24).reshape(3, 24), pad_queries(queries))
        assert read("ranges", np.int32, 4).tolist() == [1, 5, 8, 80]
        assert read("range_prefix", np.int32, 3).tolist() == [0, 4, 76]
        for name, size in (("floors", 8 * 64), ("survivor_counts", 4 * 64), ("blocks_done", 4 * 64)):
            assert not read(name, np.uint8, size).any(), name
        assert len(driver.on_device(values["survivors"], plan.survivor_bytes)) == plan.survivor_bytes
        assert values["similarity"] - values["rows"] == 48  # 3 x 4 int32


def test_sizes_and_pointers_are_padded_as_c_does() -> None:
    packed = pack_arguments([np.uint64(1), np.int32(2), np.uint64(3)])
    assert packed == struct.pack("<QiiQ", 1, 2, 0, 3)
    with pytest.raises(KeyError):
        pack_arguments([np.int64(1)])


def test_a_call_copies_once_launches_once_and_waits_once(driver: Any) -> None:
    queries = random_units(13, 1, 16)
    with CudaExactMatcher(random_units(14, 50, 16)) as matcher:
        matcher.match(queries, 5)
        driver.calls.clear()
        matcher.match(queries, 5)
        assert driver.calls == ["memcpy_htod_async", "launch", "memcpy_dtoh_async", "synchronize"]
        driver.calls.clear()
        matcher.match(queries, 5, [(3, 40)])  # another prior: its ranges and their sums go along
        assert driver.calls.count("memcpy_htod_async") == 3 and driver.calls.count("synchronize") == 1
        assert "mem_alloc" not in driver.calls


def test_everything_is_given_back_after_an_error_in_a_call_and_leaving_twice_is_harmless(driver: Any) -> None:
    matcher = CudaExactMatcher(random_units(15, 50, 16))
    with pytest.raises(EngineError, match="Fake Orin: cuLaunchKernel failed: out of resources"), matcher:
        assert driver.device_memory and driver.pinned and driver.retained == 1
        driver.fail = {"launch": fake_pycuda.LaunchError("cuLaunchKernel failed: out of resources")}
        matcher.match(random_units(16, 1, 16), 1)
    assert all_given_back(driver)
    driver.fail = {}
    matcher.__exit__(None, None, None)
    with matcher, pytest.raises(EngineError, match="entered twice"):
        matcher.__enter__()
    assert all_given_back(driver)
    with pytest.raises(EngineError, match="not open: use it inside a with statement"):
        matcher.match(random_units(16, 1, 16), 1)


@pytest.mark.parametrize("step", ["retain", "Stream", "module_from_buffer", "mem_alloc", "pagelocked_empty"])
def test_everything_is_given_back_when_opening_fails(step: str, driver: Any) -> None:
    driver.fail = {step: fake_pycuda.LogicError(f"{step} failed: planted")}
    with pytest.raises(EngineError, match="planted"), CudaExactMatcher(random_units(17, 50, 16)):
        pass
    assert all_given_back(driver)


def test_a_gallery_larger_than_the_gpu_is_streamed_and_the_log_gives_both_sizes(
    gpu: Any, caplog: pytest.LogCaptureFixture
) -> None:
    gpu.memory_bytes, gpu.sm_count = 1 << 20, 1
    gallery, queries = random_units(18, 20_000, 32).astype(np.float16), random_units(19, 2, 32)
    with CudaExactMatcher(gallery, 2, 4) as matcher:
        found = matcher.match(queries, 4, [(5, 19_000), (19_500, 20_000)])
    assert len(gpu.launches) == 3  # 8,192 rows take half of what is free
    expected = match_by_sorting(gallery, queries, 4, [(5, 19_000), (19_500, 20_000)])
    np.testing.assert_array_equal(found.rows, expected.rows)
    assert caplog.messages == [
        "The gallery takes 1,280,000 bytes on Fake Orin, where 1,048,576 of 1,048,576 are free and 131,072 are kept "
        "free: each search copies its rows there part by part."
    ]
    assert all_given_back(gpu)


def test_an_int8_scan_of_a_gallery_larger_than_the_gpu_is_refused_with_both_sizes(gpu: Any) -> None:
    gpu.memory_bytes = 1 << 20
    words = (
        r"takes 2,080,000 bytes on Fake Orin, where 1,048,576 of .*: an int8 scan needs all of it there\. Scan the rows"
    )
    gallery = random_units(18, 20_000, 32).astype(np.float16)
    with pytest.raises(GalleryError, match=words), CudaExactMatcher(gallery, 2, 4, "int8"):
        pass
    assert all_given_back(gpu)


def test_room_is_asked_of_the_gpu_with_what_lies_beside_the_gallery(driver: Any) -> None:
    driver.others_bytes = 1 << 27  # 134,217,728 of 268,435,456 are free, 33,554,432 are kept free
    room = room_on_device(1000, 32, "fp16")
    assert (room.needed_bytes, room.free_bytes, room.margin_bytes, room.fits) == (64_000, 1 << 27, 1 << 25, True)
    assert room_on_device(1000, 32, "fp16", beside_bytes=(3 << 25) - 64_000).fits
    assert not room_on_device(1000, 32, "fp16", beside_bytes=3 << 25).fits
    assert room_on_device(1000, 33, "int8").needed_bytes == 1000 * (80 + 48 + 8)  # rows end at whole 16 bytes
    assert all_given_back(driver)


def test_a_gpu_that_shares_the_hosts_memory_may_take_what_the_file_cache_holds(
    driver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd(driver)
    driver.integrated = True
    monkeypatch.setattr(memory, "available_bytes", lambda: 1 << 27)
    assert room_on_device(1000, 32, "fp16").fits
    driver.integrated = False
    assert not room_on_device(1000, 32, "fp16").fits


QUERY = np.array([[1, 0, 0, 0]], np.float32)


@pytest.fixture
def opened(driver: Any) -> Iterator[CudaExactMatcher]:
    with CudaExactMatcher(np.tile(np.eye(4, dtype=np.float32), (20, 1)), max_k=16) as matcher:
        yield matcher


@pytest.mark.parametrize(
    ("queries", "k", "ranges", "message"),
    [
        (np.full((1, 4), np.nan, np.float32), 1, None, "1 of 1 query embeddings are not finite"),
        (np.array([[1, 0]], np.float32), 1, None, "2 dimensions but the gallery has 4"),
        (QUERY.astype(np.float64), 1, None, "takes float32"),
        (QUERY[0], 1, None, r"takes float32 \(Q, 4\)"),
        (QUERY * 2, 1, None, "not of unit length"),
        (QUERY, 0, None, "k is 0, but 80 gallery rows may be matched"),
        (QUERY, 81, None, "k is 81, but 80 gallery rows may be matched"),
        (QUERY, 17, None, "k is 17, but this matcher was opened for at most 16: raise max_k"),
        (QUERY, 3, [(0, 2)], "k is 3, but 2 gallery rows"),
        (QUERY, 1, [(5, 9), (0, 2)], "sorted and disjoint"),
        (QUERY, 1, [(0, 5), (4, 9)], "begins before row 5"),
        (QUERY, 1, [(0, 81)], "outside the gallery's 80 rows"),
        (QUERY, 1, [], "0 gallery rows may be matched"),
    ],
)
def test_bad_input_is_refused_before_the_gpu_is_asked(
    queries: np.ndarray, k: int, ranges: Any, message: str, opened: CudaExactMatcher, driver: Any
) -> None:
    before = len(driver.calls)
    with pytest.raises(GalleryError, match=message):
        opened.match(queries, k, ranges)
    assert len(driver.calls) == before


def test_no_query_gives_no_match(opened: CudaExactMatcher, driver: Any) -> None:
    found = opened.match(QUERY[:0], 3)
    assert found.rows.shape == found.similarity.shape == (0, 3)
    assert not driver.launches


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_queries": 0}, EngineError, r"max_queries is 0; the GPU's kernels take 1\.\.1024"),
        ({"max_queries": 1025}, EngineError, r"max_queries is 1025"),
        ({"max_k": 0}, EngineError, r"max_k is 0"),
        ({"max_k": 1025}, EngineError, r"max_k is 1025; the GPU's kernels take 1\.\.1024"),
        ({"scan": "fp8"}, EngineError, "Scan 'fp8' is unknown: choose fp16 or int8"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], error: type[DphrError], message: str) -> None:
    with pytest.raises(error, match=message):
        CudaExactMatcher(np.eye(4, dtype=np.float32), **options)


@pytest.mark.parametrize("gallery", [np.eye(3), np.zeros((0, 4), np.float32), np.zeros(4, np.float32)])
def test_a_gallery_of_another_dtype_or_shape_is_refused(gallery: np.ndarray) -> None:
    with pytest.raises(GalleryError, match=r"a matcher takes float16 or float32 \(N, D\)"):
        CudaExactMatcher(gallery)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gallery_row_that_is_not_finite_is_refused_while_opening(bad: float, driver: Any) -> None:
    gallery = np.eye(40, dtype=np.float32)
    gallery[33, 2] = bad
    with pytest.raises(GalleryError, match=r"rows 0\.\.39 hold values that are not finite"), CudaExactMatcher(gallery):
        pass
    assert all_given_back(driver)


def test_a_gpu_that_the_kernels_do_not_run_on_is_refused_and_given_back(
    driver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_exact, "load_fatbin", fatbin.load_fatbin)
    driver.capability = (7, 5)
    with (
        pytest.raises(EngineError, match=r"compute capability 7\.5; the kernels need 8\.0"),
        open_matcher(QUERY, DeviceSettings("cuda")),
    ):
        pass
    assert all_given_back(driver)


def test_the_device_cuda_is_the_gpu_and_never_another_one(driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_matcher(QUERY, DeviceSettings("cuda")) as matcher:
        assert matcher.name == "cuda exact fp16"
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.delitem(sys.modules, "pycuda.driver")
    with pytest.raises(MissingPackageError, match="Matching on a GPU needs the package pycuda"):
        open_matcher(QUERY, DeviceSettings("cuda")).__enter__()


def test_ranges_are_cut_where_rows_run_out() -> None:
    assert list(cut_ranges(((0, 3), (5, 12)), 4)) == [((0, 3), (5, 6)), ((6, 10),), ((10, 12),)]
    assert list(cut_ranges((), 4)) == []


def test_merging_keeps_the_best_and_gives_ties_to_the_lower_row() -> None:
    first = Matches(np.array([[4, 1]], np.int32), np.array([[0.5, 0.25]], np.float32))
    second = Matches(np.array([[2, 9]], np.int32), np.array([[0.5, 0.0]], np.float32))
    found = merge(first, second, 3)
    assert (found.rows.tolist(), found.similarity.tolist()) == ([[2, 4, 1]], [[0.5, 0.5, 0.25]])
