"""A kernel's source in one text, and what nvcc's assembler says of its kernels.

kernel_usage.json holds the latter for the sources as they are committed, because nvcc takes 20 s for each target of
topk.cu; another source, other flags or another compiler are compiled. `make kernels` writes it.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from dphr_infer.cuda.build import (
    FLAGS,
    FOLDER,
    KERNELS,
    NATIVE,
    Version,
    find_nvcc,
    nvcc_version,
    source_digests,
    source_of,
)

KEPT = Path(__file__).with_name("kernel_usage.json")
SM_REGISTERS = 65_536
_USAGE = re.compile(
    r"entry function '(?P<kernel>\w+)'.*?(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


def inlined(source: Path) -> str:
    """A .cu with its headers in place of their includes, so that a fault can be planted anywhere."""
    text, pattern, seen = source.read_text(encoding="utf-8"), re.compile(r'#include "(\w+\.cuh)"\n'), set()
    while found := pattern.search(text):
        name = found[1]
        path = next(path for path in (source.with_name(name), source.parents[1] / name) if path.is_file())
        header = "" if name in seen else path.read_text(encoding="utf-8")
        seen.add(name)
        text = text[: found.start()] + header.replace("#pragma once\n", "") + text[found.end() :]
    return text


def usage_by_kernel(source: Path, target: Version, cache: Path) -> dict[str, dict[str, int]]:
    """{kernel: registers; stack, spills and static shared memory in bytes}, kept in `cache` until a source changes."""
    nvcc = find_nvcc()
    kept = json.loads(KEPT.read_text(encoding="utf-8"))[source.stem]
    fits = kept["of"] == _made_from(source, nvcc_version(nvcc) if nvcc else kept["of"]["toolkit"])
    if fits and _sm(target) in kept["usage"]:
        return kept["usage"][_sm(target)]
    if nvcc is None:
        pytest.skip("nvcc is not installed: the kernels' registers are not checked")
    return _compiled(nvcc, source, target, cache)


def _sm(target: Version) -> str:
    return f"sm_{target[0]}{target[1]}"


def _made_from(source: Path, toolkit: Sequence[int]) -> dict[str, object]:
    return {"toolkit": list(toolkit), "flags": list(FLAGS), "sources": source_digests(source)}


def _compiled(nvcc: Path, source: Path, target: Version, cache: Path) -> dict[str, dict[str, int]]:
    command = [str(nvcc), f"-arch={_sm(target)}", *FLAGS, "-Xptxas", "-v", "-Werror", "all-warnings"]
    command += ["-cubin", f"-I{FOLDER}", str(source), "-o", "/dev/null"]
    key = json.dumps([nvcc_version(nvcc), command, source_digests(source)])
    kept = cache / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    if not kept.exists():
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found = {
            match["kernel"]: {
                "registers": int(match["registers"]),
                "stack": int(match["stack"]),
                "spills": int(match["stores"]) + int(match["loads"]),
                "static_shared": int((re.search(r"(\d+) bytes smem", match["rest"]) or [0, 0])[1]),
            }
            for match in _USAGE.finditer(done.stderr)
        }
        kept.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return json.loads(kept.read_text(encoding="utf-8"))


def main() -> None:
    """Write kernel_usage.json."""
    nvcc, cache = find_nvcc(), FOLDER.parents[1] / ".pytest_cache" / "d" / "nvcc_usage"
    if nvcc is None:
        sys.exit("There is no nvcc on PATH or in /usr/local/cuda/bin: install the CUDA toolkit.")
    cache.mkdir(parents=True, exist_ok=True)
    found = {
        stem: {
            "of": _made_from(source_of(stem), nvcc_version(nvcc)),
            "usage": {_sm(target): _compiled(nvcc, source_of(stem), target, cache) for target in NATIVE},
        }
        for stem in KERNELS
    }
    KEPT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
