"""Measure on this GPU up to how many queries dot products beat tensor cores, and write it into the matcher's table.

    python -m bench.gpu.regimes             measure, print, and rewrite dphr_infer/cuda/topk/topk_regimes.json
    python -m bench.gpu.regimes --dry-run   measure and print only

Both kernels scan the same rows for the same queries, in turns, so that a clock that drifts hits them alike; medians of
the wall time of a scan with its copies. Entries of other GPUs stay as they are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.gpu.matching import make_gallery, make_queries
from bench.sampling import WARM_UP_CALLS, repeat
from dphr_infer.cli.terminal import run_command
from dphr_infer.cuda.build import load_fatbin
from dphr_infer.cuda.driver import Cuda, open_cuda
from dphr_infer.cuda.topk.launch import DeviceScan, Limits
from dphr_infer.cuda.topk.operands import ScanDtype
from dphr_infer.cuda.topk.plan import DOT_TILES
from dphr_infer.cuda.topk.regimes import TABLE, Regime, read_regimes, write_regimes
from dphr_infer.measure.clock import now_ms
from dphr_infer.measure.stats import format_ms

_TOP_K = 10
_CANDIDATES = 32


def time_in_turns(first: Callable[[], object], second: Callable[[], object], seconds: float) -> tuple[float, float]:
    """Median milliseconds of two calls that take turns for `seconds`."""
    samples: tuple[list[float], list[float]] = ([], [])

    def both() -> None:
        for call, into in zip((first, second), samples, strict=True):
            start_ms = now_ms()
            call()
            into.append(now_ms() - start_ms)

    for _ in range(WARM_UP_CALLS):
        first()
        second()
    repeat(both, seconds)
    return float(np.median(samples[0])), float(np.median(samples[1]))


def choose_dot_up_to(times: Mapping[int, tuple[float, float]]) -> int:
    """The largest batch up to which dot products are never slower.

    Args:
        times: {queries: (ms by dot products, ms by tensor cores)}.
    """
    best = 0
    for queries in sorted(times):
        by_dot, by_mma = times[queries]
        if by_dot > by_mma:
            break
        best = queries
    return best


def measure(
    cuda: Cuda, gallery: NDArray[np.float16], dtype: ScanDtype, seconds: float
) -> dict[int, tuple[float, float]]:
    """{queries: (ms by dot products, ms by tensor cores)} for every batch that has a dot product's kernel."""
    rows, dim = gallery.shape
    image = load_fatbin(cuda.properties.capability, cuda.properties.driver)
    ranges = ((0, rows),)
    limits = Limits(rows, dim, DOT_TILES[dtype][-1], max(_TOP_K, _CANDIDATES))
    with cuda.active():
        scans = [DeviceScan(cuda, image, limits, dtype, most) for most in (DOT_TILES[dtype][-1], 0)]
        for scan in scans:
            scan.put_rows(0, gallery)

        def run(scan: DeviceScan, queries: NDArray[np.float32]) -> Callable[[], object]:
            if dtype == "fp16":
                return lambda: scan.scan(queries, _TOP_K, ranges)
            return lambda: scan.scan_codes(queries, _TOP_K, _CANDIDATES, ranges)

        times = {}
        for n_queries in DOT_TILES[dtype]:
            queries = make_queries(n_queries, dim)
            times[n_queries] = time_in_turns(*(run(scan, queries) for scan in scans), seconds)
    return times


def run(request: argparse.Namespace) -> None:
    """Measure every dtype and length of a row; print a line each, and renew the table.

    Raises:
        DphrError: there is no GPU, or the rows do not fit on it.
    """
    found = []
    for dim in request.dims:
        gallery = make_gallery(request.rows, dim)
        for dtype in DOT_TILES:
            with open_cuda() as cuda:
                name, sm_count = cuda.properties.name, cuda.properties.sm_count
                times = measure(cuda, gallery, dtype, request.seconds)
            regime = Regime(dtype, sm_count, dim, choose_dot_up_to(times), name)
            found.append(regime)
            shown = "  ".join(f"Q {q}: {format_ms(dot)} / {format_ms(mma)}" for q, (dot, mma) in times.items())
            print(f"{name} {dtype} D {dim}: dot up to {regime.dot_up_to}; ms by dot / by mma  {shown}", flush=True)
    if request.dry_run:
        return
    measured = {(regime.dtype, regime.sm_count) for regime in found}
    kept = [regime for regime in read_regimes(request.table) if (regime.dtype, regime.sm_count) not in measured]
    write_regimes([*kept, *found], request.table)
    print(f"written: {request.table}")


def main(arguments: Sequence[str] | None = None) -> int:
    """What `make gpu-regimes` runs."""
    parser = argparse.ArgumentParser(prog="bench.gpu.regimes", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=10**6, metavar="N", help="gallery rows (%(default)s)")
    parser.add_argument("--dims", type=int, nargs="+", default=(256, 512, 1024), metavar="D", help="dimensions")
    parser.add_argument("--seconds", type=float, default=1.0, metavar="S", help="for each pair (%(default)s)")
    parser.add_argument("--table", type=Path, default=TABLE, metavar="FILE", help="the table to renew")
    parser.add_argument("--dry-run", action="store_true", help="print only")
    request = parser.parse_args(arguments)
    return run_command("bench.gpu.regimes", lambda: run(request))


if __name__ == "__main__":
    sys.exit(main())
