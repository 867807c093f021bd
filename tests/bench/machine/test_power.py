from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.machine.power import (
    PowerReader,
    PowerSample,
    Recorder,
    energy_per_frame_mj,
    open_power,
    rail_energy_j,
    total_energy_j,
)
from bench.machine.sensors import EnergyCounter, ask_nvidia_smi, slowdown_reasons
from dphr_infer.measure.clock import now_s

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


def add_nvidia_smi(root: Path, script: str) -> Path:
    write(root, "usr/bin/nvidia-smi", f"#!/bin/sh\n{script}\n")
    (root / "usr/bin/nvidia-smi").chmod(0o755)
    return root / "usr/bin/nvidia-smi"


def add_rapl(root: Path, energy_uj: int) -> None:
    for folder, name in (("intel-rapl:0", "package-0"), ("intel-rapl:0:0", "core"), ("intel-rapl:0:1", "dram")):
        write(root, f"sys/class/powercap/{folder}/name", name)
        write(root, f"sys/class/powercap/{folder}/max_energy_range_uj", "1000000")
        write(root, f"sys/class/powercap/{folder}/energy_uj", str(energy_uj))


def sample(t_s: float, watts: float) -> PowerSample:
    return PowerSample(t_s, {}, {}, {"VDD_IN": watts}, None)


def test_an_orin_nanos_rails_clocks_and_zones_are_read_in_their_units(tmp_path: Path) -> None:
    read = open_power(unpack("orin_nano", tmp_path)).sample()
    assert read.power_w == pytest.approx({"VDD_IN": 9.0, "VDD_CPU_GPU_CV": 3.5, "VDD_SOC": 2.0})
    assert read.clock_mhz == pytest.approx({"cpu0": 1728.0, "cpu4": 729.6, "gpu": 1020.0})
    assert read.temperature_c == pytest.approx(
        {
            "cpu-thermal": 48.125,
            "gpu-thermal": 49.5,
            "soc0-thermal": 47.0,
            "soc1-thermal": 47.25,
            "soc2-thermal": 46.5,
            "tj-thermal": 49.5,
        }
    )


def test_an_orin_nanos_whole_is_its_input_rail_and_its_fan_is_no_throttling(tmp_path: Path) -> None:
    reader = open_power(unpack("orin_nano", tmp_path))
    assert reader.total_rails == ("VDD_IN",)
    assert (reader.sample().throttled, reader.sample().throttled_by) == (False, ())
    assert reader.missing() == ()
    assert "INA3221 (hwmon): VDD_IN, VDD_CPU_GPU_CV, VDD_SOC" in reader.sources()


def test_an_agx_orins_whole_is_three_rails_and_leaves_out_what_they_contain(tmp_path: Path) -> None:
    reader = open_power(unpack("agx_orin", tmp_path))
    read = reader.sample()
    expected = {"VDD_GPU_SOC": 18.0, "VDD_CPU_CV": 8.0, "VIN_SYS_5V0": 6.0, "VDDQ_VDD2_1V8AO": 1.5}
    assert read.power_w == pytest.approx(expected)
    assert sum(read.power_w[rail] for rail in reader.total_rails) == pytest.approx(32.0)
    assert (read.throttled, read.throttled_by) == (True, ("gpu-throttle-alert",))
    assert read.clock_mhz["gpu"] == 918.0


def test_an_over_current_event_throttles_the_sample_after_it_and_no_other(tmp_path: Path) -> None:
    reader = open_power(unpack("orin_nano", tmp_path))
    assert reader.sample().throttled is False
    (tmp_path / "sys/class/hwmon/hwmon3/oc3_event_cnt").write_text("5\n")
    assert reader.sample().throttled_by == ("oc3",)
    assert reader.sample().throttled is False


def test_the_older_layout_of_iio_is_read_in_milliwatts(tmp_path: Path) -> None:
    folder = "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    for channel, (rail, milliwatts) in enumerate((("POM_5V_IN", 4200), ("POM_5V_GPU", 900), ("POM_5V_CPU", 1100))):
        write(tmp_path, f"{folder}/rail_name_{channel}", rail + "\n")
        write(tmp_path, f"{folder}/in_power{channel}_input", f"{milliwatts}\n")
    reader = open_power(tmp_path)
    assert reader.sample().power_w == pytest.approx({"POM_5V_IN": 4.2, "POM_5V_GPU": 0.9, "POM_5V_CPU": 1.1})
    assert reader.total_rails == ("POM_5V_IN",)


