"""Loads tests/cuda_on_cpu/runner.py, which runs the project's CUDA kernels on this processor.

A shell that starts the tests in the background lets them ignore Ctrl-C, and every process that they start: tests of
interrupts need what a terminal gives.
"""

from __future__ import annotations

import importlib.util
import shutil
import signal
import sys
from pathlib import Path
from types import ModuleType

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Test files find it under this name, whatever the working folder: from cuda_on_cpu_runner import KernelError.
_runner = _load("cuda_on_cpu_runner", Path(__file__).resolve().parent / "cuda_on_cpu" / "runner.py")


@pytest.fixture(scope="session")
def cuda_on_cpu(pytestconfig: pytest.Config) -> object:
    """A Builder: `.build(path or text, defines)` gives a CpuDevice with `.launch(kernel, grid, block, *args, ...)`."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed: kernels are not run on the CPU")
    return _runner.Builder(compiler, pytestconfig.cache.mkdir("cuda_on_cpu"))
