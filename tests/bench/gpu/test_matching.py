import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.cli import main
from bench.gpu import matching as gpu_matching
from bench.peers import gpu as gpu_peers
from bench.peers.cpu import Peer
from dphr_infer.types import Matches


def test_a_gallery_has_distinct_rows_of_unit_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_matching, "_BLOCK_ROWS", 10)
    gallery = gpu_matching.make_gallery(95, 4)  # turned by 0, 1, 2, 3, then negative
    assert (gallery.shape, gallery.dtype) == ((95, 4), np.float16)
    assert len(np.unique(gallery, axis=0)) > 75  # a turn of a negative one comes back after eight blocks
    np.testing.assert_allclose(np.linalg.norm(gallery.astype(np.float32), axis=1), 1, atol=2e-3)


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_writes_every_case_with_its_limit(
    driver: Any,
    tmp_path: Path,
    check_schema: Callable[[Any], list[str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent(gallery: Any, threads: int) -> Any:
        raise ImportError("no peer here")

    def open_blind(gallery: Any, threads: int) -> list[Peer]:
        return [Peer("blind", "1", lambda queries, k: Matches(*[np.full((len(queries), k), -1)] * 2))]

    monkeypatch.setattr(gpu_peers, "OPENERS", {"absent": absent, "blind": open_blind})
    target = tmp_path / "report.jsonl"
    sizes = ["--rows", "64", "1.28e2", "--dims", "16", "--queries", "1", "9", "--top-k", "3"]
    assert main(["gpu", "matching", *sizes, "--seconds", "0.001", "--json", str(target)]) == 0
    lines = read_lines(target)
    assert [fault for line in lines for fault in check_schema(line)] == []
    # The stand-in's events are 0.25 ms apart, and a quarter of its 256 MiB was read: 268 GB/s.
    bandwidth = (1 << 26) / 0.25e-3
    assert all(line["bandwidth_bytes_per_s"] == pytest.approx(bandwidth, rel=1e-3) for line in lines)
    cases = [line["matching"][0] for line in lines]
    assert [(case["matcher"], case["rows"], case["queries"], case["k"]) for case in cases] == [
        (f"cuda {scan}", n, q, 3) for n in (64, 128) for scan in ("fp16", "int8") for q in (1, 9)
    ]
    for case in cases:  # each scan reads its own rows once
        assert case["read_bytes"] == case["rows"] * 16 * (2 if case["matcher"] == "cuda fp16" else 1)
        assert case["limit_ms"] == pytest.approx(1e3 * case["read_bytes"] / lines[0]["bandwidth_bytes_per_s"])
        assert case["bandwidth_share"] == pytest.approx(case["limit_ms"] / case["latency"]["p50_ms"])
        assert case["gpu_ms"] == 0.25  # between any two events of the stand-in
    for line in lines:
        why = {peer["name"]: peer["failure"] for peer in line["peers"]}
        if line["matching"][0]["matcher"] == "cuda fp16":
            assert why["absent"] == "absent could not be opened: ImportError: no peer here"
            assert why["blind"] == "" and len(why) == 3
        else:
            assert why == {}
    said = capsys.readouterr()
    assert "Fake Orin" in said.err and "268 GB/s read" in said.err
    assert "ImportError: no peer here" in said.out
    assert not driver.device_memory and driver.retained == 0


def test_a_gallery_that_does_not_fit_on_the_gpu_is_left_out_by_name(driver: Any, tmp_path: Path) -> None:
    driver.memory_bytes = 3 << 20
    target = tmp_path / "report.jsonl"
    sizes = ["--rows", "1e5", "--dims", "16", "--queries", "1", "--top-k", "1", "--no-peers", "--bandwidth", "100"]
    assert main(["gpu", "matching", *sizes, "--seconds", "0.001", "--json", str(target)]) == 0
    lines = read_lines(target)
    assert all(line["matching"] == [] and line["bandwidth_bytes_per_s"] == 100e9 for line in lines)
    left_out = {name: why for line in lines for name, why in line["left_out"].items()}
    assert list(left_out) == ["100,000 x 16, fp16", "100,000 x 16, int8"]
    assert "a gallery that is streamed" in left_out["100,000 x 16, fp16"]
    assert "takes 5,600,000 bytes on Fake Orin, where 3,145,728" in left_out["100,000 x 16, int8"]


def test_a_gallery_that_does_not_fit_on_the_host_is_left_out_and_the_others_are_measured(
    driver: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_matching, "available_bytes", lambda: 100_000)
    target = tmp_path / "report.jsonl"
    sizes = [
        "--rows",
        "1e4",
        "64",
        "--dims",
        "16",
        "--queries",
        "1",
        "--top-k",
        "1",
        "--no-peers",
        "--bandwidth",
        "100",
    ]
    assert main(["gpu", "matching", *sizes, "--seconds", "0.001", "--json", str(target)]) == 0
    first, *others = read_lines(target)
    assert first["left_out"] == {"10,000 x 16": "it takes 0.0 GB on the host, of which 0.0 are free"}
    assert [line["matching"][0]["rows"] for line in others] == [64, 64]


def test_without_a_gpu_one_line_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    assert main(["gpu", "matching", "--json", str(tmp_path / "none.jsonl")]) == 2
    assert "dphr-bench: Matching on a GPU needs the package pycuda" in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())
