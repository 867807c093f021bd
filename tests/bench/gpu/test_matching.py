import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.gpu import matching as gpu_matching


def test_the_model_needs_no_gpu_and_says_that_it_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_matching.main(["--model"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "not measured" in lines[0]
    # 1e6 rows of 512 float16 are 1.024 GB: 10.04 ms at 102 GB/s, 4.995 at 205, 0.2133 at 4.8 TB/s.
    assert lines[2 + 8].split() == ["1000000", "512", "fp16", "10.0", "10.0", "5.00", "0.213"]
    assert lines[2 + 9].split() == ["1000000", "512", "int8", "5.02", "5.02", "2.50", "0.107"]


def test_a_gallery_has_distinct_rows_of_unit_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_matching, "_BLOCK_ROWS", 10)
    gallery = gpu_matching.make_gallery(95, 4)  # turned by 0, 1, 2, 3, then negative
    assert (gallery.shape, gallery.dtype) == ((95, 4), np.float16)
    assert len(np.unique(gallery, axis=0)) > 75  # a turn of a negative one comes back after eight blocks
    np.testing.assert_allclose(np.linalg.norm(gallery.astype(np.float32), axis=1), 1, atol=2e-3)


def test_a_run_writes_every_case_with_its_limit(
    driver: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(gallery: Any, threads: int) -> Any:
        raise ImportError("no peer here")

    monkeypatch.setattr(gpu_matching, "OPENERS", dict.fromkeys(gpu_matching.PEERS, absent))
    target = tmp_path / "report.json"
    sizes = ["--rows", "64", "128", "--dims", "16", "--queries", "1", "9", "--top-k", "3"]
    assert gpu_matching.main([*sizes, "--seconds", "0", "--peers", "torch", "--json", str(target)]) == 0
    report = json.loads(target.read_text())
    # The stand-in's events are 0.25 ms apart, and a quarter of its 256 MiB was read: 268 GB/s.
    assert report["read_bytes_per_s"] == pytest.approx((1 << 26) / 0.25e-3, rel=1e-3)
    assert report["device"]["name"] == "Fake Orin" and not report["bandwidth_given"]
    assert report["left_out"] == ["torch: no peer here"]
    cases = [(case["scan"], case["rows"], case["queries"], case["top_k"]) for case in report["cases"]]
    assert cases == [(scan, n, q, 3) for n in (64, 128) for scan in ("fp16", "int8") for q in (1, 9)]
    first = report["cases"][0]
    assert first["limit_ms"] == pytest.approx(1e3 * 64 * 16 * 2 / report["read_bytes_per_s"])
    assert first["bandwidth_share"] == pytest.approx(first["limit_ms"] / first["wall"]["p50_ms"])
    # The stand-in's GPU takes 0.25 ms between any two events; of int8 scans that widen nothing is known of the host.
    assert all(case["gpu_ms"] == 0.25 for case in report["cases"])
    assert first["host_us"] == pytest.approx(1e3 * (first["wall"]["p50_ms"] - 0.25))
    assert all(case["host_us"] is None for case in report["cases"] if case["widened"] or case["rescanned"])
    assert "left out: torch: no peer here" in capsys.readouterr().out
    assert not driver.device_memory and driver.retained == 0


def test_a_gallery_that_does_not_fit_is_left_out_by_name(driver: Any, tmp_path: Path) -> None:
    driver.memory_bytes = 3 << 20
    target = tmp_path / "report.json"
    sizes = ["--rows", "100000", "--dims", "16", "--queries", "1", "--top-k", "1", "--peers", "--bandwidth", "100"]
    assert gpu_matching.main([*sizes, "--seconds", "0", "--json", str(target)]) == 0
    report = json.loads(target.read_text())
    assert report["cases"] == [] and report["bandwidth_given"] and report["read_bytes_per_s"] == 100e9
    assert "100000 rows take 3,200,000 bytes on the GPU" in report["left_out"][0]


def test_without_a_gpu_one_line_says_why(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    assert gpu_matching.main([]) == 2
    error = capsys.readouterr().err
    assert error.startswith("bench.gpu.matching: Matching on a GPU needs the package pycuda") and error.count("\n") == 1
