"""The tests of tests/gpu, some of them run on the stand-in of a GPU: that they can run at all, and what they report."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from dphr_infer.cuda import build as fatbin
from dphr_infer.cuda.topk import matcher as cuda_exact
from dphr_infer.engines import onnxruntime as onnxrt
from dphr_infer.engines.tensorrt import api as tensorrt_api
from dphr_infer.engines.tensorrt import engine as trt
from dphr_infer.locate import gpu_pipeline

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parents[2]
MATCHING = "tests/gpu/test_matching.py::test_sanitized_exact_inner_products_and_ties_equal_sorting[700-36-3-5-int8]"
PIPELINE = [
    f"tests/gpu/test_pipeline.py::test_{name}"
    for name in (
        "a_12_megapixel_nv12_frame_becomes_what_its_rgb_does",
        "onnxruntime_on_the_gpu_gives_the_embeddings_of_the_cpu[fp32]",
        "the_pipeline_gives_the_cpus_matches[nv12-20.0-ranges1-by_lent_memory]",
        "the_pipeline_gives_the_cpus_matches[rgb-None-None-by_two_on_their_way]",
    )
]


@pytest.fixture
def copied(pytester: pytest.Pytester) -> Path:
    """A folder with the tests, in which their report is written too."""
    shutil.copytree(ROOT / "tests" / "gpu", pytester.path / "tests" / "gpu")
    (pytester.path / "samples").symlink_to(ROOT / "samples")
    return pytester.path


@pytest.fixture
def gpu(gpu_stand_in: Any, kernels_on_cpu: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    driver = gpu_stand_in(max_batch=16, cpu=kernels_on_cpu)
    monkeypatch.setattr(tensorrt_api, "open_tensorrt", trt.open_tensorrt)
    monkeypatch.setattr(onnxrt, "offers", lambda device: device == "cpu")
    for module in (fatbin, gpu_pipeline, cuda_exact):
        monkeypatch.setattr(module, "load_fatbin", lambda capability, version, stem="topk": b"image")
    return driver


def test_they_run_and_the_report_says_on_what(gpu: Any, copied: Path, pytester: pytest.Pytester) -> None:
    pytester.inline_run("-p", "no:cacheprovider", MATCHING, *PIPELINE).assertoutcome(passed=4, skipped=1)
    report = json.loads((copied / "bench/reports/gpu-tests.json").read_text())
    assert report["device"]["name"] == "Fake Orin" and report["engine"] == "TensorRT 10.3.0.30"
    assert report["counts"] == {"passed": 4, "failed": 0, "skipped": 1}
    assert [test["test"] for test in report["tests"]] == [MATCHING, *PIPELINE]
    assert "has no CUDA part" in report["tests"][2]["why"] and report["tests"][0]["why"] == ""


def test_a_failure_stands_in_the_report(gpu: Any, copied: Path, pytester: pytest.Pytester) -> None:
    path = copied / "tests/gpu/test_matching.py"
    path.write_text(path.read_text().replace("def exact_units(", "def exact_units(*_): return 1\n\n\ndef unused("))
    pytester.inline_run("-p", "no:cacheprovider", MATCHING).assertoutcome(failed=1)
    report = json.loads((copied / "bench/reports/gpu-tests.json").read_text())
    assert report["counts"] == {"passed": 0, "failed": 1, "skipped": 0} and report["engine"] is None


def test_a_part_of_them_leaves_no_report(gpu: Any, copied: Path, pytester: pytest.Pytester) -> None:
    pytester.inline_run("-p", "no:cacheprovider", MATCHING, "-k", "sanitized").assertoutcome(passed=1)
    assert not (copied / "bench").exists()


def test_without_a_gpu_all_are_skipped_and_there_is_no_report(
    copied: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    pytester.inline_run("-p", "no:cacheprovider", MATCHING, PIPELINE[0]).assertoutcome(skipped=2)
    assert not (copied / "bench").exists()
