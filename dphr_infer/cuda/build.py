"""The kernels as machine code: shipped beside their source, or compiled at first use on the device.

`make kernels` writes topk/topk.{fatbin,json} and preprocess/preprocess.{fatbin,json}. The JSON holds the sha256 of
every source (the .cu of that name and each .cuh that it includes, from its folder or this one), the flags and the
compiler's version, so that a fatbin of other sources is never loaded. Native code of one CUDA version runs with a
driver of the same or a later major version, PTX with a driver of the same or a later version. JetPack 6 serves CUDA
12.6: there the kernels are compiled at first use, by the nvcc that PyCUDA needed as well, and kept in the user's cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from dphr_infer.errors import EngineError
from dphr_infer.files.atomic import atomic_file

FOLDER = Path(__file__).parent
# A folder each, with a .cu, a fatbin and a manifest of its name.
KERNELS = ("topk", "preprocess")
# Orin, H100/H200, Thor, desktop Blackwell; every other GPU from 8.0 on compiles the PTX when it loads it.
NATIVE: tuple[tuple[int, int], ...] = ((8, 7), (9, 0), (11, 0), (12, 0))
PTX = (8, 0)
FLAGS = ("-O3", "-std=c++17")
OLDEST = (8, 0)  # mma.m16n8k16 and cp.async

_JETPACK_NVCC = Path("/usr/local/cuda/bin/nvcc")
_DIGEST_BYTES = 32
_INCLUDE = re.compile(r'^#include "(\w+\.cuh)"', re.MULTILINE)

Version = tuple[int, int]


@dataclass(frozen=True, slots=True)
class FatbinManifest:
    """What a fatbin was built from, and for what.

    Attributes:
        sources: {file name: sha256 in hex} of the .cu and of each .cuh that it includes.
        flags: of nvcc, beside the targets.
        toolkit: version of nvcc.
        native: compute capabilities with machine code.
        ptx: compute capability of the PTX, which runs on this and every later one.
        n_bytes, sha256: of the fatbin.
    """

    sources: dict[str, str]
    flags: tuple[str, ...]
    toolkit: Version
    native: tuple[Version, ...]
    ptx: Version
    n_bytes: int
    sha256: str


def load_fatbin(capability: Version, driver: Version, folder: Path = FOLDER, stem: str = "topk") -> bytes:
    """The kernels of one .cu for one GPU, as `cuModuleLoadData` takes them.

    Args:
        capability: the GPU's compute capability, e.g. (8, 7).
        driver: CUDA version that its driver serves, e.g. (12, 6).
        folder: holds a folder for each of KERNELS, with its sources and its fatbin.
        stem: name of that folder and of its .cu.

    Raises:
        EngineError: the fatbin is damaged; or it does not fit this GPU or driver and nothing can compile another.
        StorageError: the cache cannot be written.
    """
    if capability < OLDEST:
        raise EngineError(
            f"This GPU has compute capability {_dotted(capability)}; the kernels need {_dotted(OLDEST)} or later "
            "(Orin has 8.7). Work on the CPU."
        )
    source = source_of(stem, folder)
    manifest = _read_manifest(source.with_suffix(".json"))
    reason = _why_unfit(manifest, capability, driver, source)
    if manifest is not None and reason is None:
        return _read_checked(source.with_suffix(".fatbin"), manifest)
    return _compiled_for(capability, driver, source, reason or "")


def source_of(stem: str, folder: Path = FOLDER) -> Path:
    """The .cu of one of KERNELS."""
    return folder / stem / f"{stem}.cu"


def _read_manifest(path: Path) -> FatbinManifest | None:
    if not path.is_file():
        return None
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        for name in ("toolkit", "ptx", "flags"):
            raw[name] = tuple(raw[name])
        raw["native"] = tuple((int(major), int(minor)) for major, minor in raw["native"])
        return FatbinManifest(**raw)
    except (ValueError, TypeError, KeyError) as error:
        raise EngineError(f"{path} is damaged ({error}): install dphr again, or run make kernels.") from error


def _why_unfit(manifest: FatbinManifest | None, capability: Version, driver: Version, source: Path) -> str | None:
    """Why the shipped fatbin cannot be used, as a sentence without its full stop; None where it can."""
    path = source.with_suffix(".fatbin")
    if manifest is None or not path.is_file():
        return f"No fatbin lies in {path.parent}"
    if manifest.sources != source_digests(source) or manifest.flags != FLAGS:
        return f"{path} was built from other sources than those beside it"
    if capability in manifest.native:
        if manifest.toolkit[0] <= driver[0]:
            return None
    elif manifest.ptx > capability:
        return (
            f"{path.name} holds code for {', '.join(map(_dotted, manifest.native))} and PTX for "
            f"{_dotted(manifest.ptx)}, but this GPU has compute capability {_dotted(capability)}"
        )
    elif manifest.toolkit <= driver:
        return None
    return (
        f"{path.name} was built by CUDA {_dotted(manifest.toolkit)}, but the driver is too old for it: it serves CUDA "
        f"{_dotted(driver)}"
    )


def _read_checked(path: Path, manifest: FatbinManifest) -> bytes:
    image = path.read_bytes()
    if hashlib.sha256(image).hexdigest() != manifest.sha256:
        raise EngineError(
            f"{path} is damaged: it has {len(image):,} bytes of the {manifest.n_bytes:,} that were built, or other "
            "ones. Install dphr again, or run make kernels."
        )
    return image


def source_digests(source: Path) -> dict[str, str]:
    """sha256 of a .cu and of every .cuh that it includes, itself or by way of another, by name.

    A .cuh lies in the folder of the .cu, or in the one above.
    """
    found: dict[str, str] = {}
    waiting = [source.name]
    while waiting:
        name = waiting.pop()
        path = next((at for at in (source.parent / name, source.parent.parent / name) if at.is_file()), None)
        if name not in found and path is not None:
            content = path.read_bytes()
            found[name] = hashlib.sha256(content).hexdigest()
            waiting += _INCLUDE.findall(content.decode("utf-8"))
    return dict(sorted(found.items()))


def _compiled_for(capability: Version, driver: Version, source: Path, reason: str) -> bytes:
    """From the cache, or compiled now for this GPU alone (some seconds)."""
    nvcc = find_nvcc()
    if nvcc is None:
        raise EngineError(
            f"{reason}; and there is no nvcc on PATH or in /usr/local/cuda/bin to compile the kernels here. Install "
            f"the CUDA toolkit {driver[0]}.x (on a Jetson: sudo apt install nvidia-jetpack), or update the driver."
        )
    toolkit = nvcc_version(nvcc)
    if toolkit[0] > driver[0]:
        raise EngineError(
            f"{reason}; and {nvcc} is CUDA {_dotted(toolkit)}, whose code a driver that serves CUDA {_dotted(driver)} "
            f"does not run. Update the driver, or put a toolkit of CUDA {driver[0]}.x first on PATH."
        )
    content = json.dumps([source_digests(source), FLAGS, toolkit])
    digest = hashlib.sha256(content.encode()).hexdigest()[:32]
    cached = _cache_folder() / digest / f"{source.stem}.{_sm(capability)}"
    if (image := _read_cached(cached)) is not None:
        return image
    image = _run_nvcc(nvcc, ["-cubin", f"-arch={_sm(capability)}"], source)
    with atomic_file(cached) as temporary:
        temporary.write_bytes(hashlib.sha256(image).digest() + image)
    return image


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(root) if Path(root).is_absolute() else Path.home() / ".cache") / "dphr" / "kernels"


def _read_cached(path: Path) -> bytes | None:
    """None where it is not there or not whole."""
    if not path.is_file():
        return None
    content = path.read_bytes()
    digest, image = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    return image if hashlib.sha256(image).digest() == digest else None


def find_nvcc() -> Path | None:
    """The compiler on PATH, or where JetPack puts it without adding it to PATH."""
    found = shutil.which("nvcc") or (shutil.which(_JETPACK_NVCC) if _JETPACK_NVCC.is_file() else None)
    return Path(found) if found else None


def nvcc_version(nvcc: Path) -> Version:
    """Major and minor version of a CUDA compiler.

    Raises:
        EngineError: it does not say.
    """
    words = _run([str(nvcc), "--version"])
    found = re.search(r"release (\d+)\.(\d+)", words)
    if found is None:
        raise EngineError(f"{nvcc} --version names no release: {' '.join(words.split())[:200]!r}. Install CUDA again.")
    return int(found[1]), int(found[2])


def _run_nvcc(nvcc: Path, targets: list[str], source: Path) -> bytes:
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / source.stem
        _run([str(nvcc), *FLAGS, *targets, f"-I{source.parent.parent}", "-o", str(output), str(source)])
        return output.read_bytes()


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise EngineError(f"{command[0]} cannot be run ({error.strerror}): install the CUDA toolkit again.") from error
    if done.returncode != 0:
        words = " ".join((done.stderr or done.stdout).split())[:400]
        raise EngineError(f"{' '.join(command)} failed with code {done.returncode}: {words}")
    return done.stdout


def build_fatbin(nvcc: Path, folder: Path = FOLDER, stem: str = "topk") -> FatbinManifest:
    """Compile one .cu for every GPU of `NATIVE` and as PTX, and write the fatbin and its manifest beside the sources.

    Raises:
        EngineError: nvcc fails; names its command.
        StorageError: the folder cannot be written.
    """
    source = source_of(stem, folder)
    targets = [f"-gencode=arch=compute_{_sm(one)[3:]},code={_sm(one)}" for one in NATIVE]
    targets.append(f"-gencode=arch=compute_{_sm(PTX)[3:]},code=compute_{_sm(PTX)[3:]}")
    image = _run_nvcc(nvcc, ["-fatbin", "--compress-mode=size", *targets], source)
    manifest = FatbinManifest(
        sources=source_digests(source),
        flags=FLAGS,
        toolkit=nvcc_version(nvcc),
        native=NATIVE,
        ptx=PTX,
        n_bytes=len(image),
        sha256=hashlib.sha256(image).hexdigest(),
    )
    with atomic_file(source.with_suffix(".fatbin")) as temporary:
        temporary.write_bytes(image)
    with atomic_file(source.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(asdict(manifest), indent=1) + "\n", encoding="utf-8")
    return manifest


def _dotted(version: Version) -> str:
    return f"{version[0]}.{version[1]}"


def _sm(capability: Version) -> str:
    return f"sm_{capability[0]}{capability[1]}"


def main() -> int:
    """What `make kernels` runs."""
    nvcc = find_nvcc()
    if nvcc is None:
        sys.stderr.write("There is no nvcc on PATH or in /usr/local/cuda/bin: install the CUDA toolkit.\n")
        return 2
    try:
        for stem in KERNELS:
            manifest = build_fatbin(nvcc, FOLDER, stem)
            size = f"{manifest.n_bytes:,} bytes, CUDA {_dotted(manifest.toolkit)}"
            sys.stdout.write(f"{source_of(stem).with_suffix('.fatbin')}: {size}\n")
    except EngineError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
