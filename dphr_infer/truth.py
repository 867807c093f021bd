"""Where photos were really taken of: from a CSV file, or else from what the drone wrote into them."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dphr_infer.errors import ConfigError
from dphr_infer.photo import PhotoMetadata
from dphr_infer.types import GeoPoint

TruthSource = Literal["file", "metadata"]
_CORNERS = tuple((f"corner{i}_latitude_deg", f"corner{i}_longitude_deg") for i in (1, 2, 3, 4))


@dataclass(frozen=True, slots=True)
class Truth:
    """The ground position of a photo's centre, and its footprint where that is known.

    Attributes:
        point: of the centre.
        corners: four corners in order, or none.
        source: "file" is a --truth CSV; "metadata" is the camera's own position on the assumption of flat ground.
    """

    point: GeoPoint
    corners: tuple[GeoPoint, ...]
    source: TruthSource


def read_truth(path: Path) -> dict[str, Truth]:
    """Read a truth file: CSV with the columns photo, latitude_deg, longitude_deg and optionally the footprint.

    The footprint is corner1_latitude_deg, corner1_longitude_deg … corner4_longitude_deg, in order around the photo.

    Returns:
        {file name of the photo, without folder: truth}.

    Raises:
        ConfigError: unreadable, a column missing, a number that is none or out of range, or a photo named twice.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read as a CSV file of truths ({error}).") from error
    found: dict[str, Truth] = {}
    for number, row in enumerate(rows, start=2):
        name = row.get("photo")
        if not name:
            raise ConfigError(
                f"{path} line {number} names no photo: it needs columns photo,latitude_deg,longitude_deg."
            )
        if name in found:
            raise ConfigError(f"{path} line {number} names {name} a second time. Remove one of the two.")
        where = f"{path} line {number}"
        point = _point(row, "latitude_deg", "longitude_deg", where)
        has_corners = all(row.get(column) for pair in _CORNERS for column in pair)
        corners = tuple(_point(row, *pair, where) for pair in _CORNERS) if has_corners else ()
        found[name] = Truth(point, corners, "file")
    return found


def _point(row: dict[str, str], latitude_column: str, longitude_column: str, where: str) -> GeoPoint:
    values = []
    for column, limit in ((latitude_column, 90.0), (longitude_column, 180.0)):
        text = row.get(column) or ""
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not abs(value) <= limit:
            raise ConfigError(f"{where} has {column} = {text!r}; a number in ±{limit:.0f} is needed.")
        values.append(value)
    return GeoPoint(values[0], values[1])


def truth_of(path: Path, metadata: PhotoMetadata, from_file: dict[str, Truth]) -> Truth | None:
    """The truth of a photo: the file's, else the ground point of its metadata, else None."""
    if path.name in from_file:
        return from_file[path.name]
    point = metadata.ground_point()
    return None if point is None else Truth(point, (), "metadata")
