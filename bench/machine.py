"""What a figure was measured on. Whatever cannot be read is stated as unknown."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dphr_infer.engines.onnxrt import onnxruntime_version
from dphr_infer.matchers.block_scan import usable_cores

UNKNOWN = "unknown"
_CPU = Path("/sys/devices/system/cpu/cpu0")


@dataclass(frozen=True, slots=True)
class MachineProfile:
    """The machine as this process sees it.

    Attributes:
        board: name in the device tree (a Jetson states its model there), or of the DMI.
        cores: that this process may use.
        last_level_cache_bytes: of one cache of the last level; 0 where unknown.
        power: frequency governor and, on a Jetson, the mode of nvpmodel.
        load: load average of the last minute when the run began; above 0.5 a core, others were measured too.
    """

    cpu: str
    board: str
    cores: int
    memory_bytes: int
    last_level_cache_bytes: int
    power: str
    load: float
    system: str
    python: str
    numpy: str
    onnxruntime: str


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:
        return ""


def _cpu_name(info: str) -> str:
    found = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", info, re.MULTILINE)
    return found.group(1).strip() if found else platform.machine() or UNKNOWN


def memory_bytes(info: str, field: str) -> int:
    """A field of the text of /proc/meminfo in bytes; 0 where it is missing."""
    found = re.search(rf"^{field}:\s*(\d+) kB$", info, re.MULTILINE)
    return 1024 * int(found.group(1)) if found else 0


def available_memory_bytes() -> int:
    """Memory that a new process could take; 0 where unknown."""
    return memory_bytes(_read(Path("/proc/meminfo")), "MemAvailable")


def _cache_bytes() -> int:
    largest = 0
    for folder in _CPU.glob("cache/index*"):
        found = re.fullmatch(r"(\d+)([KMG]?)", _read(folder / "size"))
        if found and _read(folder / "type") != "Instruction":
            largest = max(largest, int(found.group(1)) << {"": 0, "K": 10, "M": 20, "G": 30}[found.group(2)])
    return largest


def _power() -> str:
    parts = [_read(_CPU / "cpufreq/scaling_governor"), _read(Path("/var/lib/nvpmodel/status"))]
    return ", ".join(part for part in parts if part) or UNKNOWN


def read_machine() -> MachineProfile:
    """Profile this machine.

    Raises:
        MissingPackageError: ONNX Runtime is not installed.
    """
    board = _read(Path("/proc/device-tree/model")) or _read(Path("/sys/class/dmi/id/product_name"))
    return MachineProfile(
        cpu=_cpu_name(_read(Path("/proc/cpuinfo"))),
        board=board or UNKNOWN,
        cores=usable_cores(),
        memory_bytes=memory_bytes(_read(Path("/proc/meminfo")), "MemTotal"),
        last_level_cache_bytes=_cache_bytes(),
        power=_power(),
        load=round(os.getloadavg()[0], 2),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        numpy=np.__version__,
        onnxruntime=onnxruntime_version()[0],
    )
