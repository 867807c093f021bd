"""What a figure was measured on. Whatever cannot be read is stated as unknown, and what is absent as absent."""

from __future__ import annotations

import json
import os
import platform
import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from bench.machine.cpu_times import others_cores
from bench.machine.power import open_power
from bench.machine.sensors import ask_nvidia_smi, find_clocks, find_nvidia_smi, read_integer, read_text
from dphr_infer.engines.onnxruntime import onnxruntime_version
from dphr_infer.errors import MissingPackageError
from dphr_infer.matchers.block_scan import usable_cores

UNKNOWN = "unknown"
ABSENT = "not installed"
NONE = "none"
BUSY_SHARE = 0.25
_CPU = "sys/devices/system/cpu/cpu0"
# Arm prints "ARMv8 Processor" for each of its cores; the part number of /proc/cpuinfo names the core.
_ARM_CORES = {"0xd42": "Arm Cortex-A78AE", "0xd07": "Arm Cortex-A57", "0xd4f": "Arm Neoverse V2", "0x004": "Carmel"}
_JETPACK_OF_L4T = {"32": "4", "34": "5", "35": "5", "36": "6", "38": "7", "39": "7"}
_TENSORRT = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")
_TENSORRT_RTX = ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12")
_CUDA_RUNTIME = ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu13", "nvidia-cuda-runtime-cu12")


@dataclass(frozen=True, slots=True)
class MachineProfile:
    """The machine as this process sees it.

    Attributes:
        board: name in the device tree (a Jetson states its model there), or of the DMI.
        cores: that this process may use.
        last_level_cache_bytes: of one cache of the last level; 0 where unknown.
        power: frequency governor and, on a Jetson, the mode of nvpmodel.
        load: load average of the last minute when the run began.
        caches: of the first core, each level.
        clocks: of CPU and GPU when the run began, with the range that they may take.
        l4t, jetpack: releases of a Jetson; "none" elsewhere.
        power_mode: of nvpmodel, name and number; "none" elsewhere.
        gpu: names; "none" without one.
        driver: of NVIDIA.
        cuda: of the toolkit, of the Python packages, and the newest that the driver serves.
        tensorrt: of the Python package, of the library, and of TensorRT-RTX.
        on_battery: None where no power supply is listed, as on a Jetson and on most servers.
        throttled: whether something slowed it down when the run began; None where unknown.
        throttled_by: what did.
        hypervisor: what tells that the machine is a virtual one, whose host may serve others too; "none" where nothing
            does.
        others_cores: cores that other programs, or other guests of the host, used for a moment before the run; None
            where unknown. Unlike the load it leaves out this process, and forgets a run that has just ended.
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
    caches: str = UNKNOWN
    clocks: str = UNKNOWN
    l4t: str = NONE
    jetpack: str = NONE
    power_mode: str = NONE
    gpu: str = NONE
    driver: str = ABSENT
    cuda: str = ABSENT
    tensorrt: str = ABSENT
    on_battery: bool | None = None
    throttled: bool | None = None
    throttled_by: tuple[str, ...] = ()
    others_cores: float | None = None
    hypervisor: str = UNKNOWN

    def warnings(self) -> tuple[str, ...]:
        """What makes this machine slower than it can be, one sentence each; empty where nothing is known to."""
        found = []
        if self.on_battery:
            found.append("The machine runs on battery: its clocks may be lower than on mains.")
        if self.throttled:
            found.append(f"The machine was throttled when the run began, by {', '.join(self.throttled_by)}.")
        if self.others_cores is not None and self.others_cores > BUSY_SHARE * self.cores:
            found.append(
                f"Other programs used {self.others_cores:.1f} of {self.cores} cores when the run began: durations are "
                "longer than on an idle machine."
            )
        if self.power.startswith("powersave") and "pstate" not in self.power:
            found.append("The frequency governor is powersave, which may hold the clocks at their lowest.")
        return tuple(found)


def _cpu_name(info: str) -> str:
    part = re.search(r"^CPU part\s*:\s*(\S+)$", info, re.MULTILINE)
    if part and part.group(1) in _ARM_CORES:
        return _ARM_CORES[part.group(1)]
    found = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", info, re.MULTILINE)
    return found.group(1).strip() if found else platform.machine() or UNKNOWN


def memory_bytes(info: str, field: str) -> int:
    """A field of the text of /proc/meminfo in bytes; 0 where it is missing."""
    found = re.search(rf"^{field}:\s*(\d+) kB$", info, re.MULTILINE)
    return 1024 * int(found.group(1)) if found else 0


def available_memory_bytes() -> int:
    """Memory that a new process could take; 0 where unknown."""
    return memory_bytes(read_text(Path("/proc/meminfo")), "MemAvailable")


def _caches(root: Path) -> list[tuple[str, int]]:
    """(level such as "L1d", bytes) of the first core, in the kernel's order."""
    found = []
    for folder in sorted((root / _CPU).glob("cache/index*")):
        size = re.fullmatch(r"(\d+)([KMG]?)", read_text(folder / "size"))
        kind = {"Data": "d", "Instruction": "i"}.get(read_text(folder / "type"), "")
        if size:
            count = int(size.group(1)) << {"": 0, "K": 10, "M": 20, "G": 30}[size.group(2)]
            found.append((f"L{read_text(folder / 'level')}{kind}", count))
    return found


