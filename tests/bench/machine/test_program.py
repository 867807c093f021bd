from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from bench.machine.program import own_code

ROOT = Path(__file__).resolve().parents[3]
ASK = "from bench.machine.program import identity; print(identity())"


def identity_in(folder: Path) -> str:
    return subprocess.run([sys.executable, "-c", ASK], cwd=folder, text=True, stdout=subprocess.PIPE, check=True).stdout


def test_the_identity_changes_with_a_line_of_code_and_with_a_kernel_and_with_nothing_else(tmp_path: Path) -> None:
    for package in ("bench", "dphr_infer"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    first = identity_in(tmp_path)
    assert re.fullmatch(r"dphr \S+( source)?, code [0-9a-f]{12}\n", first)
    (tmp_path / "bench" / "notes.md").write_text("nothing that runs")
    assert identity_in(tmp_path) == first
    kernel = tmp_path / "dphr_infer" / "cuda" / "topk" / "topk.fatbin"
    kernel.write_bytes(kernel.read_bytes() + b"\0")
    second = identity_in(tmp_path)
    with (tmp_path / "bench" / "sampling.py").open("a") as file:
        file.write("# a remark\n")
    assert len({first, second, identity_in(tmp_path)}) == 3


def test_a_process_of_our_own_runs_our_code_whatever_lies_in_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "__init__.py").write_text("raise SystemExit('the other version')")
    command = [*own_code("bench.cli", "main"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, text=True, stdout=subprocess.PIPE, check=False)
    assert done.returncode == 0
    assert "  versus   another installation" in done.stdout
