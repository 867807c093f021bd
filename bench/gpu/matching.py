"""Matching on a GPU against the memory's limit and against other exact searches; one script, one JSON file.

    python -m bench.gpu.matching            measure on this machine's GPU
    python -m bench.gpu.matching --model    print the limits of known boards; needs no GPU

The limit: every gallery byte is read once, so time >= rows * dim * bytes / bandwidth. Wall time of `match()` is taken,
with the copies in and out and the host's part; beside it the GPU's own time by events: what a call takes beyond that
is the host's. The bandwidth is measured by a kernel that only reads, since a copy's would be lower and flatter the
matcher.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.machine.roofline import limit_ms
from bench.peers.gpu import OPENERS, PEERS
from bench.sampling import time_calls
from dphr_infer.cli.terminal import run_command
from dphr_infer.cuda.build import find_nvcc
from dphr_infer.cuda.driver import Cuda, open_cuda
from dphr_infer.cuda.topk.matcher import CudaExactMatcher
from dphr_infer.cuda.topk.operands import ScanDtype
from dphr_infer.cuda.topk.plan import MAX_QUERIES
from dphr_infer.errors import DphrError, EngineError, MissingPackageError
from dphr_infer.files.atomic import atomic_file
from dphr_infer.measure.memory import available_bytes
from dphr_infer.measure.stats import LatencySummary, format_ms, summarise

ROWS, DIMS, QUERIES, TOP_KS = (10**5, 10**6, 10**7), (256, 512, 1024), (1, 8, 64, 512), (1, 10, 100)
SCANS: tuple[ScanDtype, ...] = ("fp16", "int8")
ROW_VALUE_BYTES: dict[ScanDtype, int] = {"fp16": 2, "int8": 1}
# Data sheets: memory bandwidth in bytes a second.
BOARDS = {
    "Orin Nano Super": 102e9,
    "Orin NX": 102e9,
    "AGX Orin": 205e9,
    "H200": 4.8e12,
}

_BLOCK_ROWS = 1 << 16
_GPU_RUNS = 20
_READ_BYTES = 1 << 30
_READ_PASSES = 20
_READ_THREADS = 512
# Sums 16 bytes a thread and step; the result is written where it cannot be, so that no compiler drops the loads.
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


@dataclass(frozen=True, slots=True)
class Case:
    """One measurement.

    Attributes:
        wall: of `match`, queries in host memory to matches in host memory.
        gpu_ms: median by events, copies included; null for a peer.
        host_us: the wall's median beyond gpu_ms; null for a peer, and where int8 scans were widened, since gpu_ms is of
            a call that widens none.
        widened, rescanned: counted over all calls of `wall`.
    """

    matcher: str
    rows: int
    dim: int
    scan: str
    queries: int
    top_k: int
    wall: LatencySummary
    limit_ms: float
    widened: int
    rescanned: int
    gpu_ms: float | None = None

    @property
    def host_us(self) -> float | None:
        """See above."""
        if self.gpu_ms is None or self.widened or self.rescanned:
            return None
        return 1e3 * (self.wall.p50_ms - self.gpu_ms)

    @property
    def share(self) -> float:
        """Of the measured bandwidth, at the median."""
        return self.limit_ms / self.wall.p50_ms


def model_table() -> list[str]:
    """Lines of the roofline model: milliseconds for one batch of queries, by data-sheet bandwidth; nothing measured."""
    lines = [
        "Roofline model (not measured): gallery bytes / data-sheet bandwidth, in ms for one batch of queries",
        f"{'rows':>9} {'dim':>5} {'scan':>5} " + " ".join(f"{name:>16}" for name in BOARDS),
    ]
    for rows in ROWS:
        for dim in DIMS:
            for scan in SCANS:
                times = [limit_ms(rows * dim * ROW_VALUE_BYTES[scan], bandwidth) for bandwidth in BOARDS.values()]
                shown = " ".join(f"{format_ms(value):>16}" for value in times)
                lines.append(f"{rows:>9} {dim:>5} {scan:>5} {shown}")
    return lines


def make_gallery(rows: int, dim: int, seed: int = 0) -> NDArray[np.float16]:
    """Distinct rows of unit length, float16 (rows, dim): one random block, turned by another step each time."""
    block = np.random.default_rng(seed).standard_normal((min(rows, _BLOCK_ROWS), dim), dtype=np.float32)
    block /= np.linalg.norm(block, axis=1, keepdims=True)
    half = block.astype(np.float16)
    gallery = np.empty((rows, dim), np.float16)
    for number, start in enumerate(range(0, rows, _BLOCK_ROWS)):
        part = gallery[start : start + _BLOCK_ROWS]
        part[:] = np.roll(half, number % dim, axis=1)[: len(part)] * np.float16(-1 if number // dim % 2 else 1)
    return gallery


def make_queries(count: int, dim: int) -> NDArray[np.float32]:
    """float32 (count, dim), unit length."""
    queries = np.random.default_rng(1).standard_normal((count, dim), dtype=np.float32)
    return queries / np.linalg.norm(queries, axis=1, keepdims=True)


def measure_read_bandwidth(cuda: Cuda) -> float:
    """Bytes a second that a kernel reads from device memory, at best.

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


