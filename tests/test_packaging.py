"""What is installed is what the documents say: commands, dependencies, tested versions, the content of the wheel."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

tomllib = pytest.importorskip("tomllib")

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"dphr_infer", "dphr_train", "export", "bench"}
# Never in one environment: onnxruntime and onnxruntime-gpu share one import name; pycuda is built on the device, where
# TensorRT comes with the system; the peers on a GPU need one.
NOT_TESTED_HERE = {"onnxruntime-gpu", "pycuda", "tensorrt", "faiss-gpu-cu12", "cuvs-cu13", "cupy-cuda13x"}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return found


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    # Without a terminal's width argparse would wrap names apart.
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False)


def test_every_command_points_at_a_function(project: dict[str, Any]) -> None:
    assert set(project["scripts"]) == {"dphr-train", "dphr-export", "dphr-infer", "dphr-bench"}
    for target in project["scripts"].values():
        module, name = target.split(":")
        assert callable(getattr(importlib.import_module(module), name)), target


@pytest.mark.parametrize("program", ["dphr-train", "dphr-export", "dphr-infer", "dphr-bench"])
def test_the_first_answer_of_a_program_names_every_command_and_loads_no_package(
    program: str, project: dict[str, Any]
) -> None:
    module = project["scripts"][program].split(":")[0]
    code = (
        f"import sys, {module} as cli; sys.argv = ['x']\n"
        "try: stop = cli.main()\n"
        "except SystemExit as end: stop = end.code\n"
    )
    done = run_python("-c", code + "print(stop or 0, {'torch', 'tyro', 'numpy', 'PIL'} & {*sys.modules})")
    *lines, end = done.stdout.splitlines()
    assert end == "0 set()", done.stderr
    named = importlib.import_module(module).COMMANDS
    assert [line.split()[0] for line in lines[lines.index("commands:") + 1 : -2]] == list(named)


def test_what_flies_needs_four_small_packages_only(project: dict[str, Any]) -> None:
    names = {Requirement(line).name for line in project["dependencies"]}
    assert names == {"numpy", "pillow", "safetensors", "tyro"}


def test_each_extra_holds_what_its_name_says(project: dict[str, Any]) -> None:
    extras = {
        name: {Requirement(line).name for line in lines} for name, lines in project["optional-dependencies"].items()
    }
    assert extras["cpu"] == {"onnxruntime"}
    assert extras["gpu"] == {"onnxruntime-gpu"}
    assert "rasterio" in extras["map"]
    assert {"torch", "timm"} <= extras["train"]
    assert {"onnx", "onnxscript", "onnxruntime"} <= extras["export"]
    assert extras["tensorrt"] == {"tensorrt"} and extras["rtx"] == {"tensorrt-rtx-cu13"}
    assert extras["sign"] == {"cryptography"}
    assert "matplotlib" in extras["bench"]


def test_every_extra_named_by_an_error_exists(project: dict[str, Any]) -> None:
    pattern = re.compile(r'MissingPackageError\(\s*"[^"]+",\s*"([^"]+)"')
    named = {
        extra
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for extra in pattern.findall(path.read_text(encoding="utf-8"))
    }
    assert "cpu" in named
    assert named <= set(project["optional-dependencies"])


def test_the_tested_versions_lie_in_the_stated_ranges(project: dict[str, Any]) -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {
        canonicalize_name(name): version
        for name, version in (line.split("==") for line in lines if line and not line.startswith("#"))
    }
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    wanted = [Requirement(line) for group in groups for line in group]
    checked = 0
    for requirement in wanted:
        name = canonicalize_name(requirement.name)
        if name in NOT_TESTED_HERE or name == "dphr":
            continue
        assert name in pinned, f"constraints.txt lacks {name}"
        assert requirement.specifier.contains(pinned[name]), f"{name} {pinned[name]} is outside {requirement.specifier}"
        checked += 1
    assert checked > 10


def test_importing_the_whole_runtime_loads_nothing_heavy() -> None:
    paths = sorted((ROOT / "dphr_infer").rglob("*.py"))
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths]
    modules = [module for module in modules if not module.endswith("__main__")]
    heavy = ("torch", "timm", "onnxruntime", "onnx", "rasterio", "matplotlib", "scipy", "tensorrt", "pycuda")
    script = (
        f"import importlib, sys\nfor name in {modules}: importlib.import_module(name)\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = run_python("-c", script)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


@pytest.mark.parametrize("module", ["export", "bench"])
def test_help_answers_without_loading_torch(module: str) -> None:
    script = (
        f"import runpy, sys\nsys.argv = ['{module}', '--help']\ntry:\n    runpy.run_module('{module}')\n"
        "except SystemExit as end:\n    print('CODE', end.code, 'torch' in sys.modules)"
    )
    script = script.replace("runpy.run_module(", "runpy.run_module(run_name='__main__', mod_name=")
    done = run_python("-c", script)
    assert done.stdout.strip().endswith("CODE 0 False"), done.stdout + done.stderr
    assert f"usage: dphr-{module}" in done.stdout


def test_the_wheel_holds_the_four_packages_and_their_data(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    script = (
        f"import os; os.chdir({str(tmp_path)!r})\nfrom setuptools import build_meta\nbuild_meta.build_wheel('dist')"
    )
    done = run_python("-c", script)
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == PACKAGES
    shipped = {name for name in names if name.endswith(".py")}
    expected = {path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert shipped == expected
    assert "dphr_infer/py.typed" in names
