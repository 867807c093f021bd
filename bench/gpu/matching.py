"""Matching on a GPU beside one read of its memory, by both scans, and beside other exact searches in turns.

The limit: every gallery byte is read once, so time >= rows * dim * bytes / bandwidth. The wall time of `match()` is
taken, with the copies in and out and the host's part; beside it the GPU's own time by events. The bandwidth is measured
by a kernel that only reads, since a copy's would be lower and flatter the matcher.
"""

from __future__ import annotations

import dataclasses
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.cases.galleries import generate_rows
from bench.cases.matching import MatchLimits, match_record
from bench.machine.program import identity, say
from bench.machine.roofline import Ceiling
from bench.machine.state import read_state
from bench.peers.runs import match_peers, open_match_peers
from bench.record import BenchRecord, PeerRecord
from bench.sampling import StopRule, measure_overhead_ns, sample_whole
from bench.sweeps.point import Bench, match_subject
from dphr_infer.cuda.build import find_nvcc
from dphr_infer.cuda.driver import Cuda, open_cuda
from dphr_infer.cuda.topk.matcher import CudaExactMatcher
from dphr_infer.cuda.topk.operands import ScanDtype
from dphr_infer.cuda.topk.plan import MAX_QUERIES
from dphr_infer.errors import DphrError, EngineError
from dphr_infer.measure.machine import read_machine
from dphr_infer.measure.memory import available_bytes

SCANS: tuple[ScanDtype, ...] = ("fp16", "int8")
ROW_VALUE_BYTES: dict[ScanDtype, int] = {"fp16": 2, "int8": 1}
_BLOCK_ROWS = 1 << 16
_GPU_RUNS = 20
_READ_BYTES = 1 << 30
_READ_PASSES = 20
_READ_THREADS = 512
# Sums 16 bytes per thread and step; the result is written where it cannot be, so that no compiler drops the loads.
_READ_KERNEL = """
extern "C" __global__ void read_all(const uint4* data, unsigned long long vectors, unsigned* never) {
  const unsigned long long step = static_cast<unsigned long long>(gridDim.x) * blockDim.x;
  unsigned long long i = static_cast<unsigned long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  unsigned all = 0;
#pragma unroll 8
  for (; i < vectors; i += step) {
    const uint4 value = __ldg(data + i);
    all |= value.x | value.y | value.z | value.w;
  }
  if (all == 0x12345678u) *never = all;
}
"""


