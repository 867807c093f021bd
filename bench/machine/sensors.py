"""Where temperatures, clocks, power and throttling are read: files of the kernel, and nvidia-smi.

Every finder takes the root of a file tree, so that a tree written for a test is read like a real machine. A gauge that
the kernel refuses (a powered-down unit, a file for root only) gives None: nothing is guessed.

Sources of the names: the kernel's hwmon, thermal, cpufreq, devfreq and powercap documentation, its ina3221 page, and
the power chapter of the Jetson Linux developer guide (rails, throttle alerts, over-current counters).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from dphr_infer.measure.machine import read_text
from dphr_infer.measure.nvidia_smi import ask_nvidia_smi

# GPUs of Jetsons in the device tree: JetPack 6 calls each "gpu", JetPack 5 by its chip.
_TEGRA_GPUS = ("gpu", "ga10b", "gv11b", "gp10b", "gm20b")
_SLOWING = re.compile(r"throttle|-alert|cpufreq|devfreq|^processor$|powerclamp", re.IGNORECASE)


def read_integer(path: Path) -> int | None:
    """The integer that a file holds; None where it cannot be read or holds something else."""
    text = read_text(path)
    return int(text) if re.fullmatch(r"-?\d+", text) else None


@dataclass(frozen=True, slots=True)
class Gauge:
    """One quantity: the product of the integers in `paths`, times `scale`.

    Attributes:
        source: what measures it, in words.
    """

    name: str
    source: str
    paths: tuple[Path, ...]
    scale: float

    def read(self) -> float | None:
        """The value now; None where the kernel gives none."""
        value = self.scale
        for path in self.paths:
            part = read_integer(path)
            if part is None:
                return None
            value *= part
        return value


@dataclass(frozen=True, slots=True)
class EnergyCounter:
    """A RAPL domain, whose counter of microjoules starts again at `range_uj`."""

    name: str
    path: Path
    range_uj: int

    def joules_between(self, earlier_uj: int, later_uj: int) -> float:
        """Energy between two readings with at most one restart in between."""
        return ((later_uj - earlier_uj) if later_uj >= earlier_uj else later_uj + self.range_uj - earlier_uj) * 1e-6


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One line of nvidia-smi; None where the GPU does not report it.

    Attributes:
        index: of the GPU in nvidia-smi.
        slowdown: reasons in words; empty where it runs free.
    """

    index: int
    temperature_c: float | None
    power_w: float | None
    sm_clock_mhz: float | None
    memory_clock_mhz: float | None
    slowdown: tuple[str, ...] | None


def _numbered(folder: Path, pattern: str) -> list[Path]:
    """Children in the order of the number at their end: hwmon2 before hwmon10."""
    found = ((re.search(r"(\d+)$", path.name), path) for path in folder.glob(pattern))
    return [path for _, path in sorted((int(match.group(1)), path) for match, path in found if match)]


def _unique(gauges: Iterable[Gauge]) -> list[Gauge]:
    """The gauges, the second of one name as "name #2"."""
    seen: Counter[str] = Counter()
    named = []
    for gauge in gauges:
        seen[gauge.name] += 1
        named.append(replace(gauge, name=f"{gauge.name} #{seen[gauge.name]}") if seen[gauge.name] > 1 else gauge)
    return named


def find_temperatures(root: Path) -> list[Gauge]:
    """Thermal zones and hwmon's sensors in degrees Celsius; a zone that hwmon repeats is listed once."""
    zones = _numbered(root / "sys/class/thermal", "thermal_zone*")
    gauges = [Gauge(read_text(zone / "type") or zone.name, "thermal zones", (zone / "temp",), 1e-3) for zone in zones]
    repeated = {re.sub(r"\W", "_", gauge.name) for gauge in gauges}
    for chip in _numbered(root / "sys/class/hwmon", "hwmon*"):
        name = read_text(chip / "name") or chip.name
        if name in repeated:
            continue
        for path in sorted(chip.glob("temp*_input")):
            label = read_text(path.with_name(path.name.replace("_input", "_label")))
            gauges.append(Gauge(f"{name} {label or path.name.removesuffix('_input')}", "hwmon", (path,), 1e-3))
    return _unique(gauges)


def find_clocks(root: Path) -> list[Gauge]:
    """Clocks of the CPU's policies and of devfreq's devices in MHz."""
    policies = _numbered(root / "sys/devices/system/cpu/cpufreq", "policy*")
    gauges = [
        Gauge(f"cpu{path.name.removeprefix('policy')}", "cpufreq", (path / "scaling_cur_freq",), 1e-3)
        for path in policies
    ]
    for path in sorted((root / "sys/class/devfreq").glob("*")):
        unit = path.name.rpartition(".")[2]
        gauges.append(Gauge("gpu" if unit in _TEGRA_GPUS else path.name, "devfreq", (path / "cur_freq",), 1e-6))
    emc = root / "sys/kernel/debug/bpmp/debug/clk/emc/rate"
    if read_integer(emc) is not None:
        gauges.append(Gauge("emc", "the power processor's clock table", (emc,), 1e-6))
    return _unique(gauges)


