from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest

from dphr_infer.measure.machine import (
    ABSENT,
    NONE,
    UNKNOWN,
    find_hypervisor,
    memory_bytes,
    on_battery,
    power_mode,
    read_machine,
)

SYSFS = Path(__file__).resolve().parent / "sysfs"
INFO = "MemTotal:       8000000 kB\nMemAvailable:    500 kB\n"


def unpack(name: str, root: Path) -> Path:
    """Lay out a tree of sysfs/; a text of null becomes a folder, which no reader can read."""
    for folder, files in json.loads((SYSFS / f"{name}.json").read_text()).items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            path = root / folder / file
            path.mkdir() if text is None else path.write_text(text)
    return root


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def add_nvidia_smi(root: Path, script: str) -> None:
    write(root, "usr/bin/nvidia-smi", f"#!/bin/sh\n{script}\n")
    (root / "usr/bin/nvidia-smi").chmod(0o755)


def test_memory_is_read_in_bytes_and_0_where_the_field_is_missing() -> None:
    assert memory_bytes(INFO, "MemTotal") == 8_192_000_000
    assert memory_bytes(INFO, "MemAvailable") == 512_000
    assert memory_bytes("", "MemTotal") == 0


def test_the_profile_of_this_machine_leaves_no_text_empty() -> None:
    machine = read_machine()
    texts = [value for value in dataclasses.asdict(machine).values() if isinstance(value, str)]
    assert len(texts) >= 15 and all(texts)
    assert machine.memory_bytes > 1e8


def test_an_orin_nano_is_described_from_its_files(tmp_path: Path) -> None:
    machine = read_machine(unpack("orin_nano", tmp_path))
    assert machine.board == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert machine.cpu == "Arm Cortex-A78AE"
    assert machine.memory_bytes == 7802880 * 1024
    assert (machine.l4t, machine.jetpack) == ("36.4.3", "6.2+b77")
    assert machine.power_mode == "MAXN_SUPER (2)"
    assert machine.power == "schedutil (tegra194), nvpmodel MAXN_SUPER (2)"
    assert machine.gpu == "integrated, tegra234"
    assert machine.driver == "540.4.0"
    assert "toolkit 12.6.11" in machine.cuda
    assert "library 10.3.0" in machine.tensorrt
    assert machine.caches == "L1d 64 KiB, L1i 64 KiB, L2 256 KiB, L3 2048 KiB"
    assert machine.last_level_cache_bytes == 2 << 20
    assert machine.clocks == "cpu0 1728 of 730-1728 MHz; cpu4 730 of 730-1728 MHz; gpu 1020 of 306-1020 MHz"
    assert (machine.throttled, machine.throttled_by, machine.on_battery) == (False, (), None)


def test_an_agx_orin_is_flagged_as_throttled(tmp_path: Path) -> None:
    machine = read_machine(unpack("agx_orin", tmp_path))
    assert (machine.l4t, machine.jetpack) == ("35.4.1", "5.x")
    assert machine.power_mode == "MAXN (0)"
    assert machine.gpu == "integrated, tegra234"
    assert machine.driver == ABSENT
    assert "library 8.5.2" in machine.tensorrt
    assert machine.clocks.endswith("gpu 918 of 306-1300 MHz")
    assert machine.throttled_by == ("gpu-throttle-alert",)
    assert "The machine was throttled when the run began, by gpu-throttle-alert." in machine.warnings()


def test_an_empty_tree_is_stated_as_unknown_and_absent(tmp_path: Path) -> None:
    machine = read_machine(tmp_path)
    assert (machine.board, machine.power, machine.clocks, machine.caches) == (UNKNOWN,) * 4
    assert (machine.gpu, machine.l4t, machine.jetpack, machine.power_mode) == (NONE,) * 4
    assert machine.driver == ABSENT
    assert (machine.memory_bytes, machine.last_level_cache_bytes) == (0, 0)
    assert (machine.on_battery, machine.throttled) == (None, None)


