"""Loads launches.py and preprocess_launches.py, which run the kernels on this processor as their plans say."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Test files find them under these names, whatever the working folder: from topk_launches import TopkOnCpu.
_launches = _load("topk_launches", Path(__file__).with_name("topk") / "launches.py")
_preprocess = _load("preprocess_launches", Path(__file__).with_name("preprocess") / "preprocess_launches.py")


@pytest.fixture(scope="session")
def topk_device(cuda_on_cpu: Any) -> Any:
    """topk.cu, built for this processor."""
    return cuda_on_cpu.build(_launches.SOURCE)


@pytest.fixture
def gpu(topk_device: Any) -> Any:
    """A device with a workspace of zeros."""
    return _launches.TopkOnCpu(topk_device)


@pytest.fixture(scope="session")
def preprocess_device(cuda_on_cpu: Any) -> Any:
    """preprocess.cu, built for this processor."""
    return cuda_on_cpu.build(_preprocess.SOURCE)
