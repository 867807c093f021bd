"""dphr-bench: latency of a bundle on a gallery, on this machine."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bench.page import to_html
from bench.report import to_text
from bench.run import DEFAULT_BATCHES, DEFAULT_MATCH_ROWS, DEFAULT_SECONDS, STAGE_SHARE, BenchRequest, run_bench
from dphr_infer.atomic import atomic_file
from dphr_infer.bundle import PRECISIONS
from dphr_infer.localizer import DEFAULT_TOP_K
from dphr_infer.terminal import run_command

PROGRAM = "dphr-bench"


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Measure how long a photo takes from file to position, stage by stage and in one piece, with the "
        "code that dphr-infer locate runs; throughput by batch size; matching against the memory's read bandwidth.",
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder made by dphr-export")
    parser.add_argument("gallery", type=Path, metavar="GALLERY", help="file made by dphr-infer index")
    parser.add_argument("--images", type=Path, metavar="DIR", help="photos (default: the bundle's self-test images)")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of the model (%(default)s)")
    parser.add_argument("--batches", type=int, nargs="+", default=DEFAULT_BATCHES, metavar="B", help="batch sizes")
    parser.add_argument(
        "--seconds",
        type=float,
        default=DEFAULT_SECONDS,
        metavar="S",
        help=f"time for each case; the case of one photo takes {STAGE_SHARE} times as long (%(default)s)",
    )
    parser.add_argument(
        "--match-rows",
        type=int,
        nargs="*",
        default=(DEFAULT_MATCH_ROWS,),
        metavar="N",
        help=f"also match random galleries of so many rows; none without a number ({DEFAULT_MATCH_ROWS})",
    )
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="of the engine; 0 takes all cores")
    parser.add_argument("--top-k", type=int, default=DEFAULT_TOP_K, metavar="K", help="matches a photo (%(default)s)")
    parser.add_argument("--heading", choices=("as-is", "north", "search"), default="as-is", help="as in locate")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure and sample there")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write one page with pictures there")
    return parser


def _write(path: Path, text: str) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def bench(arguments: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        DphrError: the user can mend it.
    """
    record = run_bench(
        BenchRequest(
            bundle=arguments.bundle,
            gallery=arguments.gallery,
            images=arguments.images,
            precision=arguments.precision,
            batches=tuple(arguments.batches),
            seconds=arguments.seconds,
            match_rows=tuple(arguments.match_rows),
            threads=arguments.threads,
            top_k=arguments.top_k,
            heading=arguments.heading,
        )
    )
    print(to_text(record), end="")
    if arguments.json is not None:
        _write(arguments.json, json.dumps(record.to_json(), indent=1) + "\n")
    if arguments.html is not None:
        _write(arguments.html, to_html(record))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command line."""
    return run_command(PROGRAM, partial(bench, build_parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
