"""Which code ran: a report that says so can be told from that of another version, whatever its file is called."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
from pathlib import Path

_PACKAGES = ("dphr_infer", "dphr_train", "export", "bench")
_SUFFIXES = (".py", ".cu", ".cuh", ".fatbin")
_DIGITS = 12


def version() -> str:
    """Of the installed package; "from source" where it is not installed."""
    try:
        return importlib.metadata.version("dphr")
    except importlib.metadata.PackageNotFoundError:
        return "from source"


@functools.cache
def identity() -> str:
    """Version, and the first digits of the SHA-256 over the names and contents of the packages' source and kernels."""
    root, digest = Path(__file__).resolve().parents[1], hashlib.sha256()
    for package in _PACKAGES:
        for path in sorted(path for path in (root / package).rglob("*") if path.suffix in _SUFFIXES):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode())
            digest.update(content)
    return f"dphr {version()}, code {digest.hexdigest()[:_DIGITS]}"
