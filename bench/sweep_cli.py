"""The arguments of `dphr-bench sweep`, and what it writes."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from bench.galleries import default_cache
from bench.record import BenchRecord
from bench.report.page import all_plots, to_html
from bench.report.plots import check_drawing, write_sheet
from bench.report.text import headline, to_text
from bench.request import DEFAULT_BATCHES, DEFAULT_NOISE, MAX_BATCH
from bench.steps import say
from bench.sweep import embed_points, match_points, merge, open_bench
from dphr_infer.cli.terminal import EXIT_INTERRUPTED
from dphr_infer.errors import ConfigError, DphrError
from dphr_infer.files.atomic import atomic_file, check_target
from dphr_infer.files.bundle import PRECISIONS
from dphr_infer.locate.open_engine import DEVICES
from dphr_infer.locate.open_matcher import SCANS

EXIT_INVALID = 1
_SECONDS = 2.0


def _count(text: str) -> int:
    """A whole number, also as 1e6."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (1 <= value < math.inf and value == int(value)):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on, such as 10000 or 1e4")
    return int(value)


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=_SECONDS, metavar="S", help="at most a point (%(default)s)")
    parser.add_argument("--noise", type=float, default=DEFAULT_NOISE, metavar="SHARE", help="as in run (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write a line of JSON a point there")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write one page with pictures there")
    parser.add_argument("--png", type=Path, metavar="FILE", help="write the pictures alone there, on one sheet")


def _add_threads(parser: argparse.ArgumentParser, words: str) -> None:
    parser.add_argument("--threads", type=int, nargs="+", default=[0], metavar="N", help=words)


def add_sweep(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("sweep", help="one figure over a grid of settings, a line of JSON a point")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    match = kinds.add_parser("match", help="matching on generated galleries")
    for option, default, text in (
        ("--rows", [10_000, 100_000, 1_000_000], "gallery rows"),
        ("--dim", [512], "dimensions"),
        ("--queries", [1], "queries at once"),
        ("--k", [10], "matches a query"),
    ):
        words = f"{text} ({' '.join(map(str, default))})"
        match.add_argument(option, type=_count, nargs="+", default=default, metavar="N", help=words)
    match.add_argument("--dtype", nargs="+", choices=("float16", "float32"), default=["float16"], help="as stored")
    match.add_argument("--scan", choices=SCANS, default="rows", help="of the matcher (%(default)s)")
    match.add_argument(
        "--prior-m", type=float, nargs="+", default=[0.0], metavar="M", help="radius of a prior; 0 is none (0)"
    )
    match.add_argument(
        "--cache", type=Path, default=default_cache(), metavar="DIR", help="of generated galleries (%(default)s)"
    )
    _add_outputs(match)
    match.add_argument("--peers", action="store_true", help="measure others beside ours where they are installed")
    _add_threads(match, "of the matcher; 0 takes all cores (0)")
    embed = kinds.add_parser("embed", help="the models of bundles")
    embed.add_argument(
        "bundles",
        type=Path,
        nargs="+",
        metavar="BUNDLE",
        help="folders made by dphr-export; one for each image size that is to be compared",
    )
    embed.add_argument("--devices", nargs="+", choices=DEVICES, default=["cpu"], help="as locate --device (cpu)")
    embed.add_argument("--precisions", nargs="+", choices=PRECISIONS, metavar="P", help="default: all that it holds")
    _add_threads(embed, "0 takes all cores (0)")
    embed.add_argument("--batches", type=_count, nargs="+", default=DEFAULT_BATCHES, metavar="B", help="batch sizes")
    _add_outputs(embed)


def _check(arguments: argparse.Namespace) -> None:
    for path in (arguments.json, arguments.html, arguments.png):
        if path is not None:
            check_target(path)
    if arguments.html is not None or arguments.png is not None:
        check_drawing()
    if not 0 < arguments.seconds < math.inf or not 0 <= arguments.noise < 1:
        raise ConfigError(
            f"--seconds is {arguments.seconds:g} and --noise {arguments.noise:g}: give a finite time above 0, and a "
            "share in 0..1."
        )
    if min(arguments.threads) < 0:
        raise ConfigError(
            f"--threads {min(arguments.threads)} is below 0: give a number of threads, or 0 for all cores."
        )
    if arguments.kind == "match" and not all(0 <= prior_m < math.inf for prior_m in arguments.prior_m):
        raise ConfigError(f"--prior-m {arguments.prior_m} holds no radius: give finite metres, or 0 for no prior.")
    if arguments.kind == "match" and max(arguments.k) > min(arguments.rows):
        raise ConfigError(
            f"--k {max(arguments.k)} is above --rows {min(arguments.rows)}: give more rows or a smaller k."
        )
    if arguments.kind == "embed" and max(arguments.batches) > MAX_BATCH:
        raise ConfigError(f"Batches are {tuple(arguments.batches)}: give sizes in 1..{MAX_BATCH}.")


def run_sweep(arguments: argparse.Namespace) -> int:
    """Measure every point, print the table, write what was asked for; an interrupt or error keeps the points so far."""
    _check(arguments)
    bench = open_bench(arguments.seconds, arguments.noise, arguments.threads)
    records: list[BenchRecord] = []
    try:
        for record in (match_points if arguments.kind == "match" else embed_points)(arguments, bench):
            records.append(record)
    except (KeyboardInterrupt, DphrError) as end:
        if not records:
            raise
        if isinstance(end, DphrError):
            records[-1] = dataclasses.replace(records[-1], failure=str(end))
        else:
            records[-1] = dataclasses.replace(records[-1], interrupted=True)
            say(f"interrupted: {len(records)} points are kept")
    whole = merge(records)
    _write(arguments, whole, records)
    if whole.failure:
        raise ConfigError(f"The sweep ended early; {len(records)} points are kept: {whole.failure}")
    if whole.interrupted:
        return EXIT_INTERRUPTED
    return 0 if whole.valid else EXIT_INVALID


def _write(arguments: argparse.Namespace, whole: BenchRecord, records: Sequence[BenchRecord]) -> None:
    print(to_text(whole), end="")
    if arguments.json is not None:
        with atomic_file(arguments.json) as temporary:
            temporary.write_text("".join(record.to_line() for record in records), encoding="utf-8")
    if arguments.html is not None:
        with atomic_file(arguments.html) as temporary:
            temporary.write_text(to_html(whole), encoding="utf-8")
    if arguments.png is not None:
        write_sheet(arguments.png, headline(whole), all_plots(whole))
