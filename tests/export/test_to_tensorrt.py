from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dphr_infer.cuda.driver import DeviceProperties
from dphr_infer.engines.tensorrt.api import Api, describe
from dphr_infer.engines.tensorrt.build import BuildOptions, LayerInfo
from dphr_infer.engines.tensorrt.cache import EngineCache
from dphr_infer.errors import BundleError, EngineError
from dphr_infer.files.bundle import Bundle, Manifest, Parity, digest_files, model_name, open_bundle
from dphr_infer.images.preprocess import Preprocess
from dphr_train.encoder import Encoder
from export import to_tensorrt
from export.graph.to_onnx import to_onnx
from export.to_tensorrt import build_engines, count_layers

OPTIONS = BuildOptions(max_batch=16, opt_batch=4)


@pytest.fixture(scope="module")
def bundle(encoder: Encoder, preprocess: Preprocess, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of the tiny encoder in fp32 and fp16."""
    folder = tmp_path_factory.mktemp("bundle")
    for precision in ("fp32", "fp16"):
        (folder / model_name(precision)).write_bytes(to_onnx(encoder, preprocess, precision))
    manifest = Manifest(
        encoder=encoder.name,
        dim=encoder.dim,
        max_batch=16,
        preprocess=preprocess,
        files=digest_files(folder),
        parity={precision: Parity(1.0, 1.0, 0.0, 0.0, 1) for precision in ("fp32", "fp16")},
        origin={"made_by": "tests"},
    )
    (folder / "manifest.json").write_text(manifest.to_json())
    return open_bundle(folder)


@pytest.fixture
def rtx(monkeypatch: pytest.MonkeyPatch) -> Api:
    """TensorRT-RTX, also where a full TensorRT is installed."""
    api = describe("TensorRT-RTX", pytest.importorskip("tensorrt_rtx"))
    monkeypatch.setattr(to_tensorrt, "open_tensorrt", lambda: api)
    return api


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "cache")


def test_every_model_is_built_and_reported(rtx: Api, bundle: Bundle, cache: EngineCache) -> None:
    before = sorted(bundle.folder.rglob("*"))
    fp16, fp32 = build_engines(bundle, ("fp16", "fp32"), [OPTIONS], cache)
    assert (fp16.precision, fp32.precision) == ("fp16", "fp32")
    for report in (fp16, fp32):
        assert (report.flavour, report.version, report.gpu) == ("TensorRT-RTX", rtx.version, "no GPU")
        assert report.seconds is not None and 0 < report.seconds < 60
        assert report.peak_bytes is not None and report.peak_bytes > 1e6
        assert json.loads(json.dumps(dataclasses.asdict(report)))["layers"] == report.layers
    assert set(fp32.layers) == {"fp32"} and fp16.layers["fp16"] > fp16.layers["fp32"] > 0
    sizes = sorted(path.stat().st_size for path in cache.folder.glob("*.plan"))
    assert sizes[0] > fp16.plan_bytes and sizes[1] > fp32.plan_bytes > fp16.plan_bytes
    assert sorted(bundle.folder.rglob("*")) == before, "nothing goes into the bundle"


def test_a_plan_from_the_cache_is_reported_without_the_figures_of_a_build(
    rtx: Api, bundle: Bundle, cache: EngineCache
) -> None:
    (built,) = build_engines(bundle, ("fp16",), [OPTIONS], cache)
    (found,) = build_engines(bundle, ("fp16",), [OPTIONS], cache)
    assert found == dataclasses.replace(built, seconds=None, peak_bytes=None, warnings=())


def test_a_precision_that_the_bundle_lacks_is_refused_before_anything_is_built(
    rtx: Api, bundle: Bundle, cache: EngineCache
) -> None:
    with pytest.raises(BundleError, match="holds no int8 model"):
        build_engines(bundle, ("fp32", "int8"), [OPTIONS], cache)
    assert not cache.folder.exists()


def full_tensorrt(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    api = describe("TensorRT", module)
    monkeypatch.setattr(to_tensorrt, "open_tensorrt", lambda: api)


def test_a_tensorrt_that_builds_on_the_gpu_is_refused_where_there_is_none(
    bundle: Bundle, cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_gpu() -> Any:
        raise EngineError("The NVIDIA driver finds no GPU")

    full_tensorrt(monkeypatch, SimpleNamespace(__version__="10.3.0.30"))
    monkeypatch.setattr(to_tensorrt, "open_cuda", no_gpu)
    with pytest.raises(EngineError, match="finds no GPU"):
        build_engines(bundle, ("fp32",), [OPTIONS], cache)


def test_an_engine_for_a_gpu_is_reported_with_its_name(
    rtx: Api, bundle: Bundle, cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    orin = DeviceProperties(0, "Orin", (8, 7), 8, 166_912, 2 << 20, 8 << 30, (12, 6))
    bound = dataclasses.replace(rtx, capabilities=dataclasses.replace(rtx.capabilities, portable=False))
    monkeypatch.setattr(to_tensorrt, "open_tensorrt", lambda: bound)
    monkeypatch.setattr(to_tensorrt, "_find_gpu", lambda api: orin)
    (report,) = build_engines(bundle, ("fp16",), [OPTIONS], cache)
    assert report.gpu == "Orin, 8 SMs"


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ([("CONVOLUTION", "fp16"), ("ELEMENTWISE", "fp16"), ("CONVOLUTION", "fp32")], {"fp16": 2, "fp32": 1}),
        ([("QUANTIZE", "int8"), ("DEQUANTIZE", "fp16"), ("CAST", "fp32"), ("SHAPE", "int64")], {}),
        ([("MATRIX_MULTIPLY", "int8"), ("SHUFFLE", "uint8"), ("GATHER", "int64")], {"int8": 1}),
    ],
)
def test_layers_that_compute_are_counted_and_conversions_are_not(
    kinds: list[tuple[str, str]], expected: dict[str, int]
) -> None:
    layers = [LayerInfo(str(number), *kind) for number, kind in enumerate(kinds)]
    assert count_layers(layers) == expected
    assert list(count_layers(layers)) == list(expected)


def test_the_sample_bundles_models_build_in_all_three_precisions(tmp_path: Path) -> None:
    bundle = open_bundle(Path(__file__).resolve().parents[2] / "samples" / "bundle")
    options = [BuildOptions(1, 1), BuildOptions(4, 1)]
    reports = build_engines(bundle, ("fp32", "fp16", "int8"), options, EngineCache(tmp_path))
    found = [(report.precision, report.max_batch) for report in reports]
    assert found == [(precision, batch) for precision in ("fp32", "fp16", "int8") for batch in (1, 4)]
    assert reports[0].layers.keys() == reports[1].layers.keys() == {"fp32"}
    assert reports[2].layers["fp16"] > 60 and reports[4].layers["int8"] == 48
    assert len(list(tmp_path.glob("*.plan"))) == 6
