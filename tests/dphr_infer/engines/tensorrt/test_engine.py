from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dphr_infer.engines.onnxruntime import Shape
from dphr_infer.engines.tensorrt import engine as trt
from dphr_infer.errors import BundleError, EngineError

pytestmark = pytest.mark.kernels

SHAPE = Shape(32, 32, 48)


@pytest.fixture
def gpu(gpu_stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(trt, "MAX_BATCH", 4)
    return gpu_stand_in(max_batch=4)


def engine(bundle: Any, expected: Shape = SHAPE) -> trt.TensorRtEngine:
    return trt.TensorRtEngine(bundle.model_path("fp32"), "tensorrt fp32", expected)


def test_every_batch_size_gives_what_the_model_means_directly_and_by_its_graph(
    gpu: Any, bundle, texture, reference_embedding
) -> None:
    images = np.stack([texture(32, 32, seed) for seed in range(4)])
    with engine(bundle) as opened:
        for again in range(3):
            for batch in (1, 2, 4, 3):
                found = opened.embed(images[again % 2 :][:batch])
                expected = reference_embedding(images[again % 2 :][:batch])
                np.testing.assert_allclose(found, expected, atol=1e-6)
    # Of three rounds over four sizes (the last batch of the second holds three): directly once, then by graph.
    assert gpu.graphs.launches == 8
    assert gpu.graphs.open == 0 and gpu.graphs.graphs == {}
    assert not gpu.device_memory and not gpu.pinned and gpu.retained == 0


def test_an_answer_stays_when_the_next_call_comes(gpu: Any, bundle, texture) -> None:
    with engine(bundle) as opened:
        first = opened.embed(texture(32, 32, 1)[None])
        kept = first.copy()
        opened.embed(texture(32, 32, 2)[None])
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    "images",
    [np.zeros((5, 32, 32, 3), np.uint8), np.zeros((0, 32, 32, 3), np.uint8), np.zeros((1, 8, 32, 3), np.uint8)],
)
def test_a_batch_of_another_size_is_refused(gpu: Any, bundle, images: np.ndarray) -> None:
    with engine(bundle) as opened, pytest.raises(EngineError, match=r"it takes uint8 .* with 1 <= B <= 4"):
        opened.embed(images)


def test_everything_is_given_back_after_an_error_in_the_block(gpu: Any, bundle) -> None:
    with pytest.raises(RuntimeError, match="in the block"), engine(bundle):
        raise RuntimeError("in the block")
    assert not gpu.device_memory and not gpu.pinned and gpu.retained == 0


def test_a_plan_that_tensorrt_refuses_is_refused_with_its_reason_and_nothing_is_kept(gpu: Any, bundle) -> None:
    gpu.plan = b"damaged"
    with pytest.raises(EngineError, match=r"cannot load the plan of model.fp32.onnx \(magic tag does not match\)"):
        engine(bundle).__enter__()
    assert not gpu.device_memory and gpu.retained == 0


def test_a_plan_of_another_shape_is_refused(gpu: Any, bundle) -> None:
    with pytest.raises(BundleError, match="do not belong together"):
        engine(bundle, expected=Shape(32, 32, 47)).__enter__()
    assert not gpu.device_memory and gpu.retained == 0


def test_a_driver_that_cannot_capture_is_named_and_the_stream_is_not_left_capturing(gpu: Any, bundle, texture) -> None:
    gpu.graphs.fail["cuStreamEndCapture"] = 900
    with engine(bundle) as opened:
        opened.embed(texture(32, 32)[None])
        with pytest.raises(EngineError, match="cuStreamEndCapture answers CUDA error 900"):
            opened.embed(texture(32, 32)[None])
    assert gpu.graphs._held is None


def test_too_little_memory_names_both_sizes(gpu: Any, bundle) -> None:
    gpu.memory_bytes = 8000
    with pytest.raises(EngineError, match=r"8,000 bytes free, but 12,288 are needed for model.fp32.onnx's images"):
        engine(bundle).__enter__()
    assert gpu.retained == 0


def test_an_engine_is_entered_once_and_used_inside(gpu: Any, bundle, texture) -> None:
    opened = engine(bundle)
    with pytest.raises(EngineError, match="is not open"):
        opened.embed(texture(32, 32)[None])
    with opened, pytest.raises(EngineError, match="entered twice"):
        opened.__enter__()
