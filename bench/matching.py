"""python -m bench.matching: our matchers on the CPU beside others, on one random gallery, in turns.

Within one case every search answers the same queries in turn, and a plain read of the gallery takes its turn with
them, so that whatever else the machine does meets all of them. The answers are compared in the same run. On a float16
gallery ours stand beside each other: widened to float32 once, widened in every call, and scanned as int8. The others
take float32.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.cases.batches import generate_rows
from bench.machine.profile import MachineProfile, read_machine
from bench.machine.roofline import limit_ms, measure_read_bandwidth
from bench.peers.cpu import Peer, open_peers
from bench.peers.turns import take_turns
from bench.stats import LatencySummary, format_ms, percentile, summarise
from dphr_infer.cli.terminal import run_command
from dphr_infer.errors import ConfigError
from dphr_infer.files.atomic import atomic_file
from dphr_infer.matchers.block_scan import usable_cores
from dphr_infer.matchers.exact import NumpyExactMatcher
from dphr_infer.matchers.int8 import NumpyInt8Matcher
from dphr_infer.types import Matches

PROGRAM = "python -m bench.matching"
SCHEMA = "dphr-bench-matching"
SCHEMA_VERSION = 3
OURS = "dphr numpy exact"
OURS_WIDENED = "dphr fp16 widened once"
OURS_EVERY_CALL = "dphr fp16 widened in every call"
OURS_INT8 = "dphr int8"
READ = "one read of the gallery"
CONDITIONS = (
    "Random unit vectors, warm. Searches take turns, call by call; one uncounted call each. p25 and p75 beside the "
    "median, nearest rank. bandwidth_share: bytes of the gallery as stored, read once, at the best measured read "
    "bandwidth, over the median; read_share: median of a plain read in the same turns over the median."
)


@dataclass(frozen=True, slots=True)
class SearchRecord:
    """One search of one case.

    Attributes:
        name, version: of the search; `name` is READ for the plain read.
        p25_ms, p75_ms: quartiles beside the summary's median.
        bandwidth_share, read_share: see CONDITIONS.
        times_ours: median over the median of our first matcher; above 1 is slower than that.
        same_rows: share of all (query, rank) with its row; None for the read. Ranks whose similarities are equal to
            rounding may differ.
        similarity_difference: largest absolute difference to its similarities, rank by rank; None for the read.
    """

    name: str
    version: str
    latency: LatencySummary
    p25_ms: float
    p75_ms: float
    bandwidth_share: float
    read_share: float
    times_ours: float
    same_rows: float | None
    similarity_difference: float | None


@dataclass(frozen=True, slots=True)
class CaseRecord:
    """All searches of one number of queries, every sample in the order of the calls, and why a peer has none."""

    queries: int
    searches: tuple[SearchRecord, ...]
    samples_ms: dict[str, tuple[float, ...]]
    failed: dict[str, str]


@dataclass(frozen=True, slots=True)
class MatchingRecord:
    """One run.

    Attributes:
        load_after: load average of the last minute.
        stored: dtype of the gallery.
        widened, rescanned: by the int8 matcher in all its calls; see `NumpyInt8Matcher`. 0 without it.
        left_out: why a peer is missing.
    """

    date: str
    conditions: str
    machine: MachineProfile
    load_after: float
    threads: int
    rows: int
    dim: int
    stored: str
    k: int
    bandwidth_bytes_per_s: float
    widened: int
    rescanned: int
    left_out: dict[str, str]
    cases: tuple[CaseRecord, ...]


def compare(found: Matches, ours: Matches) -> tuple[float, float]:
    """Share of equal rows, and the largest difference of similarity, rank by rank."""
    difference = np.abs(found.similarity.astype(np.float64) - ours.similarity)
    return float((found.rows == ours.rows).mean()), float(difference.max())


def read_all(part: NDArray[Any]) -> object:
    """Touch every byte; float16 as integers, whose largest NumPy finds faster than it reads."""
    return np.max(part.view(np.uint16) if part.dtype == np.float16 else part)


def measure_case(
    gallery: NDArray[Any],
    queries: NDArray[np.float32],
    k: int,
    peers: Sequence[Peer],
    threads: int,
    bandwidth: float,
    seconds: float,
) -> CaseRecord:
    """Time all searches of one set of queries in turns, and compare their answers with those of the first."""
    parts: list[NDArray[Any]] = np.array_split(gallery, threads)
    with ThreadPoolExecutor(threads) as pool:
        calls: dict[str, Callable[[], object]] = {READ: lambda: list(pool.map(read_all, parts))}
        for peer in peers:
            calls[peer.name] = lambda search=peer.search: search(queries, k)
        turns = take_turns(calls, seconds, frozenset({READ, peers[0].name}))
    samples, failed = turns.samples_ms, turns.failed
    medians = {name: percentile(values, 50) for name, values in samples.items()}
    reference = peers[0].search(queries, k)
    agreement = {peer.name: compare(peer.search(queries, k), reference) for peer in peers if peer.name in samples}
    versions = {peer.name: peer.version for peer in peers}
    searches = []
    for name, values in samples.items():
        same_rows, difference = agreement.get(name, (None, None))
        searches.append(
            SearchRecord(
                name=name,
                version=versions.get(name, np.__version__),
                latency=summarise(values),
                p25_ms=percentile(values, 25),
                p75_ms=percentile(values, 75),
                bandwidth_share=limit_ms(gallery.nbytes, bandwidth) / medians[name],
                read_share=medians[READ] / medians[name],
                times_ours=medians[name] / medians[peers[0].name],
                same_rows=same_rows,
                similarity_difference=difference,
            )
        )
    kept = {name: tuple(values.tolist()) for name, values in samples.items()}
    return CaseRecord(len(queries), tuple(searches), kept, failed)


def run_matching(
    rows: int, dim: int, queries: Sequence[int], k: int, threads: int, seconds: float, stored: str = "float32"
) -> MatchingRecord:
    """Measure every number of queries on one generated gallery, "float32" beside the peers, or "float16".

    Raises:
        ConfigError: a count is not positive, k is above `rows`, or the gallery does not fit in memory.
        MissingPackageError: ONNX Runtime, which the machine's profile names, is not installed.
    """
    if min(rows, dim, k, threads, *queries) < 1 or k > rows:
        raise ConfigError(
            f"Rows {rows}, dim {dim}, k {k}, threads {threads} and queries {list(queries)} must be at least 1, and "
            "k at most the rows."
        )
    machine = read_machine()
    bandwidth = measure_read_bandwidth(dataclasses.replace(machine, cores=threads))
    gallery = generate_rows(rows, dim, stored, seed=0)
    peers, left_out = open_peers(gallery, threads) if stored == "float32" else ([], {})
    with ExitStack() as stack:
        ours = {name: stack.enter_context(matcher) for name, matcher in our_matchers(gallery, threads).items()}
        peers = [*(Peer(name, np.__version__, matcher.match) for name, matcher in ours.items()), *peers]
        cases = []
        for count in queries:
            asked = generate_rows(count, dim, "float32", seed=1)
            cases.append(measure_case(gallery, asked, k, peers, threads, bandwidth, seconds))
    int8 = [matcher for matcher in ours.values() if isinstance(matcher, NumpyInt8Matcher)]
    return MatchingRecord(
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        conditions=CONDITIONS,
        machine=machine,
        load_after=read_machine().load,
        threads=threads,
        rows=rows,
        dim=dim,
        stored=stored,
        k=k,
        bandwidth_bytes_per_s=bandwidth,
        widened=sum(matcher.widened for matcher in int8),
        rescanned=sum(matcher.rescanned for matcher in int8),
        left_out=left_out,
        cases=tuple(cases),
    )


def our_matchers(gallery: NDArray[Any], threads: int) -> dict[str, NumpyExactMatcher | NumpyInt8Matcher]:
    """Those that a gallery of this dtype is measured with, not yet open; the first is what all are compared with."""
    if gallery.dtype == np.float32:
        return {OURS: NumpyExactMatcher(gallery, threads=threads)}
    return {
        OURS_WIDENED: NumpyExactMatcher(gallery, widen_bytes=4 * gallery.size, threads=threads),
        OURS_EVERY_CALL: NumpyExactMatcher(gallery, widen_bytes=0, threads=threads),
        OURS_INT8: NumpyInt8Matcher(gallery, threads=threads),
    }


def to_text(record: MatchingRecord) -> str:
    """The record as lines for a terminal."""
    machine = record.machine
    lines = [
        f"{record.rows:,} x {record.dim} {record.stored}, k {record.k}; {machine.cpu}, "
        f"{record.threads} of {machine.cores} cores, load {machine.load} to {record.load_after}; read bandwidth "
        f"{record.bandwidth_bytes_per_s / 1e9:.1f} GB/s",
    ]
    if record.stored == "float16":
        lines.append(f"int8: {record.widened} scans widened, {record.rescanned} queries scanned again by float16")
    lines += [f"left out: {reason}" for reason in record.left_out.values()]
    for case in record.cases:
        lines.append(f"{case.queries} queries: n, median ms (p25..p75), of bandwidth, of read, times ours, same rows")
        for item in case.searches:
            same = "" if item.same_rows is None else f"{item.same_rows:.4f}"
            lines.append(
                f"  {item.name:32} {item.latency.n:4d} {format_ms(item.latency.p50_ms):>7} "
                f"({format_ms(item.p25_ms)}..{format_ms(item.p75_ms)}) {item.bandwidth_share:6.1%} "
                f"{item.read_share:6.1%} {item.times_ours:6.2f} {same}"
            )
        lines += [f"  {name:32} failed: {reason}" for name, reason in case.failed.items()]
    return "\n".join(lines)


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Measure our matcher beside NumPy, torch, faiss, usearch and hnswlib on one random gallery, all in "
        "turns, against the memory's read bandwidth; with --stored float16, our ways to scan such a gallery instead. "
        "For one core, set OMP_NUM_THREADS=1 as well as --threads 1: NumPy's BLAS reads the environment.",
    )
    parser.add_argument("--rows", type=int, default=1_000_000, metavar="N", help="gallery rows (%(default)s)")
    parser.add_argument("--dim", type=int, default=512, metavar="D", help="dimensions (%(default)s)")
    parser.add_argument(
        "--stored", choices=("float32", "float16"), default="float32", help="the gallery's dtype (%(default)s)"
    )
    parser.add_argument("--queries", type=int, nargs="+", default=(1, 8, 32), metavar="Q", help="queries a call")
    parser.add_argument("--k", type=int, default=10, help="matches a query (%(default)s)")
    parser.add_argument("--threads", type=int, default=usable_cores(), metavar="T", help="(%(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=30.0, metavar="S", help="at least, for each case (%(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure and sample there")
    return parser


def measure(arguments: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        DphrError: the user can mend it.
    """
    record = run_matching(
        arguments.rows,
        arguments.dim,
        arguments.queries,
        arguments.k,
        arguments.threads,
        arguments.seconds,
        arguments.stored,
    )
    print(to_text(record))
    if arguments.json:
        content = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, **dataclasses.asdict(record)}
        with atomic_file(arguments.json) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, and turn an error of ours into one line."""
    arguments = build_parser().parse_args(argv)
    return run_command(PROGRAM, lambda: measure(arguments))


if __name__ == "__main__":
    sys.exit(main())
