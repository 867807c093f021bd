"""The machine's ceilings, measured and not taken from a data sheet.

Read bandwidth: exact matching reads every gallery byte once, so time >= bytes / bandwidth. One thread a core reads a
buffer that no cache holds, and the fastest of several reductions and passes counts. A ceiling that is measured too low
would flatter the matcher.

Arithmetic: a model's time >= operations / rate, by float32 products of square matrices in NumPy's BLAS with its own
threads, the fastest of several sizes and passes. It is the rate of that BLAS: a model in int8 may exceed it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.clock import collection_off, now_ms
from bench.machine import MachineProfile, available_memory_bytes

PASSES = 15
_BUFFER_BYTES = 1 << 30
_CACHES = 3
PRODUCT_SIDES = (256, 512, 1024, 1536)
_PRODUCT_SECONDS = 0.25


def buffer_bytes(cache_bytes: int, available_bytes: int) -> int:
    """Size of the buffer: 1 GiB or three times the last-level cache, but at most a quarter of the free memory."""
    wanted = max(_BUFFER_BYTES, _CACHES * cache_bytes)
    return min(wanted, available_bytes // 4) if available_bytes else wanted


def measure_read_bandwidth(machine: MachineProfile) -> float:
    """Bytes a second that all cores together read from memory, at best."""
    size = buffer_bytes(machine.last_level_cache_bytes, available_memory_bytes())
    buffer = np.ones(size // 8, dtype=np.int64)  # written, so that every page is there
    reductions: list[tuple[Callable[[NDArray[Any]], Any], type]] = [
        (np.max, np.float32),
        (np.bitwise_or.reduce, np.int64),
        (np.sum, np.int64),
    ]
    best = 0.0
    with ThreadPoolExecutor(machine.cores) as pool, collection_off():
        for reduce, dtype in reductions:
            parts: list[NDArray[Any]] = np.array_split(buffer.view(dtype), machine.cores)
            for _ in range(PASSES):
                start_ms = now_ms()
                list(pool.map(reduce, parts))
                best = max(best, buffer.nbytes / (now_ms() - start_ms) * 1e3)
    return best


def measure_matmul_rate() -> float:
    """Operations a second of float32 matrix products at best; a multiplication with its addition counts two."""
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


def limit_ms(read_bytes: int, bandwidth: float) -> float:
    """The least time in which `read_bytes` can be read at `bandwidth` bytes a second."""
    return 1e3 * read_bytes / bandwidth
