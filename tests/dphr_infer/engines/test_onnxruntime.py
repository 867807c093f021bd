import dataclasses
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from dphr_infer.engines import onnxruntime as onnxruntime_engine
from dphr_infer.engines.embedder import Embedder
from dphr_infer.engines.onnxruntime import OnnxRuntimeEngine
from dphr_infer.errors import BundleError, ConfigError, EngineError, ImageError, MissingPackageError
from dphr_infer.images.preprocess import Preprocess
from dphr_infer.locate.devices import open_engine
from dphr_infer.locate.settings import DeviceSettings

pytestmark = pytest.mark.kernels


def test_the_engine_gives_what_the_model_means(bundle, texture, reference_embedding) -> None:
    images = np.stack([texture(32, 32, seed) for seed in range(5)])
    with open_engine(bundle, DeviceSettings(threads=1)) as engine:
        assert (engine.dim, engine.height_px, engine.width_px) == (48, 32, 32)
        found = engine.embed(images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, reference_embedding(images), atol=1e-6)


def test_the_selftest_of_a_bundle_passes_through_the_engine(bundle) -> None:
    images, expected = bundle.read_selftest()
    with open_engine(bundle) as engine:
        np.testing.assert_allclose(engine.embed(images), expected, atol=1e-6)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 32, 32, 3), np.float32),
        np.zeros((32, 32, 3), np.uint8),
        np.zeros((1, 3, 32, 32), np.uint8),
        np.zeros((1, 16, 16, 3), np.uint8),
        np.zeros((0, 32, 32, 3), np.uint8),
    ],
)
def test_images_of_another_shape_are_refused(bundle, images: np.ndarray) -> None:
    with open_engine(bundle) as engine, pytest.raises(EngineError, match="it takes uint8"):
        engine.embed(images)


def test_an_engine_outside_its_with_block_refuses(bundle) -> None:
    engine = open_engine(bundle)
    with pytest.raises(EngineError, match="is not open"):
        engine.embed(np.zeros((1, 32, 32, 3), np.uint8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_name": "x"}, 'this runtime feeds "images"'),
        ({"output_name": "y"}, 'expects one output "embeddings"'),
        ({"batch": 1}, "with a free B"),
    ],
)
def test_a_model_with_another_signature_is_refused(with_model, options: dict, message: str) -> None:
    with pytest.raises(EngineError, match=message), open_engine(with_model(**options)):
        pass


def test_weights_that_are_not_finite_are_called_damage(with_model, texture) -> None:
    with open_engine(with_model(bias=float("nan"))) as engine, pytest.raises(EngineError, match="is damaged: 1 of 1"):
        engine.embed(texture(32, 32)[None])


def test_embeddings_that_are_not_of_unit_length_are_refused(with_model, texture) -> None:
    bundle = with_model(normalise=False)
    with open_engine(bundle) as engine, pytest.raises(EngineError, match="instead of 1"):
        Embedder(bundle.manifest.preprocess, engine).embed_images([texture(32, 32)])


def test_weights_outside_the_file_are_refused(bundle, tmp_path: Path) -> None:
    model = onnx.load(bundle.model_path("fp32"))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    with pytest.raises(EngineError, match="in other files"), OnnxRuntimeEngine(tmp_path / "m.onnx", "test"):
        pass


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no model at all")
    with pytest.raises(EngineError, match="not a model"), OnnxRuntimeEngine(tmp_path / "m.onnx", "test"):
        pass
    with pytest.raises(EngineError, match="cannot be read"), OnnxRuntimeEngine(tmp_path / "none.onnx", "test"):
        pass


def test_another_provider_than_asked_for_is_refused(bundle, monkeypatch) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda _: ["OtherExecutionProvider"])
    with pytest.raises(EngineError, match="asked for CPUExecutionProvider and opened OtherExecutionProvider"):
        open_engine(bundle).__enter__()


