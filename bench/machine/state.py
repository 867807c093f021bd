"""What a machine is busy with as a run begins: load, clocks, throttling, power supply, and other programs on its cores.

What cannot be read is None or an empty text. What does not change is `dphr_infer.measure.machine.Machine`.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.machine.power import open_power
from bench.machine.sensors import find_clocks, read_integer
from dphr_infer.measure.clock import now_s
from dphr_infer.measure.machine import Machine, read_text

WATCH_S = 0.25
BUSY_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class MachineState:
    """The machine as a run begins.

    Attributes:
        load: load average of the last minute.
        clocks: of CPU and GPU, with the range that they may take.
        on_battery: None where no power supply is listed, as on a Jetson and on most servers.
        throttled: whether something slows it down; None where unknown.
        throttled_by: what does.
        others_cores: cores that other programs, or other guests of the host, used for a moment; None where unknown.
            Unlike the load it leaves out this process, and forgets a run that has just ended.
    """

    load: float
    clocks: str
    on_battery: bool | None
    throttled: bool | None
    throttled_by: tuple[str, ...]
    others_cores: float | None

    def warnings(self, machine: Machine) -> tuple[str, ...]:
        """What makes the machine slower than it can be, one sentence each; empty where nothing is known to."""
        found = []
        if self.on_battery:
            found.append("The machine runs on battery: its clocks may be lower than on mains.")
        if self.throttled:
            found.append(f"The machine was throttled when the run began, by {', '.join(self.throttled_by)}.")
        if self.others_cores is not None and self.others_cores > BUSY_SHARE * machine.cores:
            found.append(
                f"Other programs used {self.others_cores:.1f} of {machine.cores} cores when the run began: durations "
                "are longer than on an idle machine."
            )
        # Under intel_pstate and amd-pstate "powersave" is the normal governor and scales up with load.
        if machine.governor.startswith("powersave") and "pstate" not in machine.governor:
            found.append("The frequency governor is powersave, which may hold the clocks at their lowest.")
        return tuple(found)


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Seconds of core time since the machine began: of all programs, stolen by the host, and of this process."""

    at_s: float
    used_s: float
    stolen_s: float
    own_s: float

    def others_cores(self, later: CpuTimes) -> float:
        """Cores that were used by others, or kept from this machine, from this moment to a later one."""
        taken = later.used_s - self.used_s + later.stolen_s - self.stolen_s - (later.own_s - self.own_s)
        return max(0.0, taken / (later.at_s - self.at_s))


def read_cpu_times(root: Path = Path("/")) -> CpuTimes | None:
    """The times of this moment, of the cores that this process may use; None where /proc/stat has none.

    To a hundredth of a second. Of all cores where it does not tell them apart.
    """
    text = read_text(root / "proc/stat")
    own = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    cores = {int(number): times for number, times in re.findall(r"^cpu(\d+)((?: +\d+){8})", text, re.MULTILINE)}
    mine = [times for number, times in cores.items() if number in own]
    if not mine and not (mine := re.findall(r"^cpu((?: +\d+){8})", text)):
        return None
    summed = np.sum([[int(part) for part in times.split()] for times in mine], axis=0)
    user, nice, system, _idle, _iowait, interrupt, soft, stolen = summed
    used, tick_s = user + nice + system + interrupt + soft, 1 / os.sysconf("SC_CLK_TCK")
    return CpuTimes(now_s(), float(used) * tick_s, float(stolen) * tick_s, time.process_time())


def _others_cores(root: Path) -> float | None:
    if (before := read_cpu_times(root)) is None:
        return None
    time.sleep(WATCH_S)
    after = read_cpu_times(root)
    return None if after is None else round(before.others_cores(after), 2)


def _clocks(root: Path) -> str:
    texts = []
    for gauge in find_clocks(root):
        folder, now = gauge.paths[0].parent, gauge.read()
        prefix = "scaling_" if gauge.source == "cpufreq" else ""
        low, high = (read_integer(folder / f"{prefix}{end}_freq") for end in ("min", "max"))
        if now is not None:
            span = f" of {low * gauge.scale:.0f}-{high * gauge.scale:.0f}" if low is not None and high else ""
            texts.append(f"{gauge.name} {now:.0f}{span} MHz")
    return "; ".join(texts)


def on_battery(root: Path) -> bool | None:
    """Whether a battery feeds the machine: it discharges, or the mains are off. None where no supply is listed."""
    mains, batteries = [], []
    for supply in sorted((root / "sys/class/power_supply").glob("*")):
        kind = read_text(supply / "type")
        if kind == "Battery" and read_text(supply / "scope") != "Device":
            batteries.append(read_text(supply / "status"))
        elif kind == "Mains":
            mains.append(read_text(supply / "online"))
    if not batteries:
        return False if "1" in mains else None
    return "Discharging" in batteries or (bool(mains) and "1" not in mains)


def read_state(root: Path = Path("/")) -> MachineState:
    """Look at the machine now; takes a quarter of a second longer than its reading, to see what other programs use."""
    sample = open_power(root).sample()
    return MachineState(
        load=round(os.getloadavg()[0], 2),
        clocks=_clocks(root),
        on_battery=on_battery(root),
        throttled=sample.throttled,
        throttled_by=sample.throttled_by,
        others_cores=_others_cores(root),
    )
