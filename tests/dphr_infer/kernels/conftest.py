"""Loads launches.py, which runs topk.cu on this processor as its plan says."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

# Test files find it under this name, whatever the working folder: from topk_launches import TopkOnCpu.
_spec = importlib.util.spec_from_file_location("topk_launches", Path(__file__).with_name("launches.py"))
assert _spec is not None and _spec.loader is not None
sys.modules["topk_launches"] = _launches = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_launches)


@pytest.fixture(scope="session")
def topk_device(cuda_on_cpu: Any) -> Any:
    """topk.cu, built for this processor."""
    return cuda_on_cpu.build(_launches.SOURCE)


@pytest.fixture
def gpu(topk_device: Any) -> Any:
    """A device with a workspace of zeros."""
    return _launches.TopkOnCpu(topk_device)
