"""The arguments of `dphr-bench versus`, and how it and `dphr-bench compare` give their verdict."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from bench.compare.compare import compare_files, parse_share
from bench.compare.report import ComparisonReport
from bench.compare.versus import DEFAULT_PAIRS, OWN_PROGRAM, VersusRequest
from bench.compare.versus import run_versus as run_pairs
from bench.report.changes import change_plot
from bench.report.plots import check_drawing, write_sheet
from dphr_infer.errors import ConfigError
from dphr_infer.files.atomic import check_target

_COMMAND = "versus"
_SEPARATOR = "--"


def share(text: str) -> float:
    """A share as an argument, such as 5%."""
    try:
        return parse_share(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_verdict(parser: argparse.ArgumentParser) -> None:
    """Add what a comparison is asked for."""
    parser.add_argument(
        "--fail-above", type=share, metavar="SHARE", help="exit 1 where something is slower by more than this, as 5%%"
    )
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw the changes there")


def check_verdict(arguments: argparse.Namespace) -> None:
    """Refuse a picture that could not be drawn, before anything is measured.

    Raises:
        StorageError: its file could not be written.
        MissingPackageError: matplotlib is not installed.
    """
    if arguments.png is not None:
        check_target(arguments.png)
        check_drawing()


def write_verdict(report: ComparisonReport, arguments: argparse.Namespace) -> int:
    """Print, and draw where that was asked for; the exit code.

    Raises:
        ConfigError: a limit was given, and nothing can be judged.
    """
    print(report.text)
    if arguments.png is not None:
        plots = [change_plot(comparison, arguments.fail_above) for comparison in report.comparisons]
        write_sheet(arguments.png, "What changed", plots)
    report.check_judged()
    return report.exit_code


def add_versus(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        _COMMAND,
        help="another installation and this one in turns: is this one slower?",
        usage="dphr-bench versus --baseline PROGRAM --out FOLDER [options] -- BUNDLE [GALLERY] [options of a run]",
        description="Run two installations of dphr-bench in turns, a fifth of a second each, in new processes for each "
        "pair, and compare them by how the pairs scatter: on a machine that is shared, one run of each cannot tell 10 "
        "percent from noise. Short cases and many pairs are better than the reverse.",
    )
    parser.add_argument("--baseline", required=True, metavar="PROGRAM", help="dphr-bench of the other installation")
    parser.add_argument("--candidate", metavar="PROGRAM", help="dphr-bench of the candidate (default: this one)")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="gets the reports of both")
    parser.add_argument("--pairs", type=int, default=DEFAULT_PAIRS, metavar="N", help="runs of each (%(default)s)")
    add_verdict(parser)


def split_words(words: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """The words of `versus` itself, and those after its first "--", which are the run's."""
    if _COMMAND not in words[:1] or _SEPARATOR not in words:
        return list(words), ()
    place = list(words).index(_SEPARATOR)
    run_words = tuple(words[place + 1 :])
    return list(words[:place]), run_words[1:] if run_words[:1] == ("run",) else run_words


def _program(name: str) -> tuple[str, ...]:
    found = shutil.which(name)
    if found is None:
        raise ConfigError(f"{name} is no program: give an installation's, as ../before/.venv/bin/dphr-bench.")
    return (found,)


def run_versus(arguments: argparse.Namespace, run_words: tuple[str, ...]) -> int:
    """Run the pairs, compare them; the exit code."""
    check_verdict(arguments)
    request = VersusRequest(
        baseline=_program(arguments.baseline),
        candidate=OWN_PROGRAM if arguments.candidate is None else _program(arguments.candidate),
        words=run_words,
        folder=arguments.out,
        pairs=arguments.pairs,
    )
    return write_verdict(compare_files(run_pairs(request), arguments.fail_above), arguments)