def make_gallery(rows: int, dim: int, seed: int = 0) -> NDArray[np.float16]:
    """Distinct rows of unit length, float16 (rows, dim): one random block, turned by another step each time."""
    half = generate_rows(min(rows, _BLOCK_ROWS), dim, "float16", seed)
    gallery = np.empty((rows, dim), np.float16)
    for number, start in enumerate(range(0, rows, _BLOCK_ROWS)):
        part = gallery[start : start + _BLOCK_ROWS]
        part[:] = np.roll(half, number % dim, axis=1)[: len(part)] * np.float16(-1 if number // dim % 2 else 1)
    return gallery


def measure_read_bandwidth(cuda: Cuda) -> float:
    """Bytes per second that a kernel reads from device memory, at best.

    Raises:
        EngineError: there is no nvcc to compile it.
    """
    image = _compile_read_kernel(cuda.properties.capability)
    with cuda.active():
        size = min(_READ_BYTES, cuda.free_bytes() // 4) // 16 * 16
        data, never = cuda.allocate(size, "measuring the bandwidth"), cuda.allocate(16, "measuring the bandwidth")
        cuda.clear(data)
        arguments = np.array([data.address, size // 16, never.address], np.uint64).tobytes()
        function = cuda.function(cuda.load(image), "read_all", 0)
        grid, block = (8 * cuda.properties.sm_count, 1, 1), (_READ_THREADS, 1, 1)
        times = []
        for _ in range(_READ_PASSES):
            start = cuda.record()
            cuda.launch(function, grid, block, arguments, 0)
            times.append(cuda.elapsed_ms(start, cuda.record()))
        cuda.free(data)
    return size / min(times) * 1e3


def _compile_read_kernel(capability: tuple[int, int]) -> bytes:
    nvcc = find_nvcc()
    if nvcc is None:
        raise EngineError("There is no nvcc to compile the kernel that measures the bandwidth: give --bandwidth.")
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder) / "read.cu", Path(folder) / "read.cubin"
        source.write_text(_READ_KERNEL, encoding="utf-8")
        arch = f"-arch=sm_{capability[0]}{capability[1]}"
        done = subprocess.run([str(nvcc), "-O3", "-cubin", arch, "-o", str(output), str(source)], capture_output=True)
        if done.returncode:
            raise EngineError(f"{nvcc} {arch} refuses the bandwidth kernel: {' '.join(done.stderr.decode().split())}")
        return output.read_bytes()


def open_gpu_bench(seconds: float, bandwidth_gb_per_s: float | None = None) -> Bench:
    """What every point shares, with the GPU's read bandwidth as ceiling; its arithmetic is not measured (0).

    Raises:
        DphrError: there is no GPU, or no way to measure its bandwidth.
    """
    identity()
    with open_cuda() as cuda:
        given = bandwidth_gb_per_s
        bandwidth = 1e9 * given if given is not None else measure_read_bandwidth(cuda)
        say(f"{cuda.properties.name}, CUDA {cuda.properties.driver}: {bandwidth / 1e9:.0f} GB/s read")
    ceilings = {0: Ceiling(bandwidth, 0.0)}
    return Bench(read_machine(), read_state(), ceilings, measure_overhead_ns(), StopRule(seconds))


def measure_points(
    bench: Bench,
    rows: Sequence[int],
    dims: Sequence[int],
    queries: Sequence[int],
    top_k: Sequence[int],
    peers: bool,
) -> Iterator[BenchRecord]:
    """Every search of every gallery that fits, and in the last record's `left_out` those that do not."""
    for count in rows:
        for dim in dims:
            needed, free = 2 * count * dim, available_bytes()
            case = f"{count:,} x {dim}"
            if free and needed > free // 2:
                why = f"it takes {needed / 1e9:.1f} GB on the host, of which {free / 1e9:.1f} are free"
                yield bench.record(match_subject(dim, count, "float16", "", 0, 0), left_out={case: why})
                continue
            gallery = make_gallery(count, dim)
            for scan in SCANS:
                try:
                    yield from _searches(bench, gallery, scan, queries, top_k, peers and scan == SCANS[0])
                except (DphrError, MemoryError) as error:
                    subject = match_subject(dim, count, "float16", f"cuda {scan}", 0, 0)
                    yield bench.record(subject, left_out={f"{case}, {scan}": str(error)})


def _searches(
    bench: Bench,
    gallery: NDArray[np.float16],
    scan: ScanDtype,
    queries: Sequence[int],
    top_k: Sequence[int],
    peers: bool,
) -> Iterator[BenchRecord]:
    """One scan, for all numbers of queries and k."""
    count, dim = gallery.shape
    most = min(max(queries), MAX_QUERIES)
    opened = open_match_peers(gallery, 0, "cuda") if peers else None
    against = MatchLimits(bench.machine, bench.ceilings[0].bandwidth)
    with CudaExactMatcher(gallery, most, max(top_k), scan) as matcher:
        for n_queries in queries:
            asked = generate_rows(n_queries, dim, "float32", seed=1)
            for k in top_k:
                say(f"{count} x {dim} {scan}, {n_queries} queries, k {k}")
                before = (matcher.widened, matcher.rescanned)
                wall = sample_whole(partial(matcher.match, asked, k), bench.rule)
                gpu_ms = None
                if n_queries <= most:
                    gpu_ms = float(np.median([matcher.gpu_ms(asked, k) for _ in range(_GPU_RUNS)]))
                record = match_record(gallery, n_queries, k, wall, against, generated=True)
                share = ROW_VALUE_BYTES[scan] / ROW_VALUE_BYTES["fp16"]
                record = dataclasses.replace(
                    record,
                    matcher=f"cuda {scan}",
                    in_cache=False,
                    read_bytes=int(share * record.read_bytes),
                    limit_ms=share * record.limit_ms,
                    bandwidth_share=share * record.bandwidth_share,
                    gpu_ms=gpu_ms,
                    widened=matcher.widened - before[0],
                    rescanned=matcher.rescanned - before[1],
                )
                beside: list[PeerRecord] = []
                if opened is not None:
                    beside = match_peers(opened, matcher, asked, k, bench.rule.seconds)
                yield bench.record(
                    match_subject(dim, count, "float16", matcher.name, 0, k), matching=(record,), peers=tuple(beside)
                )