def test_a_mode_that_the_configuration_does_not_name_keeps_its_number(tmp_path: Path) -> None:
    unpack("orin_nano", tmp_path)
    (tmp_path / "var/lib/nvpmodel/status").write_text("pmode:0007\n")
    assert power_mode(tmp_path) == "unknown (7)"


def test_a_card_and_its_driver_are_read_from_proc(tmp_path: Path) -> None:
    version = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n"
    write(tmp_path, "proc/driver/nvidia/version", version)
    write(tmp_path, "proc/driver/nvidia/gpus/0000:01:00.0/information", "Model: \t\t NVIDIA H100 PCIe\nIRQ: 16\n")
    add_nvidia_smi(tmp_path, "echo 'Driver Version                            : 550.54.15'; echo 'CUDA Version : 12.4'")
    machine = read_machine(tmp_path)
    assert (machine.gpu, machine.driver) == ("NVIDIA H100 PCIe", "550.54.15")
    assert machine.cuda.endswith("driver up to 12.4")


def test_a_card_in_a_container_is_read_from_nvidia_smi(tmp_path: Path) -> None:
    add_nvidia_smi(tmp_path, "printf 'Driver Version : 575.1\\nCUDA Version : 12.9\\n    Product Name : NVIDIA L4\\n'")
    machine = read_machine(tmp_path)
    assert (machine.gpu, machine.driver) == ("NVIDIA L4", "575.1")


@pytest.mark.parametrize(
    ("supplies", "expected"),
    [
        ({}, None),
        ({"AC": {"type": "Mains", "online": "1"}}, False),
        ({"AC": {"type": "Mains", "online": "0"}, "BAT0": {"type": "Battery", "status": "Discharging"}}, True),
        ({"AC": {"type": "Mains", "online": "0"}, "BAT0": {"type": "Battery", "status": "Not charging"}}, True),
        ({"AC": {"type": "Mains", "online": "1"}, "BAT0": {"type": "Battery", "status": "Charging"}}, False),
        ({"BAT0": {"type": "Battery", "status": "Full"}}, False),
        ({"hid": {"type": "Battery", "scope": "Device", "status": "Discharging"}}, None),
    ],
)
def test_a_battery_counts_when_it_feeds_the_machine(
    tmp_path: Path, supplies: dict[str, dict[str, str]], expected: bool | None
) -> None:
    for name, files in supplies.items():
        for file, text in files.items():
            write(tmp_path, f"sys/class/power_supply/{name}/{file}", text + "\n")
    assert on_battery(tmp_path) is expected


def test_battery_other_programs_and_a_slow_governor_are_warned_of(tmp_path: Path) -> None:
    machine = read_machine(tmp_path)
    quiet = dataclasses.replace(machine, others_cores=0.2, cores=2)
    assert quiet.warnings() == ()
    assert "on battery" in dataclasses.replace(quiet, on_battery=True).warnings()[0]
    assert "used 0.6 of 2 cores" in dataclasses.replace(quiet, others_cores=0.6).warnings()[0]
    assert "powersave" in dataclasses.replace(quiet, power="powersave (acpi-cpufreq)").warnings()[0]
    assert dataclasses.replace(quiet, power="powersave (intel_pstate)").warnings() == ()


def test_the_profile_watches_the_other_programs(tmp_path: Path) -> None:
    others = read_machine().others_cores
    assert others is not None and 0 <= others <= (os.cpu_count() or 1) + 0.5
    assert read_machine(tmp_path).others_cores is None


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("proc/cpuinfo", "model name : X\nflags : fpu vme hypervisor lahf_lm\n", "flag of the CPU"),
        ("proc/cpuinfo", "model name : hypervisor\nflags : fpu vme\n", "none"),
        ("proc/device-tree/hypervisor/compatible", "linux,kvm", "linux,kvm"),
        ("sys/hypervisor/type", "xen\n", "xen"),
        ("proc/version", "Linux", "none"),
    ],
)
def test_a_virtual_machine_is_told_from_one_of_its_own(tmp_path: Path, file: str, content: str, expected: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert find_hypervisor(tmp_path) == expected
