"""Is a benchmark's folder complete and readable: counting, looking for files, decoding, and the report for people."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from dphr_infer.errors import ImageError, printable
from dphr_infer.images.preprocess import read_image
from dphr_infer.measure.progress import Progress
from dphr_train.datasets.base import CheckReport, Count
from dphr_train.datasets.listed import absent_files
from dphr_train.types import TrainPair

SHOWN = 20
"""Names that a report shows of each kind of trouble."""


@dataclass(frozen=True, slots=True)
class CheckedSide:
    """The images of one view of one split, how it is called, and how many the official release has."""

    what: str
    official: int
    images: list[Path]


def pairs_sides(split: str, official: int, pairs: Sequence[TrainPair]) -> list[CheckedSide]:
    """Both views of a split for its check."""
    return [
        CheckedSide(f"{split} ground", official, [pair.query for pair in pairs]),
        CheckedSide(f"{split} satellite", official, [pair.reference for pair in pairs]),
    ]


def check_sides(
    root: Path, sides: Sequence[CheckedSide], read_images: bool, missing: Sequence[str] = ()
) -> CheckReport:
    """Count the images that are there and, where asked to, decode each once.

    Args:
        root: folder of the data set; names are reported relative to it.
        sides: what to look at; an image may stand in several.
        missing: what is known to be missing besides images of `sides`.
    """
    paths = list(dict.fromkeys(path for side in sides for path in side.images))
    absent = set(absent_files(paths))
    counts = [Count(side.what, len(set(side.images) - absent), side.official) for side in sides]
    gone = [*missing, *(_shown(path, root) for path in paths if path in absent)]
    present = [path for path in paths if path not in absent]
    return CheckReport(counts, gone, _unreadable(present, root) if read_images else [])


def format_report(report: CheckReport, own: bool = False) -> str:
    """The report as a table for people: what, found, official, ok; then what is missing and what cannot be read.

    Args:
        own: a set without official counts, which are left out.
    """
    width = max([len("what"), *(len(count.what) for count in report.counts)])
    lines = [f"{'what':{width}}  {'found':>9}" + ("" if own else f"  {'official':>9}  ok")]
    for count in report.counts:
        official = f"  {count.official:9,}  {'yes' if count.found == count.official else 'no'}"
        lines.append(f"{count.what:{width}}  {count.found:9,}" + ("" if own else official))
    for title, names in (("missing", report.missing), ("unreadable", report.unreadable)):
        if names:
            lines += [f"{title}: {len(names):,}", *(f"  {printable(name)}" for name in names[:SHOWN])]
        if len(names) > SHOWN:
            lines.append(f"  and {len(names) - SHOWN:,} more")
    differ = sum(count.found != count.official for count in report.counts)
    if own:
        lines.append(f"{len(report.missing):,} missing, {len(report.unreadable):,} unreadable.")
        return "\n".join(lines) + "\n"
    lines.append(
        "As the official release."
        if report.complete
        else f"Not as the official release: {differ} of {len(report.counts)} counts differ, "
        f"{len(report.missing):,} missing, {len(report.unreadable):,} unreadable."
    )
    return "\n".join(lines) + "\n"


def _unreadable(paths: Sequence[Path], root: Path) -> list[str]:
    found: list[str] = []
    pool = ThreadPoolExecutor(os.cpu_count() or 1)  # Pillow decodes outside the interpreter's lock
    try:
        with Progress("check", len(paths), "images") as progress:
            for path, reason in zip(paths, pool.map(_trouble, paths), strict=True):
                if reason:
                    found.append(reason.replace(str(path), _shown(path, root)))
                progress.advance()
    finally:
        pool.shutdown(cancel_futures=True)
    return found


def _trouble(path: Path) -> str:
    """Why an image cannot be decoded; empty where it can."""
    try:
        read_image(path)
    except ImageError as error:
        return str(error)
    return ""


def _shown(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
