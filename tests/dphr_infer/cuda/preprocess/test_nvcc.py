"""nvcc compiles preprocess.cu for every target without spilling, with as few registers as its launch bounds say."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from pathlib import Path

import pytest
from preprocess_launches import ORIN_SHARED_BYTES, SOURCE

from dphr_infer.cuda.build import FLAGS, NATIVE, find_nvcc, nvcc_version, source_digests
from dphr_infer.cuda.preprocess.plan import THREADS, plan_preprocess
from dphr_infer.images.frame_format import nv12_frames, rgb_frames
from dphr_infer.images.preprocess import Preprocess

SM_REGISTERS = 65_536
USAGE = re.compile(
    r"entry function '(?P<kernel>\w+)'.*?(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


@pytest.fixture(scope="module", params=NATIVE, ids=lambda target: f"sm_{target[0]}{target[1]}")
def usage(request: pytest.FixtureRequest) -> dict[str, dict[str, str]]:
    """{kernel: what ptxas says of it}; kept until a source changes."""
    nvcc = find_nvcc()
    if nvcc is None:
        pytest.skip("nvcc is not installed: the kernels' registers are not checked")
    major, minor = request.param
    command = [str(nvcc), f"-arch=sm_{major}{minor}", *FLAGS, "-Xptxas", "-v", "-Werror", "all-warnings", "-cubin"]
    command += [str(SOURCE), "-o", "/dev/null"]
    key = json.dumps([nvcc_version(nvcc), command, source_digests(SOURCE.parent, "preprocess")])
    folder = Path(request.config.cache.mkdir("preprocess_nvcc"))
    kept = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    if not kept.exists():
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found = {match["kernel"]: match.groupdict() for match in USAGE.finditer(done.stderr)}
        kept.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return json.loads(kept.read_text(encoding="utf-8"))


def test_the_plan_names_every_kernel_and_no_other(usage: dict[str, dict[str, str]]) -> None:
    nv12 = nv12_frames(64, 64, matrix="bt601", colour_range="full")
    plans = [
        plan_preprocess(layout, Preprocess(32, 32), turned, ORIN_SHARED_BYTES)
        for layout in (rgb_frames(64, 64), nv12)
        for turned in (False, True)
    ]
    assert {plan.kernel for plan in plans} == set(usage)


def test_no_kernel_spills_or_has_a_stack_or_static_shared_memory(usage: dict[str, dict[str, str]]) -> None:
    for kernel, of in usage.items():
        assert (of["stack"], of["stores"], of["loads"]) == ("0", "0", "0"), kernel
        assert "smem" not in of["rest"], kernel


def test_three_blocks_fit_on_an_sm(usage: dict[str, dict[str, str]]) -> None:
    for kernel, of in usage.items():
        registers = -(-int(of["registers"]) // 8) * 8  # handed out by eights
        assert registers * THREADS * 3 <= SM_REGISTERS, kernel
