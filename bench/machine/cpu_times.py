"""How much of the cores is used by others than this process: other programs, or the other guests of a host."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.machine.sensors import read_text

WATCH_S = 0.25


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


def _affinity() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def read_cpu_times(root: Path = Path("/")) -> CpuTimes | None:
    """The times of this moment, of the cores that this process may use; None where /proc/stat has none.

    To a hundredth of a second. Of all cores where it does not tell them apart.
    """
    text = read_text(root / "proc/stat")
    cores = {int(number): times for number, times in re.findall(r"^cpu(\d+)((?: +\d+){8})", text, re.MULTILINE)}
    mine = [times for number, times in cores.items() if number in _affinity()]
    if not mine and not (mine := re.findall(r"^cpu((?: +\d+){8})", text)):
        return None
    summed = np.sum([[int(part) for part in times.split()] for times in mine], axis=0)
    user, nice, system, _idle, _iowait, interrupt, soft, stolen = summed
    used, tick_s = user + nice + system + interrupt + soft, 1 / os.sysconf("SC_CLK_TCK")
    return CpuTimes(time.perf_counter(), float(used) * tick_s, float(stolen) * tick_s, time.process_time())


def others_cores(root: Path) -> float | None:
    """Cores that others use now, watched for WATCH_S; None where that is not told."""
    if (before := read_cpu_times(root)) is None:
        return None
    time.sleep(WATCH_S)
    after = read_cpu_times(root)
    return None if after is None else round(before.others_cores(after), 2)
