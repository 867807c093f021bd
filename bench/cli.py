"""dphr-bench: latency of a bundle on a gallery, on this machine; and what became of it since.

dphr-bench [run] BUNDLE [GALLERY]     measure
dphr-bench sweep ...                  one figure over a grid of settings, a line of JSON each
dphr-bench versus --baseline ...      another installation and this one in turns: is this one slower?
dphr-bench compare A B...             what changed between reports, beyond the noise
dphr-bench history FOLDER             a folder of reports over time
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.compare.baton import Baton
from bench.compare.compare import compare_files
from bench.compare.history import plot_history
from bench.compare.versus_cli import (
    add_verdict,
    add_versus,
    check_verdict,
    run_versus,
    share,
    split_words,
    write_verdict,
)
from bench.record import SCENARIOS
from bench.report.page import all_plots, to_html
from bench.report.plots import check_drawing, write_sheet
from bench.report.text import headline, to_markdown, to_text
from bench.request import (
    DEFAULT_BATCHES,
    DEFAULT_MATCH_ROWS,
    DEFAULT_MINUTES,
    DEFAULT_NOISE,
    DEFAULT_RATE_HZ,
    DEFAULT_SCENARIOS,
    DEFAULT_SECONDS,
    DEFAULT_STARTUPS,
    DEFAULT_STREAMS,
    SINGLE_STREAM_SHARE,
    BenchRequest,
)
from bench.run import run_bench
from bench.sweep_cli import add_sweep, run_sweep
from dphr_infer.cli.terminal import EXIT_INTERRUPTED, run_command
from dphr_infer.errors import ConfigError
from dphr_infer.evaluate.scoring import NEAR_M
from dphr_infer.files.atomic import atomic_file, check_target
from dphr_infer.files.bundle import PRECISIONS
from dphr_infer.locate.localizer import DEFAULT_TOP_K, HEADINGS
from dphr_infer.locate.open_engine import DEVICES
from dphr_infer.locate.search_options import prior_of
from dphr_infer.types import GeoPoint

PROGRAM = "dphr-bench"
COMMANDS = ("run", "sweep", "versus", "compare", "history")
EXIT_INVALID = 1


def _geo_point(text: str) -> GeoPoint:
    try:
        latitude, longitude = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not LAT,LON in degrees, e.g. 46.8426,-91.9946") from None
    if not (abs(latitude) <= 90 and abs(longitude) <= 180):
        raise argparse.ArgumentTypeError(f"{text!r} lies outside latitude ±90, longitude ±180")
    return GeoPoint(latitude, longitude)


def _baton(text: str) -> Baton:
    try:
        go_fd, waiting_fd = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not two file descriptors, as 5,6") from None
    return Baton(go_fd, waiting_fd)


def _add_run(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "run",
        help="measure (the word may be left out: dphr-bench BUNDLE GALLERY)",
        description="Measure how long a photo takes from file to position with the code that dphr-infer locate runs, "
        "in several scenarios; throughput by batch size and matching beside the machine's measured ceilings; start-up "
        "and memory. The same engine and gallery must answer rightly, or the report is INVALID and the exit code 1.",
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder made by dphr-export")
    parser.add_argument(
        "gallery", type=Path, nargs="?", metavar="GALLERY", help="file of dphr-infer index; without, only embedding"
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="photos (default: the bundle's self-test images)")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of the model (%(default)s)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="of the engine; 0 takes all cores")
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="as in locate (%(default)s)")
    parser.add_argument("--top-k", type=int, default=DEFAULT_TOP_K, metavar="K", help="matches a photo (%(default)s)")
    parser.add_argument("--heading", choices=HEADINGS, default="as-is", help="as in locate")
    parser.add_argument("--near", type=_geo_point, metavar="LAT,LON", help="position prior, as in locate")
    parser.add_argument("--within", type=float, metavar="M", help="radius around --near in metres")
    _add_what(parser)
    _add_gate(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure and sample there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write one page with pictures there")
    parser.add_argument("--png", type=Path, metavar="FILE", help="write the pictures alone there, on one sheet")
    parser.add_argument("--baton", type=_baton, metavar="GO,WAITING", help="added by dphr-bench versus: its pipes")


def _add_what(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is measured")
    group.add_argument(
        "--scenarios",
        nargs="*",
        choices=SCENARIOS,
        default=DEFAULT_SCENARIOS,
        metavar="NAME",
        help=f"of {', '.join(SCENARIOS)} (default: {' '.join(DEFAULT_SCENARIOS)})",
    )
    group.add_argument("--streams", type=int, default=DEFAULT_STREAMS, metavar="N", help="photos of multi-stream")
    group.add_argument(
        "--rate-hz", type=float, default=DEFAULT_RATE_HZ, metavar="F", help="frames a second of camera (%(default)s)"
    )
    group.add_argument("--minutes", type=float, default=DEFAULT_MINUTES, metavar="M", help="of endurance (%(default)s)")
    group.add_argument("--batches", type=int, nargs="+", default=DEFAULT_BATCHES, metavar="B", help="batch sizes")
    group.add_argument(
        "--seconds",
        type=float,
        default=DEFAULT_SECONDS,
        metavar="S",
        help=f"at most for each case; single-stream and camera take {SINGLE_STREAM_SHARE} times as long (%(default)s)",
    )
    group.add_argument(
        "--noise",
        type=share,
        default=DEFAULT_NOISE,
        metavar="SHARE",
        help="end a case earlier once its p50 is known to ± this share, 1%% or 0.01; 0 never does (%(default)s)",
    )
    group.add_argument(
        "--match-rows",
        type=int,
        nargs="*",
        default=(DEFAULT_MATCH_ROWS,),
        metavar="N",
        help=f"also match random galleries of so many rows; none without a number ({DEFAULT_MATCH_ROWS})",
    )
    group.add_argument(
        "--startups", type=int, default=DEFAULT_STARTUPS, metavar="N", help="warm starts of locate; 0 for none"
    )
    group.add_argument("--peers", action="store_true", help="measure others beside ours where they are installed")
    group.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="of the bundle's model: torch is a peer of embedding too"
    )


def _add_gate(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("validity")
    group.add_argument("--truth", type=Path, metavar="CSV", help="where the photos are, as in locate")
    group.add_argument("--least-recall", type=share, metavar="SHARE", help="of these that must be located, as 60%%")
    group.add_argument(
        "--recall-within", type=float, default=NEAR_M, metavar="M", help="of their truth, in metres (%(default)s)"
    )


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_run(commands)
    add_sweep(commands)
    add_versus(commands)
    compare = commands.add_parser("compare", help="what changed between reports, beyond the noise")
    compare.add_argument(
        "reports", type=Path, nargs="+", metavar="REPORT", help="JSON of dphr-bench; the first is the baseline"
    )
    add_verdict(compare)
    history = commands.add_parser("history", help="draw a folder of reports over time")
    history.add_argument("folder", type=Path, metavar="FOLDER", help="holds JSON of dphr-bench")
    history.add_argument("--out", type=Path, required=True, metavar="FILE", help="the PNG to write")
    return parser


def _write(path: Path, text: str) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _run(arguments: argparse.Namespace) -> int:
    written = (arguments.json, arguments.markdown, arguments.html, arguments.png)
    outputs = [path for path in written if path is not None]
    for path in outputs:
        check_target(path)
    if arguments.html is not None or arguments.png is not None:
        check_drawing()
    if arguments.baton is not None:
        arguments.baton.wait()
    record = run_bench(
        BenchRequest(
            bundle=arguments.bundle,
            gallery=arguments.gallery,
            images=arguments.images,
            precision=arguments.precision,
            scenarios=tuple(dict.fromkeys(arguments.scenarios)),
            streams=arguments.streams,
            batches=tuple(arguments.batches),
            seconds=arguments.seconds,
            noise=arguments.noise,
            rate_hz=arguments.rate_hz,
            minutes=arguments.minutes,
            startups=arguments.startups,
            match_rows=tuple(arguments.match_rows),
            threads=arguments.threads,
            device=arguments.device,
            top_k=arguments.top_k,
            heading=arguments.heading,
            prior=prior_of(arguments.near, arguments.within),
            truth=arguments.truth,
            recall_within_m=arguments.recall_within,
            least_recall=arguments.least_recall,
            peers=arguments.peers,
            checkpoint=arguments.checkpoint,
        ),
        None if arguments.baton is None else arguments.baton.wait,
    )
    print(to_text(record), end="")
    if arguments.json is not None:
        _write(arguments.json, record.to_line())
    if arguments.markdown is not None:
        _write(arguments.markdown, to_markdown(record))
    if arguments.html is not None:
        _write(arguments.html, to_html(record))
    if arguments.png is not None:
        write_sheet(arguments.png, headline(record), all_plots(record))
    if record.failure:
        raise ConfigError(f"The run ended early, and holds what was measured until then: {record.failure}")
    if record.interrupted:
        return EXIT_INTERRUPTED
    return 0 if record.valid else EXIT_INVALID


def _compare(arguments: argparse.Namespace) -> int:
    check_verdict(arguments)
    return write_verdict(compare_files(arguments.reports, arguments.fail_above), arguments)


def _history(arguments: argparse.Namespace) -> int:
    print(plot_history(arguments.folder, arguments.out).to_text(), end="")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command line.

    Returns:
        0; 1 for an INVALID report or a change beyond --fail-above; 2 for a mistake of the user's; 130 for an interrupt.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] not in COMMANDS and words[0] not in ("-h", "--help"):
        words.insert(0, "run")
    words, run_words = split_words(words)
    arguments = build_parser().parse_args(words)
    actions = {
        "run": _run,
        "sweep": run_sweep,
        "versus": lambda found: run_versus(found, run_words),
        "compare": _compare,
        "history": _history,
    }
    ended = [0]

    def act() -> None:
        ended[0] = actions[arguments.command](arguments)

    return run_command(PROGRAM, act) or ended[0]


if __name__ == "__main__":
    sys.exit(main())
