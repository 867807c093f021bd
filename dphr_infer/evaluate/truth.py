"""Where photos were really taken of: from a CSV file, or else from what the drone wrote into them."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dphr_infer.errors import ConfigError
from dphr_infer.files.gallery import Gallery
from dphr_infer.geo import distance_m
from dphr_infer.images.metadata import PhotoMetadata
from dphr_infer.types import GeoPoint

TruthSource = Literal["file", "metadata"]
_CORNERS = tuple((f"corner{i}_latitude_deg", f"corner{i}_longitude_deg") for i in (1, 2, 3, 4))
_CORNER_COLUMNS = tuple(column for pair in _CORNERS for column in pair)
# A flight is far shorter than this, and swapped columns lead further away almost everywhere.
_MAX_DISTANCE_M = 100_000.0


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
        ConfigError: unreadable, no row, a column missing, a number that is none or out of range, corners in part, or a
            photo named twice.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read as a CSV file of truths ({error}).") from error
    if not rows:
        raise ConfigError(f"{path} has no row below its head: give each photo a line photo,latitude_deg,longitude_deg.")
    _check_corner_columns(reader.fieldnames or (), path)
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
        has_corners = any(row.get(column) for column in _CORNER_COLUMNS)
        corners = tuple(_point(row, *pair, where) for pair in _CORNERS) if has_corners else ()
        found[name] = Truth(point, corners, "file")
    return found


def _check_corner_columns(columns: Sequence[str], path: Path) -> None:
    found = {column for column in columns if column and column.startswith("corner")}
    if found and found != set(_CORNER_COLUMNS):
        lacking = ", ".join(column for column in _CORNER_COLUMNS if column not in found)
        unknown = ", ".join(sorted(found - set(_CORNER_COLUMNS)))
        raise ConfigError(
            f"{path} has corner columns in part: {'lacking ' + lacking if lacking else ''}"
            f"{'; ' if lacking and unknown else ''}{'unknown ' + unknown if unknown else ''}. "
            "Give all eight, corner1_latitude_deg to corner4_longitude_deg, or none."
        )


def check_truths(truths: dict[str, Truth], path: Path, photos: Sequence[Path], gallery: Gallery) -> None:
    """Refuse a truth file that does not belong to the photos or to the map.

    Raises:
        ConfigError: no photo is named, two photos of one name are, or a truth lies over 100 km from every tile.
    """
    names = Counter(photo.name for photo in set(photos))
    if not names.keys() & truths.keys():
        raise ConfigError(
            f"{path} names none of the {len(photos)} photos: it has {len(truths)} rows such as {next(iter(truths))!r}, "
            f"the photos are such as {photos[0].name!r}. Write file names with suffix and without folder."
        )
    middle = gallery.point(len(gallery) // 2)
    reach_m = float(gallery.distances_m(middle).max())
    for name in sorted(names.keys() & truths.keys()):
        if names[name] > 1:
            raise ConfigError(
                f"{path} names {name}, as {names[name]} of the photos in different folders are called. Locate the "
                "folders one by one, each with its own truth."
            )
        point = truths[name].point
        away_m = distance_m(middle, point) - reach_m
        if away_m > _MAX_DISTANCE_M:
            raise ConfigError(
                f"{path} places {name} at latitude {point.latitude_deg:g}, longitude {point.longitude_deg:g}, over "
                f"{away_m / 1000:.0f} km from every tile of {gallery.path}. Are the two columns swapped, or is it "
                "another map's truth?"
            )


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
