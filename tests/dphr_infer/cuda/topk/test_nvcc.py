"""nvcc compiles topk.cu for every target without spilling, with as few registers as the plan counts on."""

from __future__ import annotations

from pathlib import Path

import pytest
from kernel_sources import SM_REGISTERS, usage_by_kernel
from topk_launches import ORIN_SHARED_BYTES, SOURCE

from dphr_infer.cuda.build import NATIVE
from dphr_infer.cuda.topk.plan import MMA_TILES, THREADS, TopkPlan, plan_rerank, plan_topk


@pytest.fixture(scope="module", params=NATIVE, ids=lambda target: f"sm_{target[0]}{target[1]}")
def usage(request: pytest.FixtureRequest) -> dict[str, dict[str, int]]:
    """{kernel: registers; stack, spills and static shared memory in bytes}."""
    return usage_by_kernel(SOURCE, request.param, Path(request.config.cache.mkdir("nvcc_usage")))


def all_plans() -> list[TopkPlan]:
    """A plan of every kernel, for one SM and so many rows that there are as many row blocks as fit on it at once."""
    scans = [
        plan_topk(10**6, 64, n_queries, 10, dtype, 1, ORIN_SHARED_BYTES)
        for dtype in ("fp16", "int8")
        for n_queries in range(1, MMA_TILES[-1] + 1)
    ]
    few = plan_topk(10**6, 3072, 16, 10, "fp16", 1, ORIN_SHARED_BYTES)  # rows so long that mma takes 8 at a time
    return [*scans, few, plan_rerank(1000, 64, 1, 10, 1, ORIN_SHARED_BYTES)]


def test_the_plan_names_every_kernel_and_no_other(usage: dict[str, dict[str, int]]) -> None:
    assert {plan.kernel for plan in all_plans()} == set(usage)


def test_no_kernel_spills_or_has_a_stack_or_static_shared_memory(usage: dict[str, dict[str, int]]) -> None:
    for kernel, of in usage.items():
        assert (of["stack"], of["spills"], of["static_shared"]) == (0, 0, 0), kernel


def test_as_many_blocks_fit_on_an_sm_as_the_plan_starts(usage: dict[str, dict[str, int]]) -> None:
    for plan in all_plans():
        registers = -(-usage[plan.kernel]["registers"] // 8) * 8  # handed out by eights
        assert registers * THREADS * plan.grid[1] <= SM_REGISTERS, plan.kernel