def test_onnxruntime_without_a_gpu_part_is_refused_with_the_pip_line(bundle) -> None:
    with pytest.raises(EngineError, match=r"has no CUDAExecutionProvider, only .*pip install 'dphr\[gpu\]'"):
        open_engine(bundle, DeviceSettings("cuda-onnxruntime")).__enter__()


def test_onnxruntime_that_falls_back_to_the_cpu_is_refused(bundle, monkeypatch) -> None:
    import onnxruntime

    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    with pytest.raises(EngineError, match="asked for CUDAExecutionProvider and opened CPUExecutionProvider"):
        open_engine(bundle, DeviceSettings("cuda-onnxruntime")).__enter__()
    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda _: both)
    with open_engine(bundle, DeviceSettings("cuda-onnxruntime")) as engine:
        assert engine.name == "onnxruntime CUDA fp32"


@pytest.mark.parametrize("device", ["gpu", "tensorrt", "CPU"])
def test_an_unavailable_device_is_refused_and_the_available_named(bundle, device: str) -> None:
    with pytest.raises(ConfigError, match=f"`device` is '{device}'; expected one of cpu, cuda.*no fallback"):
        open_engine(bundle, DeviceSettings(device))


def test_a_precision_that_the_bundle_lacks_is_refused_without_fallback(bundle) -> None:
    with pytest.raises(BundleError, match="holds no fp16 model"):
        open_engine(bundle, DeviceSettings(precision="fp16"))
    with pytest.raises(ConfigError, match="`precision` is 'int4'; expected one of fp32, fp16, int8"):
        open_engine(bundle, DeviceSettings(precision="int4"))


@pytest.mark.parametrize("threads", [0, -1, 100_000])
def test_a_count_of_threads_that_is_none_is_refused(bundle, threads: int) -> None:
    with pytest.raises(EngineError, match=f"threads is {threads}; give None for all cores, or a count of 1 to"):
        OnnxRuntimeEngine(bundle.model_path("fp32"), "engine", threads)


def test_without_threads_the_engine_takes_the_cores_that_this_process_may_use(monkeypatch) -> None:
    monkeypatch.setattr(onnxruntime_engine, "usable_cores", lambda: 3)
    monkeypatch.setattr(onnxruntime_engine.os, "cpu_count", lambda: 8)
    assert onnxruntime_engine._own_threads() == 3
    monkeypatch.setattr(onnxruntime_engine.os, "cpu_count", lambda: 3)
    assert onnxruntime_engine._own_threads() == 0  # ONNX Runtime's word for a thread per core


def test_without_onnxruntime_the_pip_line_is_named(bundle, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'dphr\[cpu\]'"), open_engine(bundle):
        pass


def test_batches_of_any_size_give_the_same_embeddings(bundle, texture, reference_embedding) -> None:
    images = [texture(32, 32, seed) for seed in range(7)]
    with open_engine(bundle) as engine:
        for batch in (1, 3, 16):
            found = Embedder(bundle.manifest.preprocess, engine, batch).embed_images(images)
            np.testing.assert_allclose(found, reference_embedding(np.stack(images)), atol=1e-6)


def test_the_embedder_resizes_by_the_bundles_preprocess(bundle, texture, reference_embedding) -> None:
    image = texture(90, 160)
    with open_engine(bundle) as engine:
        found = Embedder(bundle.manifest.preprocess, engine).embed_images([image, image[:64, :64]])
    expected = reference_embedding(np.stack([bundle.manifest.preprocess(i) for i in (image, image[:64, :64])]))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_embedder_refuses_an_image_of_one_pixel(bundle) -> None:
    with open_engine(bundle) as engine, pytest.raises(ImageError, match="1x1 px"):
        Embedder(bundle.manifest.preprocess, engine).embed_images([np.zeros((1, 1, 3), np.uint8)])


@pytest.mark.parametrize("changed", [{"dim": 47}, {"preprocess": Preprocess(64, 32)}])
def test_a_model_of_other_sizes_than_its_manifest_is_refused(bundle, changed: dict) -> None:
    other = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, **changed))
    with pytest.raises(BundleError, match=r"dim=48.*do not belong together"), open_engine(other):
        pass
