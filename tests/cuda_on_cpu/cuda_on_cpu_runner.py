"""Builds a .cu with g++ and launches its kernels on this processor; cuda_on_cpu.h says what the .cu keeps to."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import platform
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parent
KERNELS = FOLDER.parent.parent / "dphr_infer" / "cuda"
INCLUDES = tuple(f"-I{folder}" for folder in (KERNELS, KERNELS / "topk", KERNELS / "preprocess"))
HEADERS = ("cuda_on_cpu.h", "guard.h", "half.h", "launch.h", "memory.h", "mma.h", "scheduler.h", "switch.h", "warp.h")
# Products are fused only where the source says so, and types are punned as nvcc lets them be.
FLAGS = ("-std=c++17", "-O2", "-march=native", "-ffp-contract=off", "-fno-strict-aliasing", "-fno-extern-tls-init")
LIBRARY_FLAGS = ("-shared", "-fPIC", "-fvisibility=hidden", "-fno-gnu-unique", "-w")
MAX_THREADS = 1024
MAX_SHARED_BYTES = 232_448
# A scalar parameter's kind and bytes -> how its bytes are written.
SCALARS = {"i": {1: "b", 2: "h", 4: "i", 8: "q"}, "u": {1: "B", 2: "H", 4: "I", 8: "Q"}, "f": {4: "f", 8: "d"}}


class KernelError(Exception):
    """What a launch did wrong: kernel, block, thread, seed and the place in words."""


class _Argument(ctypes.Structure):
    _fields_ = (("host", ctypes.c_void_p), ("bytes", ctypes.c_uint64), ("bytes_read", ctypes.c_uint64))


class _Launch(ctypes.Structure):
    _fields_ = (
        ("kernel", ctypes.c_char_p),
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("shared_bytes", ctypes.c_uint64),
        ("seed", ctypes.c_uint64),
        ("resident_blocks", ctypes.c_uint32),
        ("preempt_every", ctypes.c_uint32),
        ("time_limit_s", ctypes.c_double),
        ("arguments", ctypes.POINTER(_Argument)),
        ("switches", ctypes.c_uint64),
        ("error", ctypes.c_char_p),
    )


@dataclass(frozen=True)
class LaunchReport:
    """bytes_read: per argument, what the load wrappers and cp_async16 read of it, 0 for numbers; switches of fibers."""

    bytes_read: tuple[int, ...]
    switches: int


def _three(size: int | Sequence[int]) -> tuple[int, int, int]:
    sizes = (size,) if isinstance(size, int) else tuple(size)
    return (*sizes, 1, 1)[:3]


class CpuDevice:
    """The kernels of one built .cu."""

    def __init__(self, library: Path, kernels: Sequence[str]) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.cuda_on_cpu_launch.restype = self._library.cuda_on_cpu_describe.restype = None
        self.kernels = {name: self._describe(name) for name in kernels}

    def _describe(self, name: str) -> tuple[str, ...]:
        text = ctypes.create_string_buffer(1024)
        self._library.cuda_on_cpu_describe(name.encode(), text)
        return tuple(text.value.decode().split())

    def launch(
        self,
        kernel: str,
        grid: int | Sequence[int],
        block: int | Sequence[int],
        *args: np.ndarray | float | np.generic | None,
        shared_bytes: int = 0,
        seed: int = 0,
        resident_blocks: int = 4,
        preempt_every: int = 32,
        time_limit_s: float = 60.0,
    ) -> LaunchReport:
        """Run one launch to its end.

        Args:
            args:            a C-contiguous array (or None, the null pointer) for each pointer, a number for each other
                             parameter. What a pointer to non-const wrote is in the array afterwards.
            shared_bytes:    dynamic shared memory of a block.
            seed:            the schedule. 0: blocks and lanes in order, hardly interrupted; any other: blocks start,
                             warps and lanes run in a random order, and change at barriers, collectives, atomics and
                             loads through wrappers.
            resident_blocks: blocks that run at the same time, at most 16384 threads; others start as these end.
            preempt_every:   mean number of such places between two changes, for seeds other than 0.
            time_limit_s:    processor time after which the launch is given up.

        Raises:
            KernelError: the launch went wrong. Arrays hold what was written until then.
            TypeError, ValueError: arguments do not fit the kernel's parameters, or sizes a GPU would refuse.
        """
        kinds = self.kernels[kernel]
        grid3, block3 = _three(grid), _three(block)
        threads = block3[0] * block3[1] * block3[2]
        if not 1 <= threads <= MAX_THREADS or min(grid3) < 1 or not 0 <= shared_bytes <= MAX_SHARED_BYTES:
            raise ValueError(
                f"{kernel}: no GPU runs grid {grid3}, block {block3}, {shared_bytes} bytes of shared memory"
            )
        if len(args) != len(kinds):
            raise TypeError(f"{kernel} has {len(kinds)} parameters, given {len(args)} arguments")
        kept = [_host_bytes(kernel, i, kind, arg) for i, (kind, arg) in enumerate(zip(kinds, args, strict=True))]
        arguments = (_Argument * len(kinds))(
            *(
                _Argument(None if host is None else host.ctypes.data, 0 if host is None else host.nbytes)
                for host in kept
            )
        )
        request = _Launch(
            kernel.encode(), grid3, block3, shared_bytes, seed, resident_blocks, preempt_every, time_limit_s, arguments
        )
        self._library.cuda_on_cpu_launch(ctypes.byref(request))
        if request.error:
            raise KernelError(request.error.decode())
        return LaunchReport(tuple(argument.bytes_read for argument in arguments), request.switches)


def _host_bytes(
    kernel: str, number: int, kind: str, value: np.ndarray | float | np.generic | None
) -> np.ndarray | None:
    """The array behind an argument: itself for a pointer, its bytes for a number."""
    size = int(kind[1:])
    where = f"{kernel}, argument {number}"
    if kind[0] not in "cp":
        if isinstance(value, np.ndarray) or value is None:
            raise TypeError(f"{where}: the parameter is a number, not an array")
        dtype = np.dtype(SCALARS[kind[0]][size])
        if kind[0] != "f" and not np.iinfo(dtype).min <= int(value) <= np.iinfo(dtype).max:
            raise ValueError(f"{where}: {value} does not fit {dtype}")
        return np.array([value], dtype)
    if value is None:
        return None
    if not isinstance(value, np.ndarray) or not value.flags.c_contiguous:
        raise TypeError(f"{where}: the parameter is a pointer, give a C-contiguous array")
    if size not in (0, 1, 16, value.dtype.itemsize):  # void, bytes and uint4 view any array
        raise TypeError(f"{where}: points to {size} bytes an element, the array has {value.dtype}")
    if kind[0] == "p" and not value.flags.writeable:
        raise TypeError(f"{where}: the kernel may write to it, the array is read-only")
    return value


@dataclass(frozen=True)
class Builder:
    """Builds into a folder, once for the same source, included files, flags and compiler."""

    compiler: str
    cache: Path

    def build(self, source: Path | str, defines: Mapping[str, object] | None = None) -> CpuDevice:
        """Compile a .cu (a path, or its text) with these macros.

        Raises:
            RuntimeError: g++ refuses it (its message), or there is no `extern "C" __global__ void name(` in it.
        """
        if isinstance(source, str):
            path = self.cache / f"{hashlib.sha256(source.encode()).hexdigest()[:16]}.cu"
            with locked(path):
                if not path.exists() or path.read_text(encoding="utf-8") != source:
                    path.write_text(source, encoding="utf-8")
            source = path
        options = [*FLAGS, *INCLUDES, *(f"-D{name}={value}" for name, value in (defines or {}).items())]
        # After the preprocessor everything that is included stands in one text: it names the kernels and is the key.
        listing = ["-E", "-P", "-DCUDA_ON_CPU_LIST_KERNELS", "-include", str(FOLDER / "cuda_on_cpu.h"), "-x", "c++"]
        text = self._run([*options, *listing, str(source)])
        kernels = re.findall(r'extern\s+"C"\s+__cuda_kernel__\s+void\s+(\w+)\s*\(', text)
        if not kernels:
            raise RuntimeError(f'{source} has no kernel: write extern "C" __global__ void name(...)')
        headers = "".join((FOLDER / name).read_text(encoding="utf-8") for name in HEADERS)
        key = "\n".join((text, headers, str(source), *options, *LIBRARY_FLAGS, _processor(), self.compiler))
        library = self.cache / f"{source.stem}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.so"
        with locked(library):  # test processes share the folder: the first builds, the others wait
            if not library.exists():
                self._compile(library, source, kernels, options)
        return CpuDevice(library, kernels)

    def _compile(self, library: Path, source: Path, kernels: Sequence[str], options: Sequence[str]) -> None:
        table = "".join(f'{{"{k}", Door<::{k}>::invoke, Door<::{k}>::describe}}, ' for k in kernels)
        main = library.with_suffix(f".{os.getpid()}.cpp")
        main.write_text(
            f'#include "{source}"\n#include "{FOLDER / "launch.h"}"\n'
            f"namespace cuda_on_cpu {{ const Kernel kernels[] = {{{table}{{nullptr, nullptr, nullptr}}}}; }}\n",
            encoding="utf-8",
        )
        built = main.with_suffix(".so")
        includes = ["-include", str(FOLDER / "cuda_on_cpu.h")]
        self._run([*options, *LIBRARY_FLAGS, *includes, str(main), "-o", str(built)])
        main.unlink()
        built.replace(library)

    def _run(self, arguments: Sequence[str]) -> str:
        done = subprocess.run([self.compiler, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"g++ refuses the source:\n{done.stderr[:4000]}")
        return done.stdout


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time, by a lock file beside `path` that stays."""
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _processor() -> str:
    """What -march=native depends on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return f"{platform.machine()} {flags}"
