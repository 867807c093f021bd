"""The self-test on a GPU that is a stand-in: the kernels run on this processor, ONNX Runtime is the network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dphr_infer.cuda.topk import matcher as cuda_exact
from dphr_infer.cuda.topk.matcher import CudaExactMatcher
from dphr_infer.errors import BundleError, EngineError
from dphr_infer.locate import devices, gpu_pipeline
from dphr_infer.locate import self_test as self_test_module
from dphr_infer.locate.gpu_pipeline import GpuPipeline
from dphr_infer.locate.self_test import self_test
from dphr_infer.types import Matches

pytestmark = pytest.mark.kernels


@pytest.fixture
def gpu(gpu_stand_in: Any, kernels_on_cpu: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(gpu_pipeline, "load_fatbin", lambda capability, version, stem="topk": b"image")
    monkeypatch.setattr(cuda_exact, "load_fatbin", lambda capability, version: b"image")
    monkeypatch.setattr(self_test_module, "present_devices", lambda: ("cuda",))
    return gpu_stand_in(max_batch=32, cpu=kernels_on_cpu)


def test_the_self_test_goes_from_frame_to_match_and_fails_where_pictures_find_others(
    gpu: Any, bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = list(self_test(bundle))
    assert [result.engine for result in results] == [
        "matcher on the GPU",
        "TensorRT fp32",
        "one launch from frame to match, fp32",
    ]
    assert all(result.problem == "" and result.min_cosine > 0.999 for result in results)

    class SwapsPictures(GpuPipeline):
        def collect(self) -> Matches:
            found = super().collect()
            return Matches(1 - np.minimum(found.rows, 1), found.similarity)

    monkeypatch.setattr(devices, "GpuPipeline", SwapsPictures)
    broken = []
    words = (
        r"1 of 3 engines failed the self-test.*one launch.*found another one.*Every engine embeds as the bundle says"
    )
    with pytest.raises(EngineError, match=words) as raised:
        for result in self_test(bundle):
            broken.append(result)
    assert "FAILED: " in broken[-1].line() and len(broken) == 3
    assert "export" not in str(raised.value)


def test_a_gpus_matcher_that_fails_is_not_the_bundles_fault(
    gpu: Any, bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Halves(CudaExactMatcher):
        def match(self, *arguments: Any, **named: Any) -> Matches:
            found = super().match(*arguments, **named)
            return Matches(found.rows, found.similarity / 2)

    monkeypatch.setattr(self_test_module, "open_matcher", lambda rows, device: Halves(rows))
    results = []
    with pytest.raises(EngineError, match=r"1 of 3 engines.*matcher on the GPU: a best match of similarity 0\.4999"):
        for result in self_test(bundle):
            results.append(result)
    assert results[0].line().endswith("at least 0.999 is needed.") and "min similarity 0.49" in results[0].line()


def test_a_bundle_whose_embeddings_differ_is_at_fault_whatever_else_fails(
    gpu: Any, with_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BundleError, match=r"2 of 3 engines.*TensorRT fp32: a cosine of.*export the bundle again"):
        list(self_test(with_model(bias=500.0)))
