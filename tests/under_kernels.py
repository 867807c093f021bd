"""Runs the tests marked `kernels` under every kernel of the numeric libraries that this processor can run.

A matrix product's last bits depend on the kernel that BLAS, NumPy, torch or ONNX Runtime chooses for the processor, on
the shape of the batch and on the number of threads. What the tests promise must hold under all of them. Each setting
is a process of its own, because the libraries choose when they are loaded, and runs only the files whose library it
changes: those that import torch, or the others. First all cores by as many threads, then the others side by side, one
core and thread each. Settings that give the same bits for the products and sums of PRODUCTS are one kernel under two
names and run once. `python tests/under_kernels.py [pytest's arguments]` prints a line per setting, and ends with 1
where one of them failed.
"""

from __future__ import annotations

import os
import queue
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
TAIL_LINES = 40


# Shapes beyond the blocks that the kernels cut products into, and shapes that leave a rest.
PRODUCTS = """
import hashlib, sys
import numpy as np
bits, rng = hashlib.sha256(), np.random.default_rng(0)
for rows, inner, columns in ((1, 512, 300), (7, 33, 5), (64, 3000, 17), (300, 700, 1), (400, 513, 200)):
    for dtype in (np.float32, np.float64):
        a, b = (rng.standard_normal(shape).astype(dtype) for shape in ((rows, inner), (inner, columns)))
        if sys.argv[1] == "numpy":
            made = [a @ b, b.T @ a.T, a[0] @ b, a @ b[:, 0], a[0] @ b[:, 0], np.einsum("ij,kj->ik", a[:8], b.T[:8]),
                    a.sum(axis=1), a.sum(), np.linalg.norm(a, axis=1), np.exp(a), np.sin(a), np.tanh(a), a * a + a]
        else:
            import torch
            a, b = torch.from_numpy(a), torch.from_numpy(b)
            image = a.flatten()[:224].reshape(1, 4, 7, 8)
            made = [a @ b, b.T @ a.T, a[0] @ b, a @ b[:, 0], a.sum(1), a.sum(), a.norm(dim=1), a.exp(), a.softmax(1),
                    a.logsumexp(1), torch.nn.functional.gelu(a), torch.nn.functional.layer_norm(a, (inner,)),
                    torch.nn.functional.conv2d(image, image[:, :, :3, :3])]
        for value in made:
            bits.update(np.ascontiguousarray(value).tobytes())
print(bits.hexdigest())
"""


@dataclass(frozen=True)
class Setting:
    """A name, the environment that makes it, what the processor needs for it, and on how many cores it runs (0: all).

    Every library starts a thread for each core that it may run on. `library` is the one that the environment changes.
    """

    name: str
    environment: dict[str, str] = field(default_factory=dict)
    needs: str = ""
    cores: int = 1

    @property
    def library(self) -> str:
        return "" if not self.environment else "torch" if "ATEN_CPU_CAPABILITY" in self.environment else "numpy"


SETTINGS = (
    Setting("as this processor is, on all cores", cores=0),
    Setting("as this processor is, on two cores", cores=2),
    Setting("as this processor is"),
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
    """Those that it can run; the last switches off all that NumPy chooses between."""
    listed = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    flags = next((set(line.split()) for line in listed.splitlines() if line.startswith("flags")), set())
    # Before 1.26 NumPy does not say what it found: the setting is left out, and said so.
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", []) if hasattr(np, "exceptions") else []
    plain = [Setting(f"NumPy without {', '.join(found)}", {"NPY_DISABLE_CPU_FEATURES": " ".join(found)})] * bool(found)
    cores = len(os.sched_getaffinity(0))
    able = [one for one in SETTINGS if (not one.needs or one.needs in flags) and (one.cores < cores or one.cores == 1)]
    return [*able, *plain]


def different(settings: list[Setting]) -> list[Setting]:
    """Those that no other before them equals, bit by bit; prints which were left out."""
    kept: dict[tuple[str, str], str] = {}
    for library in ("numpy", "torch"):
        kept[library, print_of(library, {})] = "this processor's own"
    chosen = []
    for one in settings:
        key = (one.library, print_of(one.library, one.environment) if one.environment else one.name)
        if key in kept:
            print(f"{one.name}: left out, gives the same bits as {kept[key]}", flush=True)
            continue
        kept[key] = one.name
        chosen.append(one)
    return chosen


def print_of(library: str, environment: dict[str, str]) -> str:
    """What PRODUCTS says in this environment, by one thread."""
    command = [sys.executable, "-c", PRODUCTS, library]
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, env={**os.environ, **one_thread, **environment}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"The products of {library} under {environment} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def marked_files(library: str) -> list[str]:
    """Those with a marked test of a library, "" for all: to collect every file would take as long as these tests do."""
    found = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        of = "torch" if re.search(r"^(import|from) torch\b", text, re.MULTILINE) else "numpy"
        if "pytest.mark.kernels" in text and library in ("", of):
            found.append(str(path.relative_to(ROOT)))
    return found


def run(setting: Setting, cores: list[int], arguments: list[str]) -> bool:
    """The marked tests in a process on these cores, which it inherits from this thread; prints the outcome."""
    started = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-m", "kernels", *marked_files(setting.library), *arguments]
    os.sched_setaffinity(0, cores)
    environment = {**os.environ, **setting.environment}
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, check=False)
    words = [f"FAILED ({done.returncode})" if done.returncode else "passed", f"in {time.monotonic() - started:.0f} s"]
    tail = done.stdout.splitlines()[-TAIL_LINES:] + done.stderr.splitlines()[-TAIL_LINES:] if done.returncode else []
    last = done.stdout.strip().rpartition("\n")[2]
    print("\n".join([f"{setting.name}: {' '.join(words)}  {last}", *tail]), flush=True)
    return done.returncode == 0


def main(arguments: list[str]) -> int:
    """Run them, the outcome of each as it comes."""
    able = settings_of_this_machine()
    left_out = [one.name for one in SETTINGS if one not in able]
    if left_out:
        print(f"left out, not on this processor: {', '.join(left_out)}", flush=True)
    chosen = different(able)
    allowed = sorted(os.sched_getaffinity(0))
    passed = [run(one, allowed[: one.cores or None], arguments) for one in chosen if one.cores != 1]
    free: queue.Queue[int] = queue.Queue()
    for core in allowed:
        free.put(core)

    def on_a_core(setting: Setting) -> bool:
        core = free.get()
        try:
            return run(setting, [core], arguments)
        finally:
            free.put(core)

    with ThreadPoolExecutor(len(allowed)) as pool:
        passed += pool.map(on_a_core, [one for one in chosen if one.cores == 1])
    print(f"{sum(passed)} of {len(chosen)} settings passed")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
