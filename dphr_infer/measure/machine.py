"""Which machine this is: a Jetson with which JetPack, or a PC; processors, and what files say of CUDA and power.

Every reader takes the root of a file tree, so that a tree written for a test is read like a real machine. What cannot
be read is an empty text or 0; Python and its packages are those of this process.

    etc/nv_tegra_release                "# R36 (release), REVISION: 4.3, ..." on every Jetson, and nowhere else
    proc/device-tree/model              name of the board, ends with a zero byte; a PC's is its DMI product name
    proc/device-tree/compatible         the chip among others: nvidia,tegra234 is Orin
    proc/driver/nvidia                  version of NVIDIA's driver and names of its cards; else nvidia-smi has them
    var/lib/dpkg/status                 version of the package nvidia-jetpack, where it is installed
    usr/local/cuda/version.json         version of the CUDA toolkit
    usr/lib/*-linux-gnu/libnvinfer.so.* version of TensorRT's library
    usr/lib/python3*/dist-packages      where JetPack puts TensorRT's Python package
    var/lib/nvpmodel/status             power mode, named in etc/nvpmodel.conf
"""

from __future__ import annotations

import json
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from dphr_infer.measure.memory import kilobytes
from dphr_infer.measure.nvidia_smi import ask_nvidia_smi, find_nvidia_smi

