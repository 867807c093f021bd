"""topk.cu and preprocess.cu, built for this processor."""

from __future__ import annotations

from typing import Any

import preprocess_launches
import pytest
import topk_launches


@pytest.fixture(scope="session")
def topk_device(cuda_on_cpu: Any) -> Any:
    """topk.cu, built for this processor."""
    return cuda_on_cpu.build(topk_launches.SOURCE)


@pytest.fixture
def gpu(topk_device: Any) -> Any:
    """A device with a workspace of zeros."""
    return topk_launches.TopkOnCpu(topk_device)


@pytest.fixture(scope="session")
def preprocess_device(cuda_on_cpu: Any) -> Any:
    """preprocess.cu, built for this processor."""
    return cuda_on_cpu.build(preprocess_launches.SOURCE)