def find_rails(root: Path) -> list[Gauge]:
    """Named rails of the INA3221 monitors in watts, in hwmon's layout or in the older one of iio."""
    gauges = []
    for chip in _numbered(root / "sys/class/hwmon", "hwmon*"):
        if read_text(chip / "name") != "ina3221":
            continue
        for channel in (1, 2, 3):
            label = read_text(chip / f"in{channel}_label")
            if label not in ("", "NC") and read_text(chip / f"in{channel}_enable") != "0":
                # Millivolts times milliamperes are microwatts.
                paths = (chip / f"in{channel}_input", chip / f"curr{channel}_input")
                gauges.append(Gauge(label, "INA3221 (hwmon)", paths, 1e-6))
    for device in sorted((root / "sys/bus/i2c/drivers/ina3221x").glob("*-*/iio[:_]device*")):
        for channel in (0, 1, 2):
            label = read_text(device / f"rail_name_{channel}")
            if label not in ("", "NC"):
                gauges.append(Gauge(label, "INA3221 (iio)", (device / f"in_power{channel}_input",), 1e-3))
    return _unique(gauges)


def find_energy_counters(root: Path) -> list[EnergyCounter]:
    """RAPL domains whose counter this user may read: "package-0", "package-0 dram" and the like."""
    counters = []
    for path in sorted((root / "sys/class/powercap").glob("intel-rapl:*")):
        name = read_text(path / "name")
        parent = root / "sys/class/powercap" / path.name.rpartition(":")[0]
        if path.name.count(":") > 1:
            name = f"{read_text(parent / 'name')} {name}"
        limit = read_integer(path / "max_energy_range_uj")
        if read_integer(path / "energy_uj") is not None and limit:
            counters.append(EnergyCounter(name, path / "energy_uj", limit))
    return counters


def unreadable_energy_counters(root: Path) -> bool:
    """Whether RAPL is there, and only root may read it."""
    paths = list((root / "sys/class/powercap").glob("intel-rapl:*/energy_uj"))
    return bool(paths) and all(read_integer(path) is None for path in paths)


def find_cooling(root: Path) -> list[tuple[str, Path]]:
    """(name, file of its state) of what slows a unit down when it is hot; a state above 0 is active. Fans are not."""
    devices = ((read_text(path / "type"), path) for path in _numbered(root / "sys/class/thermal", "cooling_device*"))
    return [(name, path / "cur_state") for name, path in devices if _SLOWING.search(name)]


def find_throttle_counters(root: Path) -> list[tuple[str, Path]]:
    """(name, file) of counters that rise with each throttling: over-current on a Jetson, heat on an x86 core."""
    found = []
    for chip in _numbered(root / "sys/class/hwmon", "hwmon*"):
        if read_text(chip / "name") == "soctherm_oc":
            found += [(path.name.partition("_")[0], path) for path in sorted(chip.glob("oc*_event_cnt"))]
    for cpu in _numbered(root / "sys/devices/system/cpu", "cpu[0-9]*"):
        for part in ("core", "package"):
            path = cpu / f"thermal_throttle/{part}_throttle_count"
            if path.exists():
                found.append((f"{cpu.name} {part} heat", path))
    return found


# Bits of NVML's clocks event reasons that mean slower than asked for; idle (1) and clocks set by the user (2) do not.
_SLOWDOWN_BITS = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "heat (software)",
    0x40: "heat (hardware)",
    0x80: "power brake",
}
_SMI_FIELDS = (
    "index",
    "temperature.gpu",
    "power.draw",
    "clocks.sm",
    "clocks.mem",
    "clocks_throttle_reasons.active",
)


def _number(text: str) -> float | None:
    """A figure of nvidia-smi; None for "[N/A]" and its kin."""
    try:
        return float(text)
    except ValueError:
        return None


def slowdown_reasons(text: str) -> tuple[str, ...] | None:
    """Words for a bit mask such as "0x0000000000000004"; None where it is no mask."""
    if not re.fullmatch(r"0x[0-9a-fA-F]+", text):
        return None
    mask = int(text, 16)
    return tuple(words for bit, words in _SLOWDOWN_BITS.items() if mask & bit)


def read_gpus(program: Path) -> list[GpuReading]:
    """Temperature, power, clocks and slowdown of each GPU; a line that is not understood is left out."""
    text = ask_nvidia_smi(program, [f"--query-gpu={','.join(_SMI_FIELDS)}", "--format=csv,noheader,nounits"])
    readings = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == len(_SMI_FIELDS) and cells[0].isdigit():
            temperature, power, sm, memory = (_number(cell) for cell in cells[1:5])
            readings.append(GpuReading(int(cells[0]), temperature, power, sm, memory, slowdown_reasons(cells[5])))
    return readings
