from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from dphr_infer import cuda, cuda_graph
from dphr_infer.engines import trt
from dphr_infer.engines.engine_cache import EngineCache
from dphr_infer.engines.onnxrt import Shape
from dphr_infer.engines.tensorrt_api import Api, Capabilities
from dphr_infer.engines.tensorrt_cached import CachedPlan
from dphr_infer.errors import BundleError, EngineError

FOLDER = Path(__file__).resolve().parent.parent
SHAPE = Shape(32, 32, 48)


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{name}_of_trt", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A stand-in for the driver, its graphs and TensorRT's runtime; plans are the ONNX files themselves."""
    pycuda, tensorrt = load("fake_pycuda"), load("fake_tensorrt")
    driver = pycuda.FakeDriver()
    plain, streams = driver.Stream, []

    def stream(flags: int) -> Any:
        streams.append(plain(flags))
        driver.stream = streams[(len(streams) - 1) // 2 * 2]  # of the two that a GPU opens, the one for work
        return streams[-1]

    driver.Stream = stream
    monkeypatch.setitem(sys.modules, "pycuda", ModuleType("pycuda"))
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    monkeypatch.setattr(cuda, "pop_released_context", driver.raw_stack.pop)
    driver.graphs = tensorrt.FakeGraphs(driver)
    monkeypatch.setattr(cuda_graph, "load_driver", lambda: driver.graphs)
    api = Api("TensorRT", "10.3.0.30", tensorrt.fake_module(driver, 4), Capabilities(True, True, False))
    monkeypatch.setattr(trt, "open_tensorrt", lambda: api)
    driver.plan = None
    monkeypatch.setattr(trt, "cached_plan", lambda api, model, *rest: CachedPlan(Any, driver.plan or model, None))
    return driver


def engine(bundle: Any, **options: Any) -> trt.TensorRtEngine:
    path = bundle.model_path("fp32")
    return trt.TensorRtEngine(path, "tensorrt fp32", **{"expected": SHAPE, "max_batch": 4, **options})


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


def test_too_little_memory_names_both_sizes(gpu: Any, bundle, tmp_path: Path) -> None:
    gpu.memory_bytes = 8000
    with pytest.raises(EngineError, match=r"8,000 bytes free, but 12,288 are needed for model.fp32.onnx's images"):
        engine(bundle, cache=EngineCache(tmp_path)).__enter__()
    assert gpu.retained == 0


def test_an_engine_is_entered_once_and_used_inside(gpu: Any, bundle, texture) -> None:
    opened = engine(bundle)
    with pytest.raises(EngineError, match="is not open"):
        opened.embed(texture(32, 32)[None])
    with opened, pytest.raises(EngineError, match="entered twice"):
        opened.__enter__()
