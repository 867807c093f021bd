import dataclasses
import math
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from dphr_infer.cli import doctor
from dphr_infer.cli.doctor import Finding, examine, run
from dphr_infer.cli.requests import Doctor
from dphr_infer.cuda.gpu import Gpu, find_gpu
from dphr_infer.errors import BundleError, EngineError
from dphr_infer.files.bundle import Quantisation, digest_files, open_bundle
from dphr_infer.locate import self_test as self_test_module
from dphr_infer.locate.self_test import SelfTest, self_test
from dphr_infer.locate.settings import DeviceSettings

ORIN = Gpu("Orin", (8, 7), 8, (12, 6))
DRIVER = """
#include <string.h>
int cuInit(int flags) { return INIT; }
int cuDeviceGetCount(int *count) { *count = COUNT; return 0; }
int cuDriverGetVersion(int *version) { *version = 12060; return 0; }
int cuDeviceGet(int *device, int number) { *device = 7; return number; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "Orin", size); return device != 7; }
int cuDeviceGetAttribute(int *value, int name, int device) {
    *value = name == 75 ? 8 : name == 76 ? 7 : name == 16 ? 16 : -1;
    return device != 7;
}
int cuGetErrorString(int code, const char **words) { *words = "no CUDA-capable device is detected"; return 0; }
"""


