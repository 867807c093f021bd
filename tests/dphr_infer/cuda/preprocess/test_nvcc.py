"""nvcc compiles preprocess.cu for every target without spilling, with as few registers as its launch bounds say."""

from __future__ import annotations

from pathlib import Path

import pytest
from kernel_sources import SM_REGISTERS, usage_by_kernel
from preprocess_launches import ORIN_SHARED_BYTES, SOURCE

from dphr_infer.cuda.build import NATIVE
from dphr_infer.cuda.preprocess.plan import THREADS, plan_preprocess
from dphr_infer.images.frame_format import nv12_frames, rgb_frames
from dphr_infer.images.preprocess import Preprocess


@pytest.fixture(scope="module", params=NATIVE, ids=lambda target: f"sm_{target[0]}{target[1]}")
def usage(request: pytest.FixtureRequest) -> dict[str, dict[str, int]]:
    """{kernel: registers; stack, spills and static shared memory in bytes}."""
    return usage_by_kernel(SOURCE, request.param, Path(request.config.cache.mkdir("nvcc_usage")))


def test_the_plan_names_every_kernel_and_no_other(usage: dict[str, dict[str, int]]) -> None:
    nv12 = nv12_frames(64, 64, matrix="bt601", colour_range="full")
    plans = [
        plan_preprocess(layout, Preprocess(32, 32), mode, ORIN_SHARED_BYTES)
        for layout in (rgb_frames(64, 64), nv12)
        for mode in ("upright", "turned", "rectified")
    ]
    assert {plan.kernel for plan in plans} == set(usage)


def test_no_kernel_spills_or_has_a_stack_or_static_shared_memory(usage: dict[str, dict[str, int]]) -> None:
    for kernel, of in usage.items():
        assert (of["stack"], of["spills"], of["static_shared"]) == (0, 0, 0), kernel


def test_three_blocks_fit_on_an_sm(usage: dict[str, dict[str, int]]) -> None:
    for kernel, of in usage.items():
        registers = -(-of["registers"] // 8) * 8  # handed out by eights
        assert registers * THREADS * 3 <= SM_REGISTERS, kernel
