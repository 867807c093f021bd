from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.cases.photo import stage_summaries
from bench.cli import main
from bench.gpu import pipeline as gpu_pipeline
from bench.record import GPU_FRAME
from dphr_infer.files.bundle import Bundle
from dphr_infer.locate.gpu_pipeline import STAGES


class Pipeline:
    """Stands for the GPU: stages take 1, 2 and 3 ms."""

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
    driver: Any,
    bundle: Bundle,
    tmp_path: Path,
    check_schema: Callable[[Any], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(gpu_pipeline, "GpuPipeline", Pipeline)
    target = tmp_path / "report.jsonl"
    words = [str(bundle.folder), "--precisions", "fp32", "--rows", "10", "--seconds", "0.01", "--json", str(target)]
    assert main(["gpu", "pipeline", *words]) == 0
    lines = [json.loads(line) for line in target.read_text().splitlines()]
    assert [fault for line in lines for fault in check_schema(line)] == []
    scenarios = [line["scenarios"][0] for line in lines]
    assert [scenario["settings"] for scenario in scenarios] == [
        {"frame": "1080p", "precision": "fp32", "rows": 10},
        {"frame": "12 MP", "precision": "fp32", "rows": 10},
    ]
    for line, scenario, size in zip(lines, scenarios, ([1080, 1920], [3000, 4000]), strict=True):
        assert (scenario["name"], line["subject"]["image_px"], line["subject"]["gallery_rows"]) == (GPU_FRAME, size, 10)
        assert {stage: found["p50_ms"] for stage, found in scenario["stages"].items()} == dict(
            zip(STAGES, (1.0, 2.0, 3.0), strict=True)
        )
        assert scenario["latency"]["n"] == len(scenario["samples_ms"]) >= 10
        assert scenario["extra"]["wall_to_stages"] == pytest.approx(scenario["latency"]["p50_ms"] / 6)
        assert scenario["extra"]["first_ms"] > 0
    said = capsys.readouterr()
    assert "Fake Orin" in said.err and GPU_FRAME in said.out


def test_the_stages_of_a_run_are_medians_of_the_gpus_events() -> None:
    class Uneven(Pipeline):
        def stage_ms(self, image: np.ndarray, k: int) -> dict[str, float]:
            self.sizes.append((*image.shape, k))
            return dict.fromkeys(STAGES, 1.0 if len(self.sizes) % 5 else 100.0)

    pipeline = Uneven(None, np.zeros(0), "fp16")
    found = stage_summaries(pipeline, np.zeros((4, 6, 3), np.uint8), 2)
    assert {stage: (summary.p50_ms, summary.max_ms) for stage, summary in found.items()} == dict.fromkeys(
        STAGES, (1.0, 100.0)
    )
    assert set(pipeline.sizes) == {(4, 6, 3, 2)}


def test_an_interrupted_case_is_not_kept_and_the_one_before_it_is(
    driver: Any, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(Pipeline):
        def match(self, image: np.ndarray, k: int) -> None:
            super().match(image, k)
            if image.shape[0] == 3000 and len(self.sizes) == 9:
                raise KeyboardInterrupt

    monkeypatch.setattr(gpu_pipeline, "GpuPipeline", Interrupted)
    target = tmp_path / "report.jsonl"
    words = [str(bundle.folder), "--precisions", "fp32", "--rows", "10", "--seconds", "0.01", "--json", str(target)]
    assert main(["gpu", "pipeline", *words]) == 130
    (line,) = [json.loads(line) for line in target.read_text().splitlines()]
    assert (line["interrupted"], line["scenarios"][0]["settings"]["frame"]) == (True, "1080p")


def test_without_a_gpu_one_line_says_why(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    assert main(["gpu", "pipeline", str(bundle.folder), "--json", str(tmp_path / "none.jsonl")]) == 2
    assert "needs the package pycuda" in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())
