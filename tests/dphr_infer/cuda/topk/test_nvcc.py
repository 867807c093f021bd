"""nvcc compiles topk.cu for every target without spilling, with as few registers as the plan counts on."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from topk_launches import ORIN_SHARED_BYTES, SOURCE

from dphr_infer.cuda.build import FLAGS, NATIVE
from dphr_infer.cuda.topk.plan import MMA_TILES, THREADS, TopkPlan, plan_rerank, plan_topk

SM_REGISTERS = 65_536
USAGE = re.compile(
    r"entry function '(?P<kernel>\w+)'.*?(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


def find_nvcc() -> str | None:
    """On the path, or where the toolkit is installed."""
    return shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


@pytest.fixture(scope="module", params=NATIVE, ids=lambda target: f"sm_{target[0]}{target[1]}")
def usage(request: pytest.FixtureRequest) -> dict[str, dict[str, int]]:
    """{kernel: registers, stack, spills and static shared memory in bytes}; kept until a source changes."""
    nvcc = find_nvcc()
    if nvcc is None:
        pytest.skip("nvcc is not installed: the kernels' registers are not checked")
    major, minor = request.param
    command = [nvcc, f"-arch=sm_{major}{minor}", *FLAGS, "-Xptxas", "-v", "-cubin", str(SOURCE), "-o", "/dev/null"]
    version = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    sources = [
        path.read_text(encoding="utf-8") for path in sorted(SOURCE.parent.glob("*.cu*")) if path.suffix != ".cubin"
    ]
    key = hashlib.sha256("\n".join([version, *command, *sources]).encode()).hexdigest()[:32]
    kept = Path(request.config.cache.mkdir("topk_nvcc")) / f"{key}.json"
    if not kept.exists():
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found = {
            match["kernel"]: {
                "registers": int(match["registers"]),
                "stack": int(match["stack"]),
                "spills": int(match["stores"]) + int(match["loads"]),
                "static_shared": int((re.search(r"(\d+) bytes smem", match["rest"]) or [0, 0])[1]),
            }
            for match in USAGE.finditer(done.stderr)
        }
        kept.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return json.loads(kept.read_text(encoding="utf-8"))


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
