"""Up to how many queries dot products beat tensor cores on this GPU, for the matcher's table.

Both kernels scan the same rows for the same queries, in turns, so that a clock that drifts hits them alike; medians of
the wall time of a scan with its copies. Entries of other GPUs stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.cases.galleries import generate_rows
from bench.gpu.matching import make_gallery
from bench.peers.turns import take_turns
from dphr_infer.cuda.build import load_fatbin
from dphr_infer.cuda.driver import Cuda, open_cuda
from dphr_infer.cuda.topk.launch import DeviceScan, Limits
from dphr_infer.cuda.topk.operands import ScanDtype
from dphr_infer.cuda.topk.plan import DOT_TILES
from dphr_infer.cuda.topk.regimes import TABLE, Regime, read_regimes, write_regimes
from dphr_infer.measure.stats import format_ms
from export.report.table import Table, to_text

_TOP_K = 10
_CANDIDATES = 32
_DOT, _MMA = "dot products", "tensor cores"


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
            queries = generate_rows(n_queries, dim, "float32", seed=1)
            calls = dict(zip((_DOT, _MMA), (run(scan, queries) for scan in scans), strict=True))
            samples = take_turns(calls, seconds, frozenset(calls)).samples_ms
            times[n_queries] = float(np.median(samples[_DOT])), float(np.median(samples[_MMA]))
    return times


def renew(rows: int, dims: Sequence[int], seconds: float, table: Path | None, dry_run: bool) -> None:
    """Measure every dtype and length of a row, print a table, and renew this GPU's entries.

    Args:
        table: None renews the matcher's own.
        dry_run: print only.

    Raises:
        DphrError: there is no GPU, or the rows do not fit on it.
    """
    found, lines = [], list[tuple[str, ...]]()
    for dim in dims:
        gallery = make_gallery(rows, dim)
        for dtype in DOT_TILES:
            with open_cuda() as cuda:
                name, sm_count = cuda.properties.name, cuda.properties.sm_count
                times = measure(cuda, gallery, dtype, seconds)
            found.append(Regime(dtype, sm_count, dim, choose_dot_up_to(times), name))
            lines += [
                (f"{dtype}, D {dim}, {queries} queries", format_ms(dot), format_ms(mma))
                for queries, (dot, mma) in times.items()
            ]
    notes = tuple(f"{regime.source} {regime.dtype} D {regime.dim}: dot up to {regime.dot_up_to}." for regime in found)
    print(to_text(Table("Medians of a scan, ms", ("scan", _DOT, _MMA), tuple(lines), notes)))
    if dry_run:
        return
    path = table or TABLE
    measured = {(regime.dtype, regime.sm_count) for regime in found}
    kept = [regime for regime in read_regimes(path) if (regime.dtype, regime.sm_count) not in measured]
    write_regimes([*kept, *found], path)
    print(f"written: {path}")
