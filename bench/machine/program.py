"""Which code runs, so that a report can be told from that of another version, and what it says of its work."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import sys
from pathlib import Path

_PACKAGES = ("dphr_infer", "dphr_train", "export", "bench")
_SUFFIXES = (".py", ".cu", ".cuh", ".fatbin")
_DIGITS = 12
_ROOT = Path(__file__).resolve().parents[2]
# Python looks in the current folder first, which may hold another version.
_RUN = "import sys; sys.path.insert(0, {root!r}); from {module} import {function}; sys.exit({function}(sys.argv[1:]))"


def version() -> str:
    """Of the installed package; "from source" where it is not installed."""
    try:
        return importlib.metadata.version("dphr")
    except importlib.metadata.PackageNotFoundError:
        return "from source"


@functools.cache
def identity() -> str:
    """Version, and the first digits of the SHA-256 over the names and contents of the packages' source and kernels."""
    digest = hashlib.sha256()
    for package in _PACKAGES:
        for path in sorted(path for path in (_ROOT / package).rglob("*") if path.suffix in _SUFFIXES):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(_ROOT).as_posix()} {len(content)}\n".encode())
            digest.update(content)
    return f"dphr {version()}, code {digest.hexdigest()[:_DIGITS]}"


def own_code(module: str, function: str) -> tuple[str, ...]:
    """A command that calls a function of these packages, those of this process, with the list of words that follow."""
    return sys.executable, "-c", _RUN.format(root=str(_ROOT), module=module, function=function)


def say(text: str) -> None:
    """Tell on stderr what is measured now."""
    print(f"bench: {text}", file=sys.stderr, flush=True)
