import json
from pathlib import Path

import pytest

from dphr_infer.measure.machine import read_machine

TREES = Path(__file__).resolve().parents[2] / "sysfs"


def grow(root: Path, files: dict[str, str]) -> Path:
    """Write {path: text} below a root."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def recorded(root: Path, name: str) -> Path:
    """One of the trees {folder: {file: text}}; a file without text is one that cannot be read."""
    tree = json.loads((TREES / f"{name}.json").read_text())
    return grow(root, {f"{folder}/{file}": text for folder in tree for file, text in tree[folder].items() if text})


def jetson(l4t: str, chip: str = "tegra234", board: str = "NVIDIA Jetson") -> dict[str, str]:
    major, revision = l4t.split(".", 1)
    return {
        "etc/nv_tegra_release": f"# R{major} (release), REVISION: {revision}, GCID: 1, BOARD: generic, EABI: aarch64\n",
        "proc/device-tree/model": f"{board}\0",
        "proc/device-tree/compatible": f"nvidia,p3737-0000\0nvidia,{chip}\0",
    }


def test_an_orin_nano_with_jetpack_6_is_read_in_full(tmp_path: Path) -> None:
    machine = read_machine(recorded(tmp_path, "orin_nano"))
    assert machine.board == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert (machine.chip, machine.l4t, machine.jetpack, machine.jetpack_major) == ("tegra234", "36.4.3", "6.2+b77", 6)
    assert (machine.cuda, machine.power_mode, machine.driver) == ("12.6.11", "MAXN_SUPER (2)", "540.4.0")
    assert machine.is_jetson and machine.too_old() == ""
    assert (machine.cpu, machine.gpu) == ("Arm Cortex-A78AE", "integrated, tegra234")
    assert (machine.memory_bytes, machine.governor) == (7802880 * 1024, "schedutil (tegra194)")
    assert machine.caches == "L1d 64 KiB, L1i 64 KiB, L2 256 KiB, L3 2048 KiB"
    assert machine.last_level_cache_bytes == 2 << 20
    assert machine.name().endswith("Developer Kit Super, Jetson Linux 36.4.3 (JetPack 6.2+b77)")


def test_the_library_and_the_python_package_of_tensorrt_are_found(tmp_path: Path) -> None:
    files = {"usr/lib/aarch64-linux-gnu/libnvinfer.so.10.3.0": "", "usr/lib/aarch64-linux-gnu/libnvinfer.so.10": ""}
    machine = read_machine(grow(tmp_path, {**files, "usr/lib/python3.10/dist-packages/tensorrt/__init__.py": ""}))
    assert machine.tensorrt == "10.3.0"
    assert machine.tensorrt_python == str(tmp_path / "usr/lib/python3.10/dist-packages")


def test_jetpack_5_is_too_old_and_an_orin_can_be_flashed(tmp_path: Path) -> None:
    reason = read_machine(recorded(tmp_path, "agx_orin")).too_old()
    assert reason.startswith("JetPack 5 is too old") and "TensorRT 8" in reason and "Python 3.10" in reason
    assert "Flash JetPack 6 or 7" in reason


@pytest.mark.parametrize(
    ("l4t", "chip", "jetpack", "words"),
    [
        ("32.7.1", "tegra210", "4", "Jetson Nano and TX1 has a GPU older than compute capability 8.0: take an Orin"),
        ("35.4.1", "tegra194", "5", "Jetson Xavier has a GPU older"),
        ("34.1.1", "tegra234", "5", "Flash JetPack 6 or 7"),
        ("36.4.3", "tegra234", "6", ""),
        ("38.4.0", "tegra264", "7", ""),
        ("39.2.0", "tegra234", "7", ""),
        ("41.0.0", "tegra234", "", ""),
    ],
)
def test_the_jetpack_follows_from_jetson_linux(tmp_path: Path, l4t: str, chip: str, jetpack: str, words: str) -> None:
    machine = read_machine(grow(tmp_path, jetson(l4t, chip)))
    assert (machine.l4t, machine.jetpack) == (l4t, jetpack)
    assert words in machine.too_old() if words else machine.too_old() == ""
    assert ("JetPack that this program does not know" in machine.name()) == (jetpack == "")


def test_a_pc_is_no_jetson_and_garbage_is_nothing(tmp_path: Path) -> None:
    pc = {"usr/local/cuda/version.json": "{", "var/lib/nvpmodel/status": "?", "proc/device-tree/model": "A board\0"}
    machine = read_machine(grow(tmp_path, {**pc, "etc/nv_tegra_release": "# R (release)"}))
    assert not machine.is_jetson and machine.name() == "no Jetson" and machine.jetpack_major is None
    assert machine.board == "A board"
    assert (machine.cuda, machine.power_mode, machine.driver, machine.too_old()) == ("",) * 4
    nowhere = read_machine(tmp_path / "nowhere")
    assert nowhere == read_machine(tmp_path / "nowhere either")
    told = (nowhere.board, nowhere.gpu, nowhere.governor, nowhere.caches, nowhere.hypervisor, nowhere.driver)
    assert told == ("",) * 6
    assert (nowhere.memory_bytes, nowhere.last_level_cache_bytes) == (0, 0)


def test_this_machine_tells_its_processor_cores_memory_and_packages() -> None:
    machine = read_machine()
    assert machine.cpu and machine.system and machine.python
    assert machine.cores >= 1 and machine.memory_bytes > 1e8
    assert machine.packages["numpy"] and machine.packages["onnxruntime"]


def test_a_mode_that_the_configuration_does_not_name_keeps_its_number(tmp_path: Path) -> None:
    recorded(tmp_path, "orin_nano")
    (tmp_path / "var/lib/nvpmodel/status").write_text("pmode:0007\n")
    assert read_machine(tmp_path).power_mode == "mode (7)"


def smi(root: Path, script: str) -> None:
    grow(root, {"usr/bin/nvidia-smi": f"#!/bin/sh\n{script}\n"})
    (root / "usr/bin/nvidia-smi").chmod(0o755)


def test_a_card_and_its_driver_are_read_from_proc(tmp_path: Path) -> None:
    version = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n"
    card = "Model: \t\t NVIDIA H100 PCIe\nIRQ: 16\n"
    grow(tmp_path, {"proc/driver/nvidia/version": version, "proc/driver/nvidia/gpus/0000:01:00.0/information": card})
    smi(tmp_path, "echo 'Driver Version                            : 550.54.15'; echo 'CUDA Version : 12.4'")
    machine = read_machine(tmp_path)
    assert (machine.gpu, machine.driver, machine.cuda_served) == ("NVIDIA H100 PCIe", "550.54.15", "12.4")


def test_a_card_in_a_container_is_read_from_nvidia_smi(tmp_path: Path) -> None:
    smi(tmp_path, "printf 'Driver Version : 575.1\\nCUDA Version : 12.9\\n    Product Name : NVIDIA L4\\n'")
    machine = read_machine(tmp_path)
    assert (machine.gpu, machine.driver) == ("NVIDIA L4", "575.1")


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("proc/cpuinfo", "model name : X\nflags : fpu vme hypervisor lahf_lm\n", "flag of the CPU"),
        ("proc/cpuinfo", "model name : hypervisor\nflags : fpu vme\n", ""),
        ("proc/device-tree/hypervisor/compatible", "linux,kvm", "linux,kvm"),
        ("sys/hypervisor/type", "xen\n", "xen"),
        ("proc/version", "Linux", ""),
    ],
)
def test_a_virtual_machine_is_told_from_one_of_its_own(tmp_path: Path, file: str, content: str, expected: str) -> None:
    assert read_machine(grow(tmp_path, {file: content})).hypervisor == expected