def test_rails_of_an_unknown_board_have_no_total(tmp_path: Path) -> None:
    for file, text in (("name", "ina3221"), ("in1_label", "RAIL_A"), ("in1_input", "5000"), ("curr1_input", "100")):
        write(tmp_path, f"sys/class/hwmon/hwmon0/{file}", text)
    reader = open_power(tmp_path)
    assert reader.sample().power_w == pytest.approx({"RAIL_A": 0.5})
    assert reader.total_rails == ()
    assert any(text.startswith("total power: it is not known which of RAIL_A") for text in reader.missing())


def test_rapl_gives_mean_power_across_a_restart_of_its_counter(tmp_path: Path) -> None:
    add_rapl(tmp_path, 900_000)
    reader = open_power(tmp_path)
    first = reader.sample()
    add_rapl(tmp_path, 200_000)
    second = reader.sample()
    assert second.energy_j == pytest.approx({"package-0": 0.3, "package-0 core": 0.3, "package-0 dram": 0.3})
    assert second.power_w["package-0"] == pytest.approx(0.3 / (second.t_s - first.t_s))
    assert reader.total_rails == ("package-0", "package-0 dram")


def test_rapl_for_root_only_is_named_as_missing(tmp_path: Path) -> None:
    write(tmp_path, "sys/class/powercap/intel-rapl:0/name", "package-0")
    (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").mkdir()
    assert "CPU power: RAPL's counters are readable by root only" in open_power(tmp_path).missing()


@given(st.integers(1, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_counter_gives_the_energy_that_went_in(range_uj: int, start: int, added: int) -> None:
    start, added = start % range_uj, added % range_uj
    counter = EnergyCounter("package-0", Path("energy_uj"), range_uj)
    assert counter.joules_between(start, (start + added) % range_uj) == pytest.approx(added * 1e-6)


def test_nvidia_smi_gives_what_it_knows_and_leaves_out_what_it_does_not(tmp_path: Path) -> None:
    add_nvidia_smi(
        tmp_path, "echo '0, 41, 71.25, 1980, 2619, 0x0000000000000004'; echo '1, 38, [N/A], 345, 405, [N/A]'"
    )
    reader = open_power(tmp_path)
    read = reader.sample()
    assert read.temperature_c == {"gpu0": 41.0, "gpu1": 38.0}
    assert read.power_w == {"gpu0 board": 71.25}
    assert read.clock_mhz == {"gpu0 sm": 1980.0, "gpu0 memory": 2619.0, "gpu1 sm": 345.0, "gpu1 memory": 405.0}
    assert (read.throttled, read.throttled_by) == (True, ("gpu0 power cap",))
    assert reader.total_rails == ("gpu0 board",)


@pytest.mark.parametrize("script", ["echo 'NVIDIA-SMI has failed'; exit 9", "exec sleep 5", "echo 'nonsense, 3'"])
def test_an_nvidia_smi_that_fails_is_named_and_does_not_stop_the_run(
    tmp_path: Path, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dphr_infer.measure.nvidia_smi.LIMIT_S", 0.2)
    program = add_nvidia_smi(tmp_path, script)
    reader = open_power(tmp_path)
    assert reader.sample().power_w == {}
    assert f"GPU: {program} gave no figures" in reader.missing()


def test_nvidia_smis_error_is_no_answer(tmp_path: Path) -> None:
    assert ask_nvidia_smi(add_nvidia_smi(tmp_path, "echo text; exit 3"), []) == ""
    assert ask_nvidia_smi(add_nvidia_smi(tmp_path, "echo $1"), ["-q"]) == "-q\n"


@pytest.mark.parametrize(
    ("text", "reasons"),
    [
        ("0x0000000000000000", ()),
        ("0x0000000000000001", ()),
        ("0x0000000000000060", ("heat (software)", "heat (hardware)")),
        ("[N/A]", None),
    ],
)
def test_idling_is_no_slowdown_and_heat_is(text: str, reasons: tuple[str, ...] | None) -> None:
    assert slowdown_reasons(text) == reasons


def test_an_empty_tree_gives_empty_samples_and_says_what_is_missing(tmp_path: Path) -> None:
    reader = open_power(tmp_path)
    read = reader.sample()
    assert (read.temperature_c, read.clock_mhz, read.power_w, read.throttled) == ({}, {}, {}, None)
    assert [text.partition(":")[0] for text in reader.missing()] == ["temperatures", "clocks", "power", "throttling"]
    assert reader.sources() == ()


def test_two_sensors_of_one_name_and_a_repeated_zone_are_told_apart(tmp_path: Path) -> None:
    for zone in (0, 1):
        write(tmp_path, f"sys/class/thermal/thermal_zone{zone}/type", "acpitz")
        write(tmp_path, f"sys/class/thermal/thermal_zone{zone}/temp", f"{30 + zone}000")
    write(tmp_path, "sys/class/hwmon/hwmon0/name", "acpitz")
    write(tmp_path, "sys/class/hwmon/hwmon0/temp1_input", "99000")
    write(tmp_path, "sys/class/hwmon/hwmon1/name", "coretemp")
    write(tmp_path, "sys/class/hwmon/hwmon1/temp1_input", "55000")
    write(tmp_path, "sys/class/hwmon/hwmon1/temp1_label", "Package id 0")
    read = open_power(tmp_path).sample()
    assert read.temperature_c == {"acpitz": 30.0, "acpitz #2": 31.0, "coretemp Package id 0": 55.0}


def test_energy_is_the_area_under_the_power() -> None:
    timeline = [sample(0.0, 10.0), sample(1.0, 20.0), sample(3.0, 20.0)]
    assert rail_energy_j(timeline, "VDD_IN", 0.0, 3.0) == pytest.approx(15.0 + 40.0)
    assert rail_energy_j(timeline, "VDD_IN", 0.5, 2.0) == pytest.approx(8.75 + 20.0)
    assert rail_energy_j(timeline, "VDD_IN", 1.5, 1.5) == 0.0


def test_energy_outside_the_recording_is_unknown() -> None:
    timeline = [sample(1.0, 10.0), sample(2.0, 10.0)]
    assert rail_energy_j(timeline, "VDD_IN", 0.9, 1.5) is None
    assert rail_energy_j(timeline, "VDD_IN", 1.5, 2.1) is None
    assert rail_energy_j(timeline[:1], "VDD_IN", 1.0, 1.0) is None
    assert rail_energy_j(timeline, "VDD_SOC", 1.0, 2.0) is None
    assert total_energy_j(timeline, ("VDD_IN", "VDD_SOC"), 1.0, 2.0) is None
    assert total_energy_j(timeline, (), 1.0, 2.0) is None


def test_a_rail_with_a_counter_is_not_integrated() -> None:
    timeline = [
        PowerSample(0.0, {}, {}, {"package-0": 99.0}, None, (), {"package-0": 0.0}),
        PowerSample(2.0, {}, {}, {"package-0": 99.0}, None, (), {"package-0": 8.0}),
    ]
    assert rail_energy_j(timeline, "package-0", 0.0, 1.0) == pytest.approx(4.0)


@given(st.lists(st.floats(0, 100), min_size=3, max_size=20), st.floats(0.1, 0.9))
def test_energy_of_two_halves_is_the_energy_of_the_whole(watts: list[float], cut: float) -> None:
    timeline = [sample(float(second), value) for second, value in enumerate(watts)]
    end = float(len(watts) - 1)
    parts = [rail_energy_j(timeline, "VDD_IN", a, b) for a, b in ((0.0, cut * end), (cut * end, end), (0.0, end))]
    assert parts[0] is not None and parts[1] is not None
    assert parts[0] + parts[1] == pytest.approx(parts[2], abs=1e-9)


def test_energy_per_frame_is_in_millijoules_and_unknown_without_energy() -> None:
    assert energy_per_frame_mj(9.0, 60) == pytest.approx(150.0)
    assert energy_per_frame_mj(None, 60) is None
    assert energy_per_frame_mj(9.0, 0) is None


def test_the_recorder_samples_while_the_work_runs_and_measures_its_energy(tmp_path: Path) -> None:
    reader = open_power(unpack("orin_nano", tmp_path))
    with Recorder(reader, period_s=0.01) as recorder:
        start_s = now_s()
        time.sleep(0.1)
        stop_s = now_s()
        early = recorder.energy_j(start_s, stop_s)
    assert len(recorder.timeline) >= 4
    times = [entry.t_s for entry in recorder.timeline]
    assert times == sorted(times) and times[0] <= start_s and times[-1] >= stop_s
    assert recorder.energy_j(start_s, stop_s) == pytest.approx(9.0 * (stop_s - start_s))
    assert early == pytest.approx(recorder.energy_j(start_s, stop_s))


def test_a_failure_in_the_recorders_thread_reaches_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = open_power(tmp_path)
    read = PowerReader.sample

    def failing(self: PowerReader) -> PowerSample:
        if threading.current_thread().name == "power recorder":
            raise ZeroDivisionError
        return read(self)

    monkeypatch.setattr(PowerReader, "sample", failing)
    with pytest.raises(ZeroDivisionError), Recorder(reader, period_s=0.001):
        time.sleep(0.05)
