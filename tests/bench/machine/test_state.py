from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from bench.machine.state import CpuTimes, MachineState, on_battery, read_cpu_times, read_state
from dphr_infer.measure.machine import Machine, read_machine

SYSFS = Path(__file__).resolve().parents[2] / "sysfs"


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


def test_an_orin_nanos_clocks_are_read_from_its_files(tmp_path: Path) -> None:
    state = read_state(unpack("orin_nano", tmp_path))
    assert state.clocks == "cpu0 1728 of 730-1728 MHz; cpu4 730 of 730-1728 MHz; gpu 1020 of 306-1020 MHz"
    assert (state.throttled, state.throttled_by, state.on_battery) == (False, (), None)


def test_an_agx_orin_is_flagged_as_throttled(tmp_path: Path) -> None:
    state = read_state(unpack("agx_orin", tmp_path))
    assert state.clocks.endswith("gpu 918 of 306-1300 MHz")
    assert state.throttled_by == ("gpu-throttle-alert",)
    words = "The machine was throttled when the run began, by gpu-throttle-alert."
    assert words in state.warnings(read_machine(tmp_path))


def test_an_empty_tree_is_not_known(tmp_path: Path) -> None:
    state = read_state(tmp_path)
    assert (state.clocks, state.on_battery, state.throttled, state.others_cores) == ("", None, None, None)


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


def test_battery_other_programs_and_a_slow_governor_are_warned_of(machine: Machine) -> None:
    quiet = MachineState(0.0, "", None, None, (), 0.2)
    assert quiet.warnings(machine) == ()
    assert "on battery" in replace(quiet, on_battery=True).warnings(machine)[0]
    assert "used 0.6 of 2 cores" in replace(quiet, others_cores=0.6).warnings(machine)[0]
    assert "powersave" in quiet.warnings(replace(machine, governor="powersave (acpi-cpufreq)"))[0]
    assert quiet.warnings(replace(machine, governor="powersave (intel_pstate)")) == ()


def test_the_state_of_this_machine_watches_the_other_programs() -> None:
    others = read_state().others_cores
    assert others is not None and 0 <= others <= (os.cpu_count() or 1) + 0.5


def write_stat(root: Path, text: str) -> None:
    (root / "proc").mkdir()
    (root / "proc" / "stat").write_text(text)


def test_others_use_what_is_neither_idle_nor_this_process() -> None:
    before, after = CpuTimes(10.0, 100.0, 5.0, 3.0), CpuTimes(12.0, 103.0, 5.5, 4.5)
    assert before.others_cores(after) == pytest.approx(1.0)  # (3 used + 0.5 stolen - 1.5 own) / 2 s
    assert before.others_cores(CpuTimes(12.0, 101.0, 5.0, 4.5)) == 0.0


def test_core_times_leave_out_idle_waiting_and_guests(tmp_path: Path) -> None:
    write_stat(tmp_path, "cpu  100 20 30 9000 700 4 6 50 11 12\ncpu0 100 20 30 9000 700 4 6 50 11 12\n")
    times = read_cpu_times(tmp_path)
    ticks = os.sysconf("SC_CLK_TCK")
    assert times is not None
    assert (times.used_s, times.stolen_s) == pytest.approx((160 / ticks, 50 / ticks))
    assert read_cpu_times(tmp_path / "nowhere") is None


def test_others_are_counted_on_the_cores_that_this_process_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    totals = ("cpu  900", "cpu0 100", "cpu1 200", "cpu10 600")
    write_stat(tmp_path, "\n".join(f"{total} 0 0 7 7 0 0 5 0 0" for total in totals))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 10})
    found, tick_s = read_cpu_times(tmp_path), 1 / os.sysconf("SC_CLK_TCK")
    assert found is not None
    assert (found.used_s, found.stolen_s) == (pytest.approx(700 * tick_s), pytest.approx(10 * tick_s))
