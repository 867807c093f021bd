"""Benchmarks whose pairs stand in a list: reading the list, and refusing one that names files which are not there."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dphr_infer.errors import DatasetError
from dphr_train.types import Direction, PlaceImage, Rules, TrainPair


def read_lines(path: Path) -> list[str]:
    """Lines of a text file.

    Raises:
        DatasetError: it cannot be read or is no UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read ({error}). Copy it again from its source.") from error


def read_csv(path: Path) -> list[list[str]]:
    """Rows of a file of comma-separated values.

    Raises:
        DatasetError: it cannot be read or is no such file.
    """
    try:
        return list(csv.reader(read_lines(path)))
    except csv.Error as error:
        raise DatasetError(f"{path} is no list of comma-separated values ({error}). Copy it again.") from error


def ground_direction(queries: list[PlaceImage], gallery: list[PlaceImage], **rules: Any) -> Direction:
    """Ground -> satellite as CVUSA, CVACT and VIGOR report it; `rules` as of `Rules`, whose 1 % is floored."""
    return Direction("ground->satellite", "ground", "satellite", queries, gallery, ("full",), Rules("floor", **rules))


def pairs_direction(pairs: Sequence[TrainPair], **rules: Any) -> Direction:
    """The same, each panorama beside the satellite image of its place."""
    queries = [PlaceImage(pair.query, pair.place_id) for pair in pairs]
    return ground_direction(queries, [PlaceImage(pair.reference, pair.place_id) for pair in pairs], **rules)


def absent_files(paths: Iterable[Path]) -> list[Path]:
    """Those of the files that are not there, in their order; each folder is listed once, not each file asked for."""
    names: dict[Path, set[str]] = {}
    absent = []
    for path in paths:
        if path.parent not in names:
            names[path.parent] = {item.name for item in path.parent.iterdir()} if path.parent.is_dir() else set()
        if path.name not in names[path.parent]:
            absent.append(path)
    return absent


def require_files(paths: Sequence[Path], source: Path) -> None:
    """Refuse a list that names files which are not there; leaving pairs out in silence would change the benchmark.

    Args:
        paths: the files.
        source: the list that names them.

    Raises:
        DatasetError: says how many are missing and the first three.
    """
    if absent := absent_files(paths):
        raise missing_files_error(absent, len(paths), source)


def missing_files_error(absent: Sequence[Path], total: int, source: Path) -> DatasetError:
    """What to raise for files that `source` names and that are not there."""
    more = ", ..." if len(absent) > 3 else ""
    return DatasetError(
        f"{len(absent)} of the {total} images that {source} names are missing: "
        f"{', '.join(str(path) for path in absent[:3])}{more}. Complete the download; "
        "`dphr-train check` lists what is missing."
    )