def measure_ours(gallery: NDArray[np.float16], request: argparse.Namespace, bandwidth: float) -> Iterator[Case]:
    """Both scans, for all numbers of queries and k."""
    rows, dim = gallery.shape
    for scan in SCANS:
        limit = limit_ms(rows * dim * ROW_VALUE_BYTES[scan], bandwidth)
        most = min(max(request.queries), MAX_QUERIES)
        with CudaExactMatcher(gallery, most, max(request.top_k), scan) as matcher:
            for n_queries in request.queries:
                queries = make_queries(n_queries, dim)
                for k in request.top_k:
                    before = (matcher.widened, matcher.rescanned)
                    wall = summarise(time_calls(lambda q=queries, k=k: matcher.match(q, k), request.seconds))
                    counts = (matcher.widened - before[0], matcher.rescanned - before[1])
                    gpu_ms = None
                    if n_queries <= most:
                        gpu_ms = float(np.median([matcher.gpu_ms(queries, k) for _ in range(_GPU_RUNS)]))
                    yield Case("dphr", rows, dim, scan, n_queries, k, wall, limit, *counts, gpu_ms)


def measure_peer(
    name: str, gallery: NDArray[np.float16], request: argparse.Namespace, bandwidth: float
) -> Iterator[Case]:
    """A peer's exact search by float16 rows that lie on the device.

    Raises:
        ImportError: it is not installed, or has no GPU part.
    """
    (peer,) = OPENERS[name](gallery, 0)
    rows, dim = gallery.shape
    limit = limit_ms(2 * rows * dim, bandwidth)
    for n_queries in request.queries:
        queries = make_queries(n_queries, dim)
        for k in request.top_k:
            wall = summarise(time_calls(lambda q=queries, k=k: peer.search(q, k), request.seconds))
            yield Case(name, rows, dim, "fp16", n_queries, k, wall, limit, 0, 0)


def run(request: argparse.Namespace) -> dict[str, Any]:
    """Measure every case that fits; prints a line each.

    Raises:
        DphrError: there is no GPU, or no way to measure its bandwidth.
    """
    with open_cuda() as cuda:
        properties = cuda.properties
        bandwidth = request.bandwidth * 1e9 if request.bandwidth else measure_read_bandwidth(cuda)
    print(f"{properties.name}, CUDA {properties.driver}: {bandwidth / 1e9:.0f} GB/s read")
    cases, left_out = [], []
    for rows in request.rows:
        for dim in request.dims:
            needed, free = 2 * rows * dim, available_bytes()
            if free and needed > free // 2:
                left_out.append(f"{rows} x {dim}: {needed} bytes on the host, of which {free} are free")
                continue
            gallery = make_gallery(rows, dim)
            for name in ("dphr", *request.peers):
                try:
                    for case in _measure(name, gallery, request, bandwidth):
                        cases.append(case)
                        print(_line(case), flush=True)
                except (ImportError, MissingPackageError) as error:
                    left_out.append(f"{name}: {error}")
                except Exception as error:  # whatever a peer raises, out of memory among them
                    if name == "dphr" and not isinstance(error, DphrError | MemoryError):
                        raise
                    left_out.append(f"{name} {rows} x {dim}: {' '.join(str(error).split())[:200]}")
    left_out = list(dict.fromkeys(left_out))
    for line in left_out:
        print(f"left out: {line}")
    return {
        "device": dataclasses.asdict(properties),
        "read_bytes_per_s": bandwidth,
        "bandwidth_given": bool(request.bandwidth),
        "cases": [
            {**dataclasses.asdict(case), "host_us": case.host_us, "bandwidth_share": case.share} for case in cases
        ],
        "left_out": left_out,
    }


def _measure(name: str, gallery: NDArray[np.float16], request: argparse.Namespace, bandwidth: float) -> Iterator[Case]:
    if name == "dphr":
        return measure_ours(gallery, request, bandwidth)
    return measure_peer(name, gallery, request, bandwidth)


def _line(case: Case) -> str:
    host = "" if case.host_us is None else f"  host {case.host_us:.1f} us"
    return (
        f"{case.matcher:>6} {case.scan} {case.rows:>9} x {case.dim:<5} Q {case.queries:<4} k {case.top_k:<4} "
        f"p50 {format_ms(case.wall.p50_ms):>8} ms  n {case.wall.n:<6} limit {format_ms(case.limit_ms):>8} ms "
        f"{100 * case.share:5.1f} %  widened {case.widened}{host}"
    )


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(prog="bench.gpu.matching", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", action="store_true", help="print the roofline model of known boards and stop")
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, metavar="N", help="gallery rows")
    parser.add_argument("--dims", type=int, nargs="+", default=DIMS, metavar="D", help="dimensions")
    parser.add_argument("--queries", type=int, nargs="+", default=QUERIES, metavar="Q", help="queries a call")
    parser.add_argument("--top-k", type=int, nargs="+", default=TOP_KS, metavar="K", help="matches a query")
    parser.add_argument("--seconds", type=float, default=0.5, metavar="S", help="for each case (%(default)s)")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS, help="other searches, where installed")
    parser.add_argument("--bandwidth", type=float, metavar="GB/S", help="take this instead of measuring it")
    parser.add_argument("--json", type=Path, default=Path("bench/reports/gpu_matching.json"), metavar="FILE")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """What `make gpu-bench` runs."""
    request = build_parser().parse_args(arguments)
    return run_command("bench.gpu.matching", lambda: _print_or_measure(request))


def _print_or_measure(request: argparse.Namespace) -> None:
    if request.model:
        print("\n".join(model_table()))
        return
    report = run(request)
    with atomic_file(request.json) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"written: {request.json}")


if __name__ == "__main__":
    sys.exit(main())
