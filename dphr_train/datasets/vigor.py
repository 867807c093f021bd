"""VIGOR (Zhu, Yang, Chen: CVPR 2021): ground panoramas anywhere in the satellite images that tile four cities.

<City>/{panorama,satellite}/*  as released, or {ground,satellite}/<City>/*  as Sample4Geo keeps it
splits/<City>/satellite_list.txt
splits/<City>/{same_area_balanced_train,same_area_balanced_test,pano_label_balanced}.txt
    a row: panorama, then four times (satellite, delta, delta): the positive, then three semi-positives
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from dphr_infer.errors import ConfigError, DatasetError
from dphr_train.datasets.base import CheckReport
from dphr_train.datasets.check import CheckedSide, check_sides
from dphr_train.datasets.layout import VIGOR_CITIES, layout_error
from dphr_train.datasets.listed import ground_direction, read_lines, require_files
from dphr_train.types import Direction, PlaceImage, Positions, TrainPair, TrainSplit

Split = Literal["train", "test"]

CITIES: dict[tuple[str, Split], tuple[str, ...]] = {
    ("same", "train"): VIGOR_CITIES,
    ("same", "test"): VIGOR_CITIES,
    ("cross", "train"): ("NewYork", "Seattle"),
    ("cross", "test"): ("Chicago", "SanFrancisco"),
}

OFFICIAL: dict[tuple[str, Split], tuple[int, int]] = {
    ("same", "train"): (52_609, 90_618),
    ("same", "test"): (52_605, 90_618),
    ("cross", "train"): (51_520, 44_055),
    ("cross", "test"): (53_694, 46_563),
}
"""Panoramas and satellite images of the official lists, as the paper counts them."""

_COLUMNS = 13
_SATELLITE_COLUMNS = (1, 4, 7, 10)
_SATELLITE_NAME = re.compile(r"satellite_(-?\d+(?:\.\d+)?)_(-?\d+(?:\.\d+)?)\.png", re.ASCII)


@dataclass(frozen=True, slots=True)
class VigorSplit:
    """One split's lists.

    Attributes:
        satellites: all satellite images of its cities, whether a panorama lies in them or not.
        panoramas: the panoramas; a place's number is the index of its positive in `satellites`.
        semi_positives: for each panorama, indices of the three satellites that show it off their centre.
    """

    satellites: list[Path]
    panoramas: list[PlaceImage]
    semi_positives: list[tuple[int, ...]]

    @property
    def paths(self) -> list[Path]:
        """Every image of the lists."""
        return [*(panorama.path for panorama in self.panoramas), *self.satellites]


@dataclass(frozen=True, slots=True)
class Vigor:
    """VIGOR, "same" area or "cross" area; nothing is read until a split is asked for.

    A place is a satellite image: its number is its row in the gallery of the split, cities by name, then as listed.
    """

    root: Path
    area: str

    def __post_init__(self) -> None:
        if self.area not in ("same", "cross"):
            raise ConfigError(f"VIGOR's area is {self.area!r}; choose same or cross.")

    def train_split(self) -> TrainSplit:
        """Every training panorama with its positive; positions are the centres of the satellite images.

        Raises:
            DatasetError: another layout, a damaged list, or images that it names are missing.
        """
        lists = self._present("train")
        pairs = [TrainPair(pano.path, lists.satellites[pano.place_id], pano.place_id) for pano in lists.panoramas]
        places = sorted({pair.place_id for pair in pairs})
        values = np.array([_centre(lists.satellites[place]) for place in places], dtype=np.float64)
        return TrainSplit(pairs, "ground", Positions("degrees", values))

    def test_directions(self) -> list[Direction]:
        """Ground -> satellite, with all satellite images of the cities as gallery; none without any list of the split.

        Raises:
            DatasetError: like train_split.
        """
        has_train, has_test = (
            any(self._list(city, split).is_file() for city in CITIES[self.area, split]) for split in ("train", "test")
        )
        if has_train and not has_test:
            return []
        lists = self._present("test")
        return [
            ground_direction(
                lists.panoramas,
                [PlaceImage(path, row) for row, path in enumerate(lists.satellites)],
                semi_positives=np.array(lists.semi_positives, dtype=np.int64),
            )
        ]

    def check(self, read_images: bool = True) -> CheckReport:
        """Count the listed images by split and view, and name those that are missing or unreadable.

        Raises:
            DatasetError: another layout, or a list is missing or damaged.
        """
        sides = []
        splits: tuple[Split, ...] = ("train", "test")
        for split in splits:
            lists = self._read(split)
            panoramas, satellites = OFFICIAL[self.area, split]
            sides += [
                CheckedSide(f"{split} ground", panoramas, [panorama.path for panorama in lists.panoramas]),
                CheckedSide(f"{split} satellite", satellites, lists.satellites),
            ]
        return check_sides(self.root, sides, read_images)

    def _list(self, city: str, split: Split) -> Path:
        name = f"same_area_balanced_{split}" if self.area == "same" else "pano_label_balanced"
        return self.root / "splits" / city / f"{name}.txt"

    def _folder(self, city: str, view: Literal["ground", "satellite"]) -> Path:
        """A city's images of a view, in whichever convention is there."""
        released = self.root / city / ("panorama" if view == "ground" else "satellite")
        moved = self.root / view / city
        if moved.is_dir() and not released.is_dir():
            return moved
        if not released.is_dir():
            raise layout_error(self.root, "vigor", released)
        return released

    def _present(self, split: Split) -> VigorSplit:
        lists = self._read(split)
        require_files(lists.paths, self.root / "splits")
        return lists

    def _read(self, split: Split) -> VigorSplit:
        """The lists of a split, whether their images are there or not."""
        lists = VigorSplit([], [], [])
        for city in CITIES[self.area, split]:
            names = self.root / "splits" / city / "satellite_list.txt"
            labels = self._list(city, split)
            for path in (names, labels):
                if not path.is_file():
                    raise layout_error(self.root, "vigor", path)
            ground, satellite = self._folder(city, "ground"), self._folder(city, "satellite")
            rows: dict[str, int] = {}
            for name in (line.strip() for line in read_lines(names) if line.strip()):
                if name in rows:
                    raise DatasetError(f"{names} lists {name} twice. Copy the list again from its source.")
                rows[name] = len(lists.satellites)
                lists.satellites.append(satellite / name)
            for number, line in enumerate(read_lines(labels), 1):
                if line.strip():
                    panorama, found = _read_row(line, rows, f"{labels}:{number}", names)
                    lists.panoramas.append(PlaceImage(ground / panorama, found[0]))
                    lists.semi_positives.append(found[1:])
        if not lists.panoramas:
            raise DatasetError(f"{self.root / 'splits'} lists no panorama of {self.area} area, {split}.")
        return lists


def _read_row(line: str, rows: dict[str, int], where: str, names: Path) -> tuple[str, tuple[int, ...]]:
    """A panorama's name and the gallery rows of its positive and three semi-positives."""
    parts = line.split()
    if len(parts) != _COLUMNS:
        raise DatasetError(
            f"{where} has {len(parts)} columns instead of {_COLUMNS}: panorama, then four times satellite, delta, "
            "delta. Copy the list again from its source."
        )
    unknown = [parts[column] for column in _SATELLITE_COLUMNS if parts[column] not in rows]
    if unknown:
        raise DatasetError(f"{where} names {unknown[0]}, which {names} does not list. Copy both again.")
    return parts[0], tuple(rows[parts[column]] for column in _SATELLITE_COLUMNS)


def _centre(path: Path) -> tuple[float, float]:
    """Latitude and longitude in a satellite file's name, satellite_<latitude>_<longitude>.png."""
    found = _SATELLITE_NAME.fullmatch(path.name)
    if not found:
        raise DatasetError(f"{path} is not named satellite_<latitude>_<longitude>.png, which says where it lies.")
    return float(found[1]), float(found[2])