def power_mode(root: Path) -> str:
    """Mode of nvpmodel such as "MAXN_SUPER (2)"; "none" where there is no nvpmodel."""
    status = read_text(root / "var/lib/nvpmodel/status")
    number = re.search(r"pmode:0*(\d+)", status)
    if number is None:
        return status or NONE
    names = dict(re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", read_text(root / "etc/nvpmodel.conf")))
    return f"{names.get(number.group(1), UNKNOWN)} ({number.group(1)})"


def _power(root: Path, mode: str) -> str:
    governor, driver = (read_text(root / _CPU / f"cpufreq/scaling_{name}") for name in ("governor", "driver"))
    # Under intel_pstate and amd-pstate "powersave" is the normal governor and scales up with load.
    cpu = f"{governor} ({driver})" if governor and driver else governor
    parts = [cpu, "" if mode == NONE else f"nvpmodel {mode}"]
    return ", ".join(part for part in parts if part) or UNKNOWN


def _clocks(root: Path) -> str:
    texts = []
    for gauge in find_clocks(root):
        folder, now = gauge.paths[0].parent, gauge.read()
        prefix = "scaling_" if gauge.source == "cpufreq" else ""
        low, high = (read_integer(folder / f"{prefix}{end}_freq") for end in ("min", "max"))
        if now is not None:
            span = f" of {low * gauge.scale:.0f}-{high * gauge.scale:.0f}" if low is not None and high else ""
            texts.append(f"{gauge.name} {now:.0f}{span} MHz")
    return "; ".join(texts) or UNKNOWN


def _l4t(root: Path) -> tuple[str, str]:
    """(L4T such as "36.4.3", JetPack): JetPack from the package list, else its major version by that of L4T."""
    found = re.search(r"# R(\d+) \(release\), REVISION: ([\d.]+)", read_text(root / "etc/nv_tegra_release"))
    if found is None:
        return NONE, NONE
    packages = read_text(root / "var/lib/dpkg/status")
    listed = re.search(r"^Package: nvidia-jetpack\n(?:\S.*\n| .*\n)*?Version: (\S+)$", packages, re.MULTILINE)
    major = _JETPACK_OF_L4T.get(found.group(1))
    return f"{found.group(1)}.{found.group(2)}", listed.group(1) if listed else f"{major}.x" if major else UNKNOWN


def _package(names: tuple[str, ...]) -> str:
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return ""


def _gpu(root: Path) -> tuple[str, str, str]:
    """(names, driver, newest CUDA that the driver serves); the last is empty where unknown."""
    version = read_text(root / "proc/driver/nvidia/version")
    found = re.search(r"NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s", version)
    driver = found.group(1) if found else ""
    names = []
    for path in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        if model := re.search(r"^Model:\s*(.+)$", read_text(path), re.MULTILINE):
            names.append(model.group(1).strip())
    answer = ask_nvidia_smi(program, ["-q"]) if (program := find_nvidia_smi(root)) else ""
    fields = dict(re.findall(r"^\s*(Driver Version|CUDA Version)\s*:\s*(\S+)$", answer, re.MULTILINE))
    if not names:
        names = [name.strip() for name in re.findall(r"^\s*Product Name\s*:\s*(.+)$", answer, re.MULTILINE)]
    if not names and any(gauge.name == "gpu" for gauge in find_clocks(root)):
        chip = re.search(r"nvidia,(tegra\d+)", read_text(root / "proc/device-tree/compatible"))
        names = [f"integrated, {chip.group(1)}" if chip else "integrated"]
    return (
        ", ".join(names) or NONE,
        driver or fields.get("Driver Version", "") or ABSENT,
        fields.get("CUDA Version", ""),
    )


def find_hypervisor(root: Path) -> str:
    """What tells that this is a virtual machine: a flag of the CPU, the device tree or Xen; "none" where nothing does.

    A virtual machine on Arm without a device tree that says so is not seen.
    """
    if re.search(r"^flags\s*:.*\bhypervisor\b", read_text(root / "proc/cpuinfo"), re.MULTILINE):
        return "flag of the CPU"
    if (root / "proc/device-tree/hypervisor").is_dir():
        return read_text(root / "proc/device-tree/hypervisor/compatible").rstrip("\0") or "device tree"
    return read_text(root / "sys/hypervisor/type") or NONE


def _cuda(root: Path, driver_serves: str) -> str:
    try:
        toolkit = str(json.loads(read_text(root / "usr/local/cuda/version.json"))["cuda"]["version"])
    except (ValueError, KeyError, TypeError):
        toolkit = ""
    parts = (("toolkit", toolkit), ("Python package", _package(_CUDA_RUNTIME)), ("driver up to", driver_serves))
    return ", ".join(f"{name} {version}" for name, version in parts if version) or ABSENT


def _tensorrt(root: Path) -> str:
    names = sorted(path.name for path in (root / "usr/lib").glob("*-linux-gnu/libnvinfer.so.*.*"))
    parts = (
        ("", _package(_TENSORRT)),
        ("library ", names[-1].removeprefix("libnvinfer.so.") if names else ""),
        ("RTX ", _package(_TENSORRT_RTX)),
    )
    return ", ".join(f"{name}{version}" for name, version in parts if version) or ABSENT


def _onnxruntime() -> str:
    try:
        return onnxruntime_version()[0]
    except MissingPackageError:
        return ABSENT


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


def read_machine(root: Path = Path("/")) -> MachineProfile:
    """Profile the machine whose file tree lies below `root`; Python and its packages are those of this process.

    Takes a quarter of a second longer than its reading, to see what other programs use.
    """
    info, caches, mode = read_text(root / "proc/cpuinfo"), _caches(root), power_mode(root)
    board = read_text(root / "proc/device-tree/model") or read_text(root / "sys/class/dmi/id/product_name")
    l4t, jetpack = _l4t(root)
    gpu, driver, driver_serves = _gpu(root)
    sample = open_power(root).sample()
    return MachineProfile(
        cpu=_cpu_name(info),
        board=board or UNKNOWN,
        cores=usable_cores(),
        memory_bytes=memory_bytes(read_text(root / "proc/meminfo"), "MemTotal"),
        last_level_cache_bytes=max((size for level, size in caches if not level.endswith("i")), default=0),
        power=_power(root, mode),
        load=round(os.getloadavg()[0], 2),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        numpy=np.__version__,
        onnxruntime=_onnxruntime(),
        caches=", ".join(f"{level} {size >> 10} KiB" for level, size in caches) or UNKNOWN,
        clocks=_clocks(root),
        l4t=l4t,
        jetpack=jetpack,
        power_mode=mode,
        gpu=gpu,
        driver=driver,
        cuda=_cuda(root, driver_serves),
        tensorrt=_tensorrt(root),
        on_battery=on_battery(root),
        throttled=sample.throttled,
        throttled_by=sample.throttled_by,
        others_cores=others_cores(root),
        hypervisor=find_hypervisor(root),
    )
