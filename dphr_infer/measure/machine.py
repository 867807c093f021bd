"""Which machine this is: a Jetson with which JetPack, or a PC; and what its files say of CUDA, TensorRT and power.

Every reader takes the root of a file tree, so that a tree written for a test is read like a real machine. What cannot
be read is an empty text.

    etc/nv_tegra_release                "# R36 (release), REVISION: 4.3, ..." on every Jetson, and nowhere else
    proc/device-tree/model              name of the board, ends with a zero byte
    proc/device-tree/compatible         the chip among others: nvidia,tegra234 is Orin
    var/lib/dpkg/status                 version of the package nvidia-jetpack, where it is installed
    usr/local/cuda/version.json         version of the CUDA toolkit
    usr/lib/*-linux-gnu/libnvinfer.so.* version of TensorRT's library
    usr/lib/python3*/dist-packages      where JetPack puts TensorRT's Python package
    var/lib/nvpmodel/status             power mode, named in etc/nvpmodel.conf
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

# JetPack by the major number of Jetson Linux. 38 is for Thor alone; Orin goes on with 39 (JetPack 7.2).
JETPACK_OF_L4T = {32: 4, 34: 5, 35: 5, 36: 6, 38: 7, 39: 7}
OLDEST_JETPACK = 6
# Chips whose GPU is older than cuda.build.OLDEST, whatever runs on them, with the boards that carry them.
_OLD_CHIPS = {
    "tegra210": "Jetson Nano and TX1",
    "tegra186": "Jetson TX2",
    "tegra194": "Jetson Xavier",
}


@dataclass(frozen=True, slots=True)
class Machine:
    """What the file tree of a machine says of it; empty where it says nothing.

    Attributes:
        board: name of a Jetson's board; empty on a PC.
        chip: of a Jetson, e.g. "tegra234".
        l4t: release of Jetson Linux, e.g. "36.4.3"; empty on a PC.
        jetpack: full version where the package is installed, else its major by that of Jetson Linux, e.g. "6".
        cuda: version of the CUDA toolkit in /usr/local/cuda.
        tensorrt: version of TensorRT's library among the system's.
        tensorrt_python: folder of TensorRT's Python package among the system's.
        power_mode: of nvpmodel, e.g. "MAXN_SUPER (2)".
        driver: version of NVIDIA's kernel driver.
    """

    board: str
    chip: str
    l4t: str
    jetpack: str
    cuda: str
    tensorrt: str
    tensorrt_python: str
    power_mode: str
    driver: str

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


def _text(path: Path) -> str:
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
    number = re.search(r"pmode:0*(\d+)", _text(root / "var/lib/nvpmodel/status"))
    if number is None:
        return ""
    names = dict(re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", _text(root / "etc/nvpmodel.conf")))
    return f"{names.get(number.group(1), 'mode')} ({number.group(1)})"


def _jetpack(root: Path, l4t_major: int) -> str:
    packages = _text(root / "var/lib/dpkg/status") + "\n"
    listed = re.search(r"^Package: nvidia-jetpack\n(?:\S.*\n| .*\n)*?Version: (\S+)$", packages, re.MULTILINE)
    if listed:
        return listed.group(1)
    return str(JETPACK_OF_L4T.get(l4t_major, ""))


def _cuda(root: Path) -> str:
    try:
        return str(json.loads(_text(root / "usr/local/cuda/version.json"))["cuda"]["version"])
    except (ValueError, KeyError, TypeError):
        return ""


def read_machine(root: Path = Path("/")) -> Machine:
    """Read what the files below `root` say."""
    release = re.search(r"# R(\d+) \(release\), REVISION: ([\d.]+)", _text(root / "etc/nv_tegra_release"))
    chip = re.search(r"nvidia,(tegra\d+)", _text(root / "proc/device-tree/compatible"))
    libraries = [path.name for path in _names(root / "usr/lib", "*-linux-gnu/libnvinfer.so.*.*")]
    python = _names(root / "usr/lib", "python3*/dist-packages/tensorrt")
    driver = re.search(r"NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s", _text(root / "proc/driver/nvidia/version"))
    return Machine(
        board=_text(root / "proc/device-tree/model") if release else "",
        chip=chip.group(1) if chip else "",
        l4t=f"{release.group(1)}.{release.group(2)}" if release else "",
        jetpack=_jetpack(root, int(release.group(1))) if release else "",
        cuda=_cuda(root),
        tensorrt=libraries[-1].removeprefix("libnvinfer.so.") if libraries else "",
        tensorrt_python=str(python[-1].parent) if python else "",
        power_mode=_power_mode(root),
        driver=driver.group(1) if driver else "",
    )
