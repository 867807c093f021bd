from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from bench.cli import main
from bench.gpu import regimes as gpu_regimes
from dphr_infer.cuda.topk.regimes import Regime, read_regimes, write_regimes


@pytest.fixture(autouse=True)
def plain_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_regimes, "load_fatbin", lambda capability, version: b"image")


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({1: (1.0, 2.0), 2: (1.5, 2.0), 4: (2.0, 2.0), 8: (3.0, 2.0)}, 4),
        ({1: (3.0, 2.0), 2: (1.0, 2.0)}, 0),  # a batch of one loses: what comes after does not count
        ({8: (1.9, 2.0), 1: (1.0, 2.0)}, 8),
    ],
)
def test_dot_products_are_chosen_up_to_the_first_batch_where_they_lose(times, expected) -> None:
    assert gpu_regimes.choose_dot_up_to(times) == expected


def test_a_run_measures_both_kernels_and_renews_this_gpus_entries_alone(
    driver: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "table.json"
    other, stale = Regime("fp16", 132, 512, 1, "another"), Regime("int8", 2, 99, 4, "model")
    write_regimes([other, stale, Regime("fp16", 2, 64, 2, "model")], table)
    sizes = ["--rows", "64", "--dims", "16", "--seconds", "0", "--table", str(table)]
    assert main(["gpu", "regimes", *sizes, "--dry-run"]) == 0
    assert stale in read_regimes(table)
    assert main(["gpu", "regimes", *sizes]) == 0
    fp16, kept, int8 = read_regimes(table)
    assert kept == other
    assert (fp16.dtype, fp16.sm_count, fp16.dim, fp16.source) == ("fp16", 2, 16, "Fake Orin")
    assert (int8.dtype, int8.sm_count, int8.dim, int8.source) == ("int8", 2, 16, "Fake Orin")
    launched = {launch.kernel for launch in driver.launches}
    assert {"topk_dot_f16_q1", "topk_dot_f16_q8", "topk_mma_f16_q8", "topk_dot_i8_q4", "topk_mma_i8_q8"} <= launched
    assert "Fake Orin fp16 D 16: dot up to" in capsys.readouterr().out
    assert not driver.device_memory and driver.retained == 0


def test_without_a_gpu_one_line_says_why(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    assert main(["gpu", "regimes", "--rows", "8", "--dims", "8"]) == 2
    assert "dphr-bench: Matching on a GPU needs the package pycuda" in capsys.readouterr().err.splitlines()[-1]
