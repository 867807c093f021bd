"""A fault planted in topk.cu by a few characters is seen by some case; the source as it is passes all of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from cuda_on_cpu_runner import KernelError
from kernel_sources import inlined
from plain_matching import match_by_sorting
from topk_launches import SOURCE, Found, TopkOnCpu, exact_units, random_units

from dphr_infer.cuda.topk.operands import ScanDtype
from dphr_infer.cuda.topk.plan import TopkPlan

SEEDS = (0, 1, 2, 3, 4, 5, 6, 7)
DOT, MMA = "topk_dot_f16_q4", "topk_mma_f16_q16"
SHARED = "extern __shared__ __align__(16) unsigned char shared_bytes[];"
RERANK = 'extern "C" __global__ void __launch_bounds__(THREADS, 2)\n    topk_rerank_f16'


@dataclass(frozen=True)
class Fault:
    """Replaces `old`, which stands in the source once, and builds one kernel of it: all would take too long."""

    name: str
    old: str
    new: str
    kernel: str = DOT


class OneKernel(TopkOnCpu):
    """A device whose plans take a variant of this kernel, in tiles of its size."""

    def __init__(self, device: Any, kernel: str, variant: int) -> None:
        super().__init__(device)
        self.kernel, self.variant = kernel, variant

    def plan(self, n_rows: int, dim: int, n_queries: int, k: int, dtype: ScanDtype) -> TopkPlan:
        """The plan for so many queries as the kernel takes, with tiles for all."""
        tile = int(self.kernel.rpartition("_q")[2])
        plan = super().plan(n_rows, dim, min(tile, n_queries), k, dtype)
        tiles = -(-n_queries // tile)
        blocks = plan.grid[1]
        assert plan.kernel == self.kernel
        return replace(
            plan,
            kernel=f"{self.kernel}_{self.variant}",
            grid=(tiles, blocks, 1),
            survivor_bytes=n_queries * blocks * k * 8,
        )


FAULTS = (
    Fault(
        "no barrier between queries or floors and their use",
        "n_queries, n_vectors);\n  __syncthreads();\n  dot_scan",
        "n_queries, n_vectors);\n  dot_scan",
    ),
    Fault(
        "no barrier before the block counts as done",
        "block counts as done\n    __syncthreads();",
        "block counts as done",
    ),
    Fault("no barrier before all ask who was last", "gridDim.y) - 1;\n    __syncthreads();", "gridDim.y) - 1;"),
    Fault(
        "no meeting of the warp inside the sort",
        "          keys[high] = first;\n        }\n      }\n      __syncwarp();",
        "          keys[high] = first;\n        }\n      }",
    ),
    Fault(
        "ranges begin one row late",
        "+ static_cast<int>(position) - __ldg(prefix + low)",
        "+ static_cast<int>(position) - __ldg(prefix + low) + 1",
    ),
    Fault("the last range is never reached", "high = n_ranges - 1;", "high = n_ranges > 1 ? n_ranges - 2 : 0;"),
    Fault(
        "a range begins after its first row",
        "(__ldg(prefix + middle)) <= position",
        "(__ldg(prefix + middle)) < position",
    ),
    Fault(
        "the last row is left out",
        "size() const { return __ldg(prefix + n_ranges); }",
        "size() const { return __ldg(prefix + n_ranges) - 1; }",
    ),
    Fault("ties go to the higher row", "(0xFFFFFFFFu - static_cast<unsigned>(row));", "static_cast<unsigned>(row);"),
    Fault("minus zero is less than zero", "__float_as_uint(similarity + 0.0f)", "__float_as_uint(similarity)"),
    Fault("negative similarities in reverse", "0x80000000u ? ~bits :", "0x80000000u ? bits :"),
    Fault(
        "the floor is the best key, not the k-th",
        "raise_floor(query, own[k - 1]);\n      atomicMax(results.floors + query, own[k - 1]);",
        "raise_floor(query, own[k - 1]);\n      atomicMax(results.floors + query, own[0]);",
    ),
    Fault(
        "a block's floor is one key too high",
        "raise_floor(query, own[k - 1]);",
        "raise_floor(query, own[k > 1 ? k - 2 : 0]);",
    ),
    Fault("the key that is the floor is ruled out", "n && key >= floor;", "n && key > floor;"),
    Fault("a full buffer drops keys", "if (slot >= capacity) return false;", "if (slot >= capacity) return true;"),
    Fault("a buffer overflows by one", "if (slot >= capacity)", "if (slot > capacity)"),
    Fault(
        "the last block ranks its own keys only",
        "__ldcg(results.survivor_counts + query)",
        "min(k, __ldcg(results.survivor_counts + query))",
    ),
    Fault(
        "the merge forgets what does not fit", "        held = k;\n        floor", "        held = 0;\n        floor"
    ),
    Fault(
        "a block hands over unsorted keys beyond k",
        "if (counts[query] > k) keep_best(query);",
        "if (counts[query] > k) counts[query] = k;",
    ),
    Fault("floors stay for the next launch", "      results.floors[query] = 0;\n", ""),
    Fault("counts stay for the next launch", "      results.survivor_counts[query] = 0;\n", ""),
    Fault("blocks done stay for the next launch", "*results.blocks_done = 0;", ";"),
    Fault("tiles share a counter", "blocks_done + blockIdx.x", "blocks_done"),
    Fault(
        "a short sum",
        "for (int step = 4; step > 0; step /= 2)\n      sum.value",
        "for (int step = 4; step > 1; step /= 2)\n      sum.value",
    ),
    Fault("hi alone", "return __fmaf_rn(lo, 1.0f / 2048, hi);", "return hi;", MMA),
    Fault(
        "the second half of a load is another row's",
        "{low.z, high.z, low.w, high.w}",
        "{low.z, high.z, high.w, low.w}",
        MMA,
    ),
    Fault(
        "one row of a pair is taken twice",
        "rows[r] = __shfl_sync(ALL_LANES, own_row, DOT_ROWS * (lane / DOT_LANES) + r);",
        "rows[r] = __shfl_sync(ALL_LANES, own_row, DOT_ROWS * (lane / DOT_LANES));",
    ),
    Fault("the next rows are this step's again", "if (!more) turn_to(next);", "", MMA),
    Fault("a chunk is loaded one round early", "more ? base + STAGES + u : u", "more ? base + u : u", MMA),
    Fault(
        "a short row's last vectors are skipped",
        "query < n_queries && vector < n_vectors;",
        "query < n_queries && vector < n_vectors / 4 * 4;",
        MMA,
    ),
)


def one_kernel(kernel: str, name: str, fault: Fault | None) -> str:
    """The source with one of its kernels, under a name of its own, and a fault."""
    text = inlined(SOURCE)
    if fault is not None:
        assert text.count(fault.old) == 1, fault.name
        text = text.replace(fault.old, fault.new)
    text = text[: text.index(RERANK)].replace(SHARED, "")
    lines = [line for line in text.splitlines() if not line.startswith("SCAN_KERNEL(") or f"({kernel}," in line]
    return "\n".join(lines).replace(f"SCAN_KERNEL({kernel},", f"SCAN_KERNEL({name},")


def all_variants() -> str:
    """Every faulty kernel and, as variant 0 and 1, the right ones, each in a namespace: one build takes seconds."""
    planned = [(DOT, None), (MMA, None), *((fault.kernel, fault) for fault in FAULTS)]
    spaces = ""
    for i, (kernel, fault) in enumerate(planned):
        text = one_kernel(kernel, f"{kernel}_{i}", fault)
        spaces += f"namespace variant_{i} {{\n{text}\n}}\nusing variant_{i}::{kernel}_{i};\n"
    return f'#pragma GCC optimize("O1")\n{SHARED}\n{spaces}'


@pytest.fixture(scope="module")
def variants(cuda_on_cpu: Any) -> Any:
    """The device that has them all."""
    return cuda_on_cpu.build(all_variants())


def check(found: Found, gallery: np.ndarray, queries: np.ndarray, k: int, ranges: list[tuple[int, int]] | None) -> None:
    """As sorting finds it, bit by bit."""
    expected = match_by_sorting(gallery, queries, k, ranges)
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_array_equal(found.similarity, expected.similarity)


def twice(gpu: TopkOnCpu, seed: int, n_queries: int, n: int, dim: int, k: int, **more: Any) -> None:
    """Two launches on one workspace."""
    rng = np.random.default_rng(n + dim)
    for _ in range(2):
        gallery, queries = exact_units(rng, n, dim).astype(np.float16), exact_units(rng, n_queries, dim)
        found = gpu.scan(gallery, queries, k, **more, seed=seed)
        check(found, gallery, queries, k, more.get("ranges"))
        assert gpu.workspace_is_clean()


def distinct(gpu: TopkOnCpu, seed: int, n_queries: int) -> None:
    """No ties. Rising, every row displaces an earlier one and buffers overflow; so with 32 that nothing displaces in
    front; at random, some do; all negative."""
    rising = np.arange(-600, 450)  # the last 26 are in the first of four blocks again
    for order in (rising, np.roll(rising, 32), np.random.default_rng(seed).permutation(rising), rising[:100]):
        gallery = np.zeros((len(order), 8), np.float16)
        gallery[:, 0] = order / 1024
        queries = np.eye(1, 8, dtype=np.float32).repeat(n_queries, axis=0)
        for k in (5, 33):
            check(gpu.scan(gallery, queries, k, seed=seed), gallery, queries, k, None)


def underflow(gpu: TopkOnCpu, seed: int, n_queries: int) -> None:
    """-2^-24 times 1e-42 is -0 in float32, and ties with 0."""
    gallery, queries = np.zeros((2, 64), np.float16), np.full((n_queries, 64), 1e-42, np.float32)
    gallery[0, 1:], queries[:, 0] = -(2.0**-24), 1
    assert gpu.scan(gallery, queries, 2, seed=seed).rows.tolist() == [[0, 1]] * n_queries


def rounding(gpu: TopkOnCpu, seed: int, n_queries: int) -> None:
    """Random numbers, to float32 rounding."""
    rng = np.random.default_rng(1)
    gallery, queries = random_units(rng, 100, 40).astype(np.float16), random_units(rng, n_queries, 40)
    expected = match_by_sorting(gallery, queries, 5)
    np.testing.assert_allclose(gpu.scan(gallery, queries, 5, seed=seed).similarity, expected.similarity, atol=2e-6)


def run_cases(gpu: TopkOnCpu, kernel: str, seed: int) -> None:
    """Raises AssertionError or KernelError where the kernel is wrong."""
    n_queries = 4 if kernel == DOT else 11
    underflow(gpu, seed, n_queries)
    rounding(gpu, seed, n_queries)
    twice(gpu, seed, n_queries, 500, 40, 5)
    twice(gpu, seed, n_queries + 5, 300, 12, 40)  # two tiles
    twice(gpu, seed, n_queries, 80, 170, 5)  # rows of three rounds of mma's chunks
    twice(gpu, seed, n_queries, 200, 24, 9, ranges=[(0, 1), (3, 20), (21, 22), (22, 60), (199, 200)])
    distinct(gpu, seed, n_queries)


@pytest.mark.parametrize(("variant", "kernel"), [(0, DOT), (1, MMA)])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_source_as_it_is_passes_every_case(variants: Any, variant: int, kernel: str, seed: int) -> None:
    run_cases(OneKernel(variants, kernel, variant), kernel, seed)


@pytest.mark.parametrize(("variant", "fault"), list(enumerate(FAULTS, 2)), ids=lambda value: getattr(value, "name", ""))
def test_a_planted_fault_is_seen(variants: Any, variant: int, fault: Fault) -> None:
    with pytest.raises((AssertionError, KernelError)):
        for seed in SEEDS:
            run_cases(OneKernel(variants, fault.kernel, variant), fault.kernel, seed)