# JetPack by the major number of Jetson Linux. 38 is for Thor alone; Orin goes on with 39 (JetPack 7.2).
JETPACK_OF_L4T = {32: 4, 34: 5, 35: 5, 36: 6, 38: 7, 39: 7}
OLDEST_JETPACK = 6
# Chips whose GPU is older than cuda.build.OLDEST, whatever runs on them, with the boards that carry them.
_OLD_CHIPS = {
    "tegra210": "Jetson Nano and TX1",
    "tegra186": "Jetson TX2",
    "tegra194": "Jetson Xavier",
}
# Arm prints "ARMv8 Processor" for each of its cores; the part number of /proc/cpuinfo names the core.
_ARM_CORES = {"0xd42": "Arm Cortex-A78AE", "0xd07": "Arm Cortex-A57", "0xd4f": "Arm Neoverse V2", "0x004": "Carmel"}
_CPU = "sys/devices/system/cpu/cpu0"
# {package: the distributions that may hold it}; those that are installed are named.
_PACKAGES = {
    "numpy": ("numpy",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt-rtx": ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
    "cuda-runtime": ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu13", "nvidia-cuda-runtime-cu12"),
}


@dataclass(frozen=True, slots=True)
class Machine:
    """What does not change while a program runs; empty where it is not told.

    Attributes:
        board: in the device tree, or the product name of the DMI.
        chip: of a Jetson, e.g. "tegra234".
        l4t: release of Jetson Linux, e.g. "36.4.3"; empty on a PC.
        jetpack: full version where the package is installed, else its major by that of Jetson Linux, e.g. "6".
        cuda: version of the CUDA toolkit in /usr/local/cuda.
        cuda_served: the newest CUDA that the driver serves, by nvidia-smi.
        tensorrt: version of TensorRT's library among the system's.
        tensorrt_python: folder of TensorRT's Python package among the system's.
        power_mode: of nvpmodel, e.g. "MAXN_SUPER (2)".
        governor: of the first core's frequency, with its driver.
        driver: version of NVIDIA's kernel driver.
        gpu: names, separated by commas.
        cores: that this process may use.
        caches: of the first core, each level.
        last_level_cache_bytes: of one cache of the last level.
        hypervisor: what tells that the machine is a virtual one, whose host may serve others too. One on Arm without a
            device tree that says so is not seen.
        packages: {name: version} of those installed that run models, and NumPy.
    """

    board: str
    chip: str
    l4t: str
    jetpack: str
    cuda: str
    cuda_served: str
    tensorrt: str
    tensorrt_python: str
    power_mode: str
    governor: str
    driver: str
    gpu: str
    cpu: str
    cores: int
    memory_bytes: int
    caches: str
    last_level_cache_bytes: int
    hypervisor: str
    system: str
    python: str
    packages: dict[str, str]

    @property
    def is_jetson(self) -> bool:
        """Whether it runs Jetson Linux."""
        return bool(self.l4t)

    @property
    def jetpack_major(self) -> int | None:
        """6 for JetPack 6.2; None on a PC and for a Jetson Linux that is not known here."""
        found = re.match(r"\d+", self.jetpack)
        return int(found.group()) if found else None

    def name(self) -> str:
        """For people."""
        if not self.is_jetson:
            return "no Jetson"
        jetpack = f"JetPack {self.jetpack}" if self.jetpack else "a JetPack that this program does not know"
        return f"{self.board or 'Jetson'}, Jetson Linux {self.l4t} ({jetpack})"

    def too_old(self) -> str:
        """Why this Jetson cannot run the project's GPU engines, and what to do; empty where it can."""
        major = self.jetpack_major
        if major is None or major >= OLDEST_JETPACK:
            return ""
        reason = (
            f"JetPack {self.jetpack} is too old: it ends at TensorRT 8 and at a Python before 3.10, but TensorRT 10 "
            "and Python 3.10 are needed."
        )
        if self.chip in _OLD_CHIPS:
            return f"{reason} And {_OLD_CHIPS[self.chip]} has a GPU older than compute capability 8.0: take an Orin."
        return f"{reason} Flash JetPack 6 or 7: on an Orin both run."


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_text(path: Path) -> str:
    """Text of a small file without its end; empty where it cannot be read."""
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:
        return ""


def _names(folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []


def _power_mode(root: Path) -> str:
    number = re.search(r"pmode:0*(\d+)", read_text(root / "var/lib/nvpmodel/status"))
    if number is None:
        return ""
    names = dict(re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", read_text(root / "etc/nvpmodel.conf")))
    return f"{names.get(number.group(1), 'mode')} ({number.group(1)})"


def _jetpack(root: Path, l4t_major: int) -> str:
    packages = read_text(root / "var/lib/dpkg/status") + "\n"
    listed = re.search(r"^Package: nvidia-jetpack\n(?:\S.*\n| .*\n)*?Version: (\S+)$", packages, re.MULTILINE)
    if listed:
        return listed.group(1)
    return str(JETPACK_OF_L4T.get(l4t_major, ""))


def _cuda(root: Path) -> str:
    try:
        return str(json.loads(read_text(root / "usr/local/cuda/version.json"))["cuda"]["version"])
    except (ValueError, KeyError, TypeError):
        return ""


def _cpu_name(info: str) -> str:
    part = re.search(r"^CPU part\s*:\s*(\S+)$", info, re.MULTILINE)
    if part and part.group(1) in _ARM_CORES:
        return _ARM_CORES[part.group(1)]
    found = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", info, re.MULTILINE)
    return found.group(1).strip() if found else platform.machine()


def _cache_sizes(root: Path) -> list[tuple[str, int]]:
    """(level such as "L1d", bytes) of the first core, in the kernel's order."""
    found = []
    for folder in _names(root / _CPU, "cache/index*"):
        size = re.fullmatch(r"(\d+)([KMG]?)", read_text(folder / "size"))
        kind = {"Data": "d", "Instruction": "i"}.get(read_text(folder / "type"), "")
        if size:
            count = int(size.group(1)) << {"": 0, "K": 10, "M": 20, "G": 30}[size.group(2)]
            found.append((f"L{read_text(folder / 'level')}{kind}", count))
    return found


def _governor(root: Path) -> str:
    governor, driver = (read_text(root / _CPU / f"cpufreq/scaling_{name}") for name in ("governor", "driver"))
    return f"{governor} ({driver})" if governor and driver else governor


def _hypervisor(root: Path) -> str:
    if re.search(r"^flags\s*:.*\bhypervisor\b", read_text(root / "proc/cpuinfo"), re.MULTILINE):
        return "flag of the CPU"
    if (root / "proc/device-tree/hypervisor").is_dir():
        return read_text(root / "proc/device-tree/hypervisor/compatible") or "device tree"
    return read_text(root / "sys/hypervisor/type")


def _gpu(root: Path, chip: str) -> tuple[str, str, str]:
    """(names, driver, newest CUDA that the driver serves)."""
    version = re.search(r"NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s", read_text(root / "proc/driver/nvidia/version"))
    cards = [read_text(path) for path in _names(root / "proc/driver/nvidia/gpus", "*/information")]
    names = [model for card in cards for model in re.findall(r"^Model:\s*(.+)$", card, re.MULTILINE)]
    answer = ask_nvidia_smi(program, ["-q"]) if (program := find_nvidia_smi(root)) else ""
    fields = dict(re.findall(r"^\s*(Driver Version|CUDA Version)\s*:\s*(\S+)$", answer, re.MULTILINE))
    names = names or re.findall(r"^\s*Product Name\s*:\s*(.+)$", answer, re.MULTILINE)
    if not names and chip:
        names = [f"integrated, {chip}"]
    driver = version.group(1) if version else fields.get("Driver Version", "")
    return ", ".join(name.strip() for name in names), driver, fields.get("CUDA Version", "")


def _packages() -> dict[str, str]:
    from importlib import metadata  # takes longer than all other imports of this file

    found: dict[str, str] = {}
    for name, distributions in _PACKAGES.items():
        for distribution in distributions:
            try:
                found.setdefault(name, metadata.version(distribution))
            except metadata.PackageNotFoundError:
                continue
    return found


def read_machine(root: Path = Path("/")) -> Machine:
    """Read what the files below `root` say."""
    release = re.search(r"# R(\d+) \(release\), REVISION: ([\d.]+)", read_text(root / "etc/nv_tegra_release"))
    chip = re.search(r"nvidia,(tegra\d+)", read_text(root / "proc/device-tree/compatible"))
    libraries = [path.name for path in _names(root / "usr/lib", "*-linux-gnu/libnvinfer.so.*.*")]
    python = _names(root / "usr/lib", "python3*/dist-packages/tensorrt")
    caches = _cache_sizes(root)
    gpu, driver, cuda_served = _gpu(root, chip.group(1) if chip else "")
    return Machine(
        board=read_text(root / "proc/device-tree/model") or read_text(root / "sys/class/dmi/id/product_name"),
        chip=chip.group(1) if chip else "",
        l4t=f"{release.group(1)}.{release.group(2)}" if release else "",
        jetpack=_jetpack(root, int(release.group(1))) if release else "",
        cuda=_cuda(root),
        cuda_served=cuda_served,
        tensorrt=libraries[-1].removeprefix("libnvinfer.so.") if libraries else "",
        tensorrt_python=str(python[-1].parent) if python else "",
        power_mode=_power_mode(root),
        governor=_governor(root),
        driver=driver,
        gpu=gpu,
        cpu=_cpu_name(read_text(root / "proc/cpuinfo")),
        cores=usable_cores(),
        memory_bytes=kilobytes(read_text(root / "proc/meminfo"), "MemTotal") or 0,
        caches=", ".join(f"{level} {size >> 10} KiB" for level, size in caches),
        last_level_cache_bytes=max((size for level, size in caches if not level.endswith("i")), default=0),
        hypervisor=_hypervisor(root),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        packages=_packages(),
    )
