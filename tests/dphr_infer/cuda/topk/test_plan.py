"""What the plan of a launch promises, and what operands hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from topk_launches import ORIN_SHARED_BYTES

from dphr_infer.cuda.topk import operands
from dphr_infer.cuda.topk.plan import (
    RERANK_ARGUMENTS,
    SCAN_ARGUMENTS,
    arguments,
    plan_rerank,
    plan_topk,
    workspace,
)
from dphr_infer.errors import GalleryError

SHARED_LIMITS = (ORIN_SHARED_BYTES, 101_376, 232_448)  # sm_87, sm_120, sm_90


@given(
    n_rows=st.integers(1, 2**31 - 1),
    dim=st.integers(1, 4096),
    n_queries=st.integers(1, 1024),
    k=st.integers(1, 1024),
    dtype=st.sampled_from(("fp16", "int8")),
    sm_count=st.sampled_from((1, 8, 16, 132)),
    limit=st.sampled_from(SHARED_LIMITS),
)
def test_a_plan_covers_all_queries_and_fits_in_shared_memory_and_workspace(
    n_rows, dim, n_queries, k, dtype, sm_count, limit
) -> None:
    k = min(k, n_rows)
    plan = plan_topk(n_rows, dim, n_queries, k, dtype, sm_count, limit)
    tiles, blocks, _ = plan.grid
    assert (tiles - 1) * plan.query_tile < n_queries <= tiles * plan.query_tile
    assert plan.kernel.endswith(f"_q{plan.query_tile}")
    assert plan.shared_bytes <= limit
    assert blocks >= 1 and (blocks == 1 or tiles * blocks <= 2 * sm_count)
    assert plan.survivor_bytes == 8 * n_queries * blocks * k
    assert plan.survivor_bytes <= workspace(1024, 1024, sm_count, limit).survivors
    rerank = plan_rerank(min(n_rows, 1024), dim, n_queries, k, sm_count, limit)
    assert rerank.survivor_bytes <= workspace(1024, 1024, sm_count, limit).survivors
    assert rerank.grid[0] == n_queries


@pytest.mark.parametrize(
    ("n_queries", "k", "dim", "dtype", "kernel", "shared"),
    [
        # queries (two vectors a vector of a row), keys (8 bytes, at least 64 a query), 16 a query, 16
        (1, 10, 512, "fp16", "topk_dot_f16_q1", 2048 + 512 + 16 + 16),
        (5, 10, 512, "fp16", "topk_dot_f16_q8", 8 * (2048 + 512 + 16) + 16),
        (5, 10, 512, "int8", "topk_mma_i8_q8", 8 * (1024 + 512 + 16) + 16),
        (64, 32, 512, "fp16", "topk_mma_f16_q64", 64 * (2048 + 512 + 16) + 16),
        (64, 33, 512, "fp16", "topk_mma_f16_q32", 32 * (2048 + 1024 + 16) + 16),
        (64, 10, 1024, "fp16", "topk_mma_f16_q32", 32 * (4096 + 512 + 16) + 16),
        (64, 10, 1024, "int8", "topk_mma_i8_q64", 64 * (2048 + 512 + 16) + 16),
        (64, 1024, 512, "fp16", "topk_mma_f16_q8", 8 * (2048 + 16384 + 16) + 16),
        (64, 10, 10_000, "fp16", "topk_dot_f16_q4", 4 * (40_000 + 512 + 16) + 16),
    ],
)
def test_the_kernel_follows_from_the_sizes_on_orin(n_queries, k, dim, dtype, kernel, shared) -> None:
    plan = plan_topk(10**6, dim, n_queries, k, dtype, 8, ORIN_SHARED_BYTES)
    assert (plan.kernel, plan.shared_bytes) == (kernel, shared)


@pytest.mark.parametrize(
    ("n_rows", "n_queries", "k", "dim", "message"),
    [
        (10, 1, 11, 64, r"k is 11, but the GPU keeps 1\.\.10 of 10 rows"),
        (2000, 1, 1025, 64, r"k is 1025, but the GPU keeps 1\.\.1024"),
        (10, 1, 0, 64, "k is 0"),
        (10, 1025, 1, 64, r"1025 queries in one batch; the GPU takes 1\.\.1024"),
        (10, 0, 1, 64, "0 queries"),
        (10, 1, 1, 50_000, "50000 dimensions with k = 1 need 200544 bytes of shared memory a query"),
    ],
)
def test_sizes_that_the_gpu_does_not_take_are_refused(n_rows, n_queries, k, dim, message) -> None:
    for plan in (plan_rerank, lambda *sizes: plan_topk(*sizes[:4], "fp16", *sizes[4:])):
        with pytest.raises(GalleryError, match=message):
            plan(n_rows, dim, n_queries, k, 8, ORIN_SHARED_BYTES)


def test_arguments_stand_in_the_order_of_the_kernel_with_sizes_as_int32() -> None:
    values = {name: f"pointer {name}" for name in (*SCAN_ARGUMENTS, *RERANK_ARGUMENTS)}
    values |= {"n_ranges": 1, "n_vectors": 2, "n_queries": 3, "k": 4, "n_candidates": 5}
    scan = arguments(SCAN_ARGUMENTS, values)
    assert scan[:2] == ("pointer gallery", "pointer row_bounds") and scan[6:10] == (1, 2, 3, 4)
    assert all(isinstance(value, np.int32) for value in scan[6:10])
    with pytest.raises(KeyError):
        arguments(RERANK_ARGUMENTS, {})


def test_rows_are_padded_to_16_bytes_with_zeros_and_not_copied_where_they_are() -> None:
    rows = np.ones((2, 9), np.float16)
    padded = operands.pad_rows(rows)
    assert padded.shape == (2, 16) and padded[:, :9].all() and not padded[:, 9:].any()
    assert operands.pad_rows(np.ones((2, 9), np.int8)).shape == (2, 16)
    whole = np.ones((2, 8), np.float16)
    assert operands.pad_rows(whole) is whole


def test_ranges_come_with_the_rows_before_each() -> None:
    ranges, prefix = operands.prepare_ranges([(3, 5), (9, 10), (20, 27)])
    assert ranges.dtype == prefix.dtype == np.int32
    assert ranges.tolist() == [[3, 5], [9, 10], [20, 27]] and prefix.tolist() == [0, 2, 3, 10]


def test_two_int8_levels_lie_behind_each_other_with_padding_between() -> None:
    levels = operands.pair_levels(np.full((3, 17), 1, np.int8), np.full((3, 17), 2, np.int8))
    assert levels.shape == (3, 2, 32) and levels.flags.c_contiguous
    assert levels[2].tolist() == [[1] * 17 + [0] * 15, [2] * 17 + [0] * 15]
