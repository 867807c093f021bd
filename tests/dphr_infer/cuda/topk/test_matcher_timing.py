"""The time of a GPU's scan by events: on a stand-in, whose events are 0.25 ms apart, only what is between them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from plain_matching import match_by_sorting

from dphr_infer.cuda.topk import matcher as cuda_exact
from dphr_infer.cuda.topk.matcher import CudaExactMatcher
from dphr_infer.errors import EngineError, GalleryError

ROWS = np.eye(48, dtype=np.float16)
QUERIES = np.eye(48, dtype=np.float32)[:3]


@pytest.fixture
def gpu(gpu_stand_in: Any, kernels_on_cpu: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(cuda_exact, "load_fatbin", lambda capability, version: b"image")
    return gpu_stand_in(max_batch=1, cpu=kernels_on_cpu)


@pytest.mark.parametrize(("scan", "launches"), [("fp16", 1), ("int8", 2)])
def test_one_scan_lies_between_the_events_and_none_waits_before_the_last(gpu: Any, scan: Any, launches: int) -> None:
    with CudaExactMatcher(ROWS, scan=scan) as matcher:
        held = len(gpu.device_memory)
        gpu.calls.clear()
        assert matcher.gpu_ms(QUERIES, 4) == 0.25
        first, last = (i for i, name in enumerate(gpu.calls) if name == "Event")
        assert gpu.calls[first:last].count("launch") == launches
        assert gpu.calls[:first].count("launch") == 3 * launches
        assert gpu.calls[:last].count("synchronize") == gpu.calls[:last].count("event synchronize") == 0
        assert len(gpu.device_memory) == held
        found, expected = matcher.match(QUERIES, 4), match_by_sorting(ROWS, QUERIES, 4)
        np.testing.assert_array_equal(found.rows, expected.rows)
    assert not (gpu.device_memory or gpu.pinned or gpu.retained)


def test_what_is_no_single_launch_is_refused(gpu: Any) -> None:
    with CudaExactMatcher(ROWS, max_queries=2) as matcher:
        with pytest.raises(
            EngineError, match=r"3 queries over a gallery on the GPU: what is timed is one launch .*1\.\.2"
        ):
            matcher.gpu_ms(QUERIES, 4)
        with pytest.raises(GalleryError, match="k is 33"):
            matcher.gpu_ms(QUERIES[:1], 33)
    gpu.others_bytes = gpu.memory_bytes - gpu.memory_bytes // 8
    with CudaExactMatcher(ROWS) as streamed, pytest.raises(EngineError, match="that is streamed"):
        streamed.gpu_ms(QUERIES[:1], 4)