def driver_library(folder: Path, init: int = 0, count: int = 1) -> str:
    """A shared library with the functions of CUDA's driver that are asked, for a machine without one."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    (folder / "driver.c").write_text(DRIVER)
    library = folder / f"libcuda{init}{count}.so"
    flags = ["-shared", "-fPIC", f"-DINIT={init}", f"-DCOUNT={count}"]
    subprocess.run([compiler, *flags, "-o", str(library), str(folder / "driver.c")], check=True)
    return str(library)


def no_gpu() -> Gpu:
    raise EngineError("there is no NVIDIA driver.")


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_a_gpu_is_described_by_its_driver(tmp_path: Path) -> None:
    assert find_gpu(driver_library(tmp_path)) == Gpu("Orin", (8, 7), 16, (12, 6))


def test_a_driver_without_a_gpu_or_none_at_all_is_said(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="finds no GPU"):
        find_gpu(driver_library(tmp_path, count=0))
    with pytest.raises(EngineError, match=r"refuses cuInit with code 100 \(no CUDA-capable device is detected\)"):
        find_gpu(driver_library(tmp_path, init=100))
    with pytest.raises(EngineError, match="there is no NVIDIA driver"):
        find_gpu("libcuda-that-is-not-there.so.1")


def test_a_jetson_with_jetpack_5_is_too_old_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R35 (release), REVISION: 4.1, GCID: 1\n")
    found = by_name(examine(tmp_path, no_gpu))
    assert found["machine"].line().startswith("machine      unusable: JetPack 5 is too old: it ends at TensorRT 8")
    line = "gpu          missing: there is no NVIDIA driver  (--device cuda and cuda-onnxruntime)"
    assert found["gpu"].line() == line
    assert "kernels" not in found


def test_opencv_says_what_it_reads_films_with(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    version = by_name(examine(tmp_path, no_gpu))["opencv"].version
    assert version.startswith(f"{cv2.__version__} with ")
    assert ("GStreamer" in version) == cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER)


def hide(monkeypatch, *modules: str) -> None:
    """Make packages look as if they were not installed."""
    find_spec = doctor.util.find_spec
    monkeypatch.setattr(doctor.util, "find_spec", lambda name: None if name in modules else find_spec(name))
    for module in modules:
        monkeypatch.delitem(sys.modules, module, raising=False)
        monkeypatch.setitem(sys.modules, module, None)


def test_what_is_missing_on_a_jetson_comes_with_jetpack(tmp_path: Path, monkeypatch) -> None:
    hide(monkeypatch, "cv2", "pycuda")
    missing = lambda: (_ for _ in ()).throw(doctor.MissingPackageError("tensorrt", "rtx", "Building"))  # noqa: E731
    monkeypatch.setattr(doctor, "open_tensorrt", missing)
    monkeypatch.setattr(doctor, "find_nvcc", lambda: None)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.3, GCID: 1\n")
    found = by_name(examine(tmp_path, no_gpu))
    for name in ("opencv", "nvcc", "tensorrt"):
        assert f"{name:<12} missing: sudo apt install nvidia-jetpack  (" in found[name].line()
    assert "sudo apt install nvidia-jetpack, then pip install 'dphr[cuda]'" in found["pycuda"].line()
    (tmp_path / "usr/lib/python3.10/dist-packages/tensorrt").mkdir(parents=True)
    assert "python3 -m venv --system-site-packages" in by_name(examine(tmp_path, no_gpu))["tensorrt"].line()
    (tmp_path / "etc/nv_tegra_release").unlink()
    on_a_pc = by_name(examine(tmp_path, no_gpu))
    assert on_a_pc["tensorrt"].fix == "pip install 'dphr[rtx]'"
    assert on_a_pc["opencv"].fix == "pip install 'dphr[video]'"


def test_nvcc_that_is_not_on_path_is_put_there_for_pycuda(tmp_path: Path, monkeypatch) -> None:
    hide(monkeypatch, "pycuda")
    monkeypatch.setattr(doctor, "find_nvcc", lambda: Path("/usr/local/cuda/bin/nvcc"))
    monkeypatch.setattr(doctor, "nvcc_version", lambda _: (12, 6))
    monkeypatch.setattr(doctor.shutil, "which", lambda _, path=None: None)
    found = by_name(examine(tmp_path, no_gpu))
    assert found["nvcc"].version == "12.6 in /usr/local/cuda/bin"
    assert found["pycuda"].fix == "PATH=/usr/local/cuda/bin:$PATH pip install 'dphr[cuda]'"


def test_a_tensorrt_that_is_too_old_or_broken_is_unusable(tmp_path: Path, monkeypatch) -> None:
    old = types.ModuleType("tensorrt")
    old.__version__ = "8.5.2.2"
    monkeypatch.setitem(sys.modules, "tensorrt", old)
    line = by_name(examine(tmp_path, no_gpu))["tensorrt"].line()
    assert "unusable: TensorRT 8.5.2.2 is too old, at least 10.0 is needed" in line


def test_the_shipped_kernels_fit_a_new_driver_and_need_nvcc_for_an_old_one(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvcc
    monkeypatch.setattr("dphr_infer.cuda.build._JETPACK_NVCC", tmp_path / "nvcc")
    new = dataclasses.replace(ORIN, driver=(13, 2))
    found = by_name(examine(tmp_path, lambda: new))
    assert found["kernels"].version == "topk as shipped, preprocess as shipped"
    assert found["gpu"].version == "Orin, compute capability 8.7, 8 SMs; driver serves CUDA 13.2"
    unfit = by_name(examine(tmp_path, lambda: ORIN))["kernels"]
    assert unfit.version == "" and "the driver is too old for it: it serves CUDA 12.6" in unfit.problem
    assert "sudo apt install nvidia-jetpack" in unfit.problem
    old = dataclasses.replace(ORIN, capability=(7, 2))
    assert "compute capability 7.2" in by_name(examine(tmp_path, lambda: old))["kernels"].line()


def test_too_little_room_for_plans_is_said_with_both_sizes(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(doctor, "MIN_FREE_BYTES", 1 << 60)
    line = by_name(examine(tmp_path, no_gpu))["engine cache"].line()
    assert "GB free, 1152921504.61 GB are wanted: free some, or set XDG_CACHE_HOME" in line
    assert str(tmp_path / "dphr/engines") in line
    monkeypatch.setattr(doctor, "MIN_FREE_BYTES", 1)
    assert "GB free  (" in by_name(examine(tmp_path, no_gpu))["engine cache"].line()


def test_every_engine_is_tested_though_others_fail_and_the_end_names_them(with_model, monkeypatch) -> None:
    """A bundle whose fp32 model is good, whose fp16 file is no model, and whose int8 model is another one."""
    monkeypatch.setattr(self_test_module, "present_devices", lambda: ("cpu",))
    good, other = with_model(), with_model(bias=500.0)
    (good.folder / "model.fp16.onnx").write_bytes(b"no model")
    shutil.copy(other.folder / "model.fp32.onnx", good.folder / "model.int8.onnx")
    manifest = dataclasses.replace(
        good.manifest,
        files=digest_files(good.folder),
        parity=dict.fromkeys(("fp32", "fp16", "int8"), good.manifest.parity["fp32"]),
        quantisation=Quantisation("tests", "int8", "00" * 32, 0, ()),
    )
    (good.folder / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
    results: list[SelfTest] = []
    with pytest.raises(BundleError) as raised:
        for result in self_test(open_bundle(good.folder)):
            results.append(result)
    assert [result.engine for result in results] == [f"onnxruntime CPU {p}" for p in ("fp32", "fp16", "int8")]
    fp32, fp16, int8 = results
    assert fp32.problem == "" and fp32.min_cosine > 0.99999 and fp32.line().endswith("over 3 images, good")
    assert fp16.n_images == 0 and math.isnan(fp16.min_cosine) and "is not a model" in fp16.problem
    assert "FAILED: a cosine of" in int8.line() and "at least 0.95 is needed" in int8.problem
    assert "onnxruntime CPU fp16: " in str(raised.value) and "onnxruntime CPU int8: a cosine" in str(raised.value)
    assert "CPU fp32" not in str(raised.value) and "2 of 3 engines" in str(raised.value)


def test_an_engine_that_cannot_run_at_all_is_an_engine_error(with_model, monkeypatch) -> None:
    monkeypatch.setattr(self_test_module, "present_devices", lambda: ("cpu",))
    bundle = with_model()
    (bundle.folder / "model.fp32.onnx").write_bytes(b"no model")
    manifest = dataclasses.replace(bundle.manifest, files=digest_files(bundle.folder))
    (bundle.folder / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
    with pytest.raises(EngineError, match="1 of 1 engines failed the self-test"):
        list(self_test(open_bundle(bundle.folder)))


def test_a_cosine_that_is_no_number_is_not_near(bundle) -> None:
    images, expected = bundle.read_selftest()
    result = self_test_module._test_engine(bundle, DeviceSettings(), images, expected * np.float32("nan"))
    assert result.line().endswith("min cosine nan over 3 images, FAILED: a cosine of nan, at least 0.999 is needed.")


def test_diagnose_prints_a_line_for_each_part_and_each_engine(bundle, capsys) -> None:
    run(Doctor(bundle.folder))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("python       3.")
    assert [line for line in lines if line.startswith("self-test    onnxruntime CPU fp32: min cosine 1.000000")]
    for name in ("machine", "gpu", "nvcc", "tensorrt", "pycuda", "opencv", "engine cache"):
        assert sum(line.startswith(f"{name} ") for line in lines) == 1
