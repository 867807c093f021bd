"""What every test may ask for.

A shell that starts the tests in the background lets them ignore Ctrl-C, and every process that they start: tests of
interrupts need what a terminal gives.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
from collections.abc import Callable

# Test processes side by side would wake a thread per core each; before anything that multiplies is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")

import hypothesis
import pytest
from cuda_on_cpu_runner import Builder, locked

# How long an example takes says how busy the machine is, and nothing of what is tested.
hypothesis.settings.register_profile("busy", deadline=None)
hypothesis.settings.load_profile("busy")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def cuda_on_cpu(pytestconfig: pytest.Config) -> Builder:
    """A Builder: `.build(path or text, defines)` gives a CpuDevice with `.launch(kernel, grid, block, *args, ...)`."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed: kernels are not run on the CPU")
    return Builder(compiler, pytestconfig.cache.mkdir("cuda_on_cpu"))


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[], bytes]], bytes]:
    """(key, make) -> what `make()` gives. The test processes of a run share it: the first makes it, others wait."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "once"
    folder.mkdir(exist_ok=True)

    def made(key: str, make: Callable[[], bytes]) -> bytes:
        path = folder / hashlib.sha256(key.encode()).hexdigest()
        with locked(path):
            if not path.exists():
                path.write_bytes(make())
        return path.read_bytes()

    return made
