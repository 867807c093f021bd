"""How each picture of a benchmark was taken: one CSV row a picture."""

from __future__ import annotations

import csv
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dphr_infer.files.atomic import atomic_file
from dphr_train.cities.acquisition import Conditions
from dphr_train.cities.city import City
from dphr_train.cities.places import SATELLITE_WIDTH_M, PlacePlan, Shot

METADATA_FILE = "metadata.csv"

_DEGREE_DECIMALS = 8  # a millimetre
_OTHER_DECIMALS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataRow:
    """One picture. Empty where it does not apply: a satellite has no heading, a drone no ground width.

    `ground_*` is where the centre of the picture meets flat ground, `place_*` the centre of the place.
    """

    path: str
    split: str
    view: str
    place_id: str
    view_number: int
    city_seed: int
    place_latitude_deg: float
    place_longitude_deg: float
    ground_latitude_deg: float
    ground_longitude_deg: float
    camera_latitude_deg: float | None = None
    camera_longitude_deg: float | None = None
    height_m: float | None = None
    heading_deg: float | None = None
    pitch_deg: float | None = None
    fov_deg: float | None = None
    ground_width_m: float | None = None
    acquisition_seed: int
    sun_azimuth_deg: float
    sun_elevation_deg: float
    autumn: float
    dryness: float
    cloudiness: float
    haze_m: float


def place_rows(city: City, plan: PlacePlan, satellite: Conditions) -> list[MetadataRow]:
    """The rows of a place, a row for every file."""
    rows = [_satellite_row(city, plan, target, satellite) for target in plan.satellite.targets]
    for shot in plan.shots:
        rows += [_drone_row(city, plan, shot, target) for target in shot.targets]
    return rows


def _satellite_row(city: City, plan: PlacePlan, target: str, conditions: Conditions) -> MetadataRow:
    ground = city.point(plan.satellite.x, plan.satellite.y)
    return MetadataRow(
        **_common(city, plan, target, conditions),
        view="satellite",
        view_number=0,
        ground_latitude_deg=ground.latitude_deg,
        ground_longitude_deg=ground.longitude_deg,
        ground_width_m=SATELLITE_WIDTH_M,
    )


def _drone_row(city: City, plan: PlacePlan, shot: Shot, target: str) -> MetadataRow:
    ground, camera = city.point(*shot.pose.aim()), city.point(shot.pose.x, shot.pose.y)
    return MetadataRow(
        **_common(city, plan, target, plan.conditions),
        view="drone",
        view_number=shot.number,
        ground_latitude_deg=ground.latitude_deg,
        ground_longitude_deg=ground.longitude_deg,
        camera_latitude_deg=camera.latitude_deg,
        camera_longitude_deg=camera.longitude_deg,
        height_m=shot.pose.height_m,
        heading_deg=shot.pose.heading_deg,
        pitch_deg=shot.pose.pitch_deg,
        fov_deg=shot.pose.fov_deg,
    )


def _common(city: City, plan: PlacePlan, target: str, conditions: Conditions) -> dict[str, Any]:
    """Columns that drone and satellite rows share."""
    place = city.point(plan.building.x, plan.building.y)
    return {
        "path": target,
        "split": _split(target),
        "place_id": plan.place_id,
        "city_seed": city.seed,
        "place_latitude_deg": place.latitude_deg,
        "place_longitude_deg": place.longitude_deg,
        "acquisition_seed": conditions.seed,
        "sun_azimuth_deg": conditions.sun_azimuth_deg,
        "sun_elevation_deg": conditions.sun_elevation_deg,
        "autumn": conditions.autumn,
        "dryness": conditions.dryness,
        "cloudiness": conditions.cloudiness,
        "haze_m": conditions.haze_m,
    }


def _split(target: str) -> str:
    """train, query or gallery, from the folder."""
    if target.lower().startswith("train"):
        return "train"
    return "query" if "/query_" in target else "gallery"


def write_rows(path: Path, rows: list[MetadataRow]) -> None:
    """Write the metadata as CSV, sorted by path."""
    names = [column.name for column in fields(MetadataRow)]
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(names)
        for row in sorted(rows, key=lambda row: row.path):
            out.writerow([_cell(name, getattr(row, name)) for name in names])


def _cell(name: str, value: float | str | None) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        degrees = name.endswith(("latitude_deg", "longitude_deg"))
        return f"{value:.{_DEGREE_DECIMALS if degrees else _OTHER_DECIMALS}f}"
    return str(value)
