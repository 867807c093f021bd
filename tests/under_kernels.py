"""Runs the tests marked `kernels` under every kernel of the numeric libraries that this processor can run.

A matrix product's last bits depend on the kernel that BLAS, NumPy, torch or ONNX Runtime chooses for the processor, on
the shape of the batch and on the number of threads. What the tests promise must hold under all of them. Each setting
is a process of its own, because the libraries choose when they are loaded, and runs only the files whose library it
changes: those that import torch, or the others. `python tests/under_kernels.py [pytest's arguments]` prints a line per
setting, and ends with 1 where one of them failed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
TAIL_LINES = 40


@dataclass(frozen=True)
class Setting:
    """A name, the environment that makes it, what the processor needs for it, and on how many cores it runs (0: all).

    Every library starts a thread for each core that it may run on. `library` is the one that the environment changes.
    """

    name: str
    environment: dict[str, str] = field(default_factory=dict)
    needs: str = ""
    cores: int = 0

    @property
    def library(self) -> str:
        return "" if not self.environment else "torch" if "ATEN_CPU_CAPABILITY" in self.environment else "numpy"


SETTINGS = (
    Setting("as this processor is"),
    Setting("on one core, by one thread", cores=1),
    Setting("on two cores, by two threads", cores=2),
    Setting("OpenBLAS for Prescott (SSE)", {"OPENBLAS_CORETYPE": "Prescott"}, "sse2"),
    Setting("OpenBLAS for Nehalem (SSE4)", {"OPENBLAS_CORETYPE": "Nehalem"}, "sse4_2"),
    Setting("OpenBLAS for Sandybridge (AVX)", {"OPENBLAS_CORETYPE": "Sandybridge"}, "avx"),
    Setting("OpenBLAS for Haswell (AVX2)", {"OPENBLAS_CORETYPE": "Haswell"}, "avx2"),
    Setting("OpenBLAS for Zen (AVX2)", {"OPENBLAS_CORETYPE": "Zen"}, "avx2"),
    Setting("OpenBLAS for SkylakeX (AVX-512)", {"OPENBLAS_CORETYPE": "SkylakeX"}, "avx512vl"),
    Setting("torch without AVX", {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}),
    Setting("torch for AVX2", {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}, "avx2"),
)


def settings_of_this_machine() -> list[Setting]:
    """Those that it can run and that differ; the last switches off all that NumPy chooses between."""
    listed = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    flags = next((set(line.split()) for line in listed.splitlines() if line.startswith("flags")), set())
    # Before 1.26 NumPy does not say what it found: the setting is left out, and said so.
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", []) if hasattr(np, "exceptions") else []
    plain = [Setting(f"NumPy without {', '.join(found)}", {"NPY_DISABLE_CPU_FEATURES": " ".join(found)})] * bool(found)
    cores = len(os.sched_getaffinity(0))
    able = [one for one in SETTINGS if (not one.needs or one.needs in flags) and one.cores < cores]
    return [*able, *plain]


def marked_files(library: str) -> list[str]:
    """Those with a marked test of a library, "" for all: to collect every file would take as long as these tests do."""
    found = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        of = "torch" if re.search(r"^(import|from) torch\b", text, re.MULTILINE) else "numpy"
        if "pytest.mark.kernels" in text and library in ("", of):
            found.append(str(path.relative_to(ROOT)))
    return found


def main(arguments: list[str]) -> int:
    """Run them one after the other."""
    chosen = settings_of_this_machine()
    left_out = [one.name for one in SETTINGS if one not in chosen]
    if left_out:
        print(f"left out, not on this processor or as it is: {', '.join(left_out)}", flush=True)
    failed = 0
    for setting in chosen:
        started = time.monotonic()
        command = [sys.executable, "-m", "pytest", "-m", "kernels", *marked_files(setting.library), *arguments]
        environment = {**os.environ, **setting.environment}
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, allowed[: setting.cores or len(allowed)])  # the child inherits it
        try:
            done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, check=False)
        finally:
            os.sched_setaffinity(0, allowed)
        last = done.stdout.strip().rpartition("\n")[2]
        state = "passed" if done.returncode == 0 else f"FAILED ({done.returncode})"
        print(f"{setting.name}: {state} in {time.monotonic() - started:.0f} s  {last}", flush=True)
        if done.returncode != 0:
            failed += 1
            print("\n".join(done.stdout.splitlines()[-TAIL_LINES:] + done.stderr.splitlines()[-TAIL_LINES:]))
    print(f"{len(chosen) - failed} of {len(chosen)} settings passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
