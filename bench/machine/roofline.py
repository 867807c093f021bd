"""The machine's ceilings, measured and not taken from a data sheet.

Read bandwidth: exact matching reads every gallery byte once, so time >= bytes / bandwidth. One thread a core reads a
buffer that no cache holds, and the fastest of several reductions and passes counts. A ceiling that is measured too low
would flatter the matcher.

Arithmetic: a model's time >= operations / rate, by float32 products of square matrices in NumPy's BLAS, the fastest of
several sizes and passes. It is the rate of that BLAS: a model in int8 may exceed it.

A search or an engine that was given fewer threads than there are cores is held against what as many threads reach.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.machine.program import own_code
from dphr_infer.measure.clock import collection_off, now_ms
from dphr_infer.measure.machine import Machine
from dphr_infer.measure.memory import available_bytes

PASSES = 15
_BUFFER_BYTES = 1 << 30
_CACHES = 3
PRODUCT_SIDES = (256, 512, 1024, 1536)
_PRODUCT_SECONDS = 0.25
_BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")


def buffer_bytes(cache_bytes: int, available_bytes: int | None) -> int:
    """Size of the buffer: 1 GiB or three times the last-level cache, but at most a quarter of the free memory."""
    wanted = max(_BUFFER_BYTES, _CACHES * cache_bytes)
    return min(wanted, available_bytes // 4) if available_bytes else wanted


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The machine's measured rates: bytes a second read, and float32 operations a second multiplied."""

    bandwidth: float
    flops_per_s: float


def measure_ceiling(machine: Machine, threads: int = 0) -> Ceiling:
    """Both rates of so many threads; 0, and as many as there are cores, are all."""
    few = 0 if threads >= machine.cores else threads
    return Ceiling(measure_read_bandwidth(machine, few), measure_matmul_rate(few))


def measure_read_bandwidth(machine: Machine, threads: int = 0) -> float:
    """Bytes a second that so many threads together read from memory, at best; 0 are all cores."""
    threads = threads or machine.cores
    size = buffer_bytes(machine.last_level_cache_bytes, available_bytes())
    buffer = np.ones(size // 8, dtype=np.int64)  # written, so that every page is there
    reductions: list[tuple[Callable[[NDArray[Any]], Any], type]] = [
        (np.max, np.float32),
        (np.bitwise_or.reduce, np.int64),
        (np.sum, np.int64),
    ]
    best = 0.0
    with ThreadPoolExecutor(threads) as pool, collection_off():
        for reduce, dtype in reductions:
            parts: list[NDArray[Any]] = np.array_split(buffer.view(dtype), threads)
            for _ in range(PASSES):
                start_ms = now_ms()
                list(pool.map(reduce, parts))
                best = max(best, buffer.nbytes / (now_ms() - start_ms) * 1e3)
    return best


def measure_matmul_rate(threads: int = 0) -> float:
    """Operations a second of float32 matrix products at best; a multiplication with its addition counts two.

    0 leaves the BLAS its own threads. Another number is measured in a process of its own, because a BLAS reads it once.
    """
    if threads:
        variables = dict.fromkeys(_BLAS_THREADS, str(threads))
        program = own_code("bench.machine.roofline", "print_matmul_rate")
        return float(subprocess.run(program, env=os.environ | variables, stdout=subprocess.PIPE, check=True).stdout)
    best = 0.0
    generator = np.random.default_rng(0)
    with collection_off():
        for side in PRODUCT_SIDES:
            left, right = generator.standard_normal((2, side, side), dtype=np.float32)
            out = np.empty((side, side), np.float32)
            begun_ms = now_ms()
            passes = 0
            while passes < 3 or now_ms() - begun_ms < 1e3 * _PRODUCT_SECONDS:
                start_ms = now_ms()
                np.matmul(left, right, out=out)
                best = max(best, 2e3 * side**3 / (now_ms() - start_ms))
                passes += 1
    return best


def print_matmul_rate(words: Sequence[str]) -> None:
    """Print the rate of this process's BLAS; takes no words."""
    print(measure_matmul_rate())


def limit_ms(read_bytes: int, bandwidth: float) -> float:
    """The least time in which `read_bytes` can be read at `bandwidth` bytes a second."""
    return 1e3 * read_bytes / bandwidth
