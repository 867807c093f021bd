from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.gpu import pipeline as gpu_pipeline
from bench.steps import gpu_stages
from dphr_infer.engines.tensorrt.api import Api, Capabilities
from dphr_infer.files.bundle import Bundle
from dphr_infer.locate.gpu_pipeline import STAGES


class Pipeline:
    """Stands for the GPU: stages take 1, 2 and 3 ms, a call 12."""

    def __init__(self, bundle: Any, gallery: np.ndarray, precision: str) -> None:
        self.sizes: list[tuple[int, ...]] = []

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def match(self, image: np.ndarray, k: int) -> None:
        self.sizes.append(image.shape)

    def stage_ms(self, image: np.ndarray, k: int) -> dict[str, float]:
        return dict(zip(STAGES, (1.0, 2.0, 3.0), strict=True))


def test_every_frame_and_precision_becomes_a_case_with_its_ratio(
    driver: Any, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    api = Api("TensorRT-RTX", "1.2.0.54", None, Capabilities(timing_cache=False, dla=False, portable=True))
    monkeypatch.setattr(gpu_pipeline, "open_tensorrt", lambda: api)
    monkeypatch.setattr(gpu_pipeline, "GpuPipeline", Pipeline)
    monkeypatch.setattr(gpu_pipeline, "time_calls", lambda call, seconds: np.full(64, 12.0))
    target = tmp_path / "report.json"
    words = [str(bundle.folder), "--precisions", "fp32", "--rows", "10", "--json", str(target)]
    assert gpu_pipeline.main(words) == 0
    report = json.loads(target.read_text())
    assert [(case["frame"], case["precision"], case["rows"]) for case in report["cases"]] == [
        ("1080p", "fp32", 10),
        ("12 MP", "fp32", 10),
    ]
    assert report["cases"][0]["wall_to_stages"] == 2.0  # 12 / (1 + 2 + 3)
    assert report["device"]["name"] == "Fake Orin" and report["engine"] == "TensorRT-RTX 1.2.0.54"
    assert "wall is 2.00 of their sum" in capsys.readouterr().out


def test_the_stages_of_a_run_are_medians_of_the_gpus_events() -> None:
    class Uneven(Pipeline):
        def stage_ms(self, image: np.ndarray, k: int) -> dict[str, float]:
            self.sizes.append((*image.shape, k))
            return dict.fromkeys(STAGES, 1.0 if len(self.sizes) % 5 else 100.0)

    pipeline = Uneven(None, np.zeros(0), "fp16")
    assert gpu_stages(pipeline, np.zeros((4, 6, 3), np.uint8), 2) == dict.fromkeys(STAGES, 1.0)
    assert set(pipeline.sizes) == {(4, 6, 3, 2)}


def test_without_a_gpu_one_line_says_why(
    bundle: Bundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    assert gpu_pipeline.main([str(bundle.folder)]) == 2
    assert "needs the package pycuda" in capsys.readouterr().err
