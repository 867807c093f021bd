"""The program nvidia-smi, where a machine has it; what it does not answer is an empty text."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

LIMIT_S = 5.0
_FOLDERS = ("usr/bin", "usr/local/bin", "usr/sbin", "usr/lib/wsl/lib", "usr/local/nvidia/bin")


def find_nvidia_smi(root: Path) -> Path | None:
    """The program below `root`, on the search path too where that is the machine's own."""
    folders = [str(root / folder) for folder in _FOLDERS]
    if root == Path("/"):
        folders += os.environ.get("PATH", "").split(os.pathsep)
    found = shutil.which("nvidia-smi", path=os.pathsep.join(folders))
    return Path(found) if found else None


def ask_nvidia_smi(program: Path, arguments: Sequence[str]) -> str:
    """Its standard output; empty where it fails or does not answer within LIMIT_S."""
    try:
        done = subprocess.run([str(program), *arguments], capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
