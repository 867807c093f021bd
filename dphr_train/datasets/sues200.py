"""SUES-200 (Zhu et al., IEEE TCSVT 2023): 200 places flown at four heights; train and test are for one height each.

prepared    Training/<height>/{drone,satellite}/<id>/*, Testing/<height>/{query,gallery}_{drone,satellite}/<id>/*
raw         drone_view_512/<id>/<height>/*.jpg, satellite-view/<id>/*.png, split by the official ids

The galleries hold all places, those of the training split too, so both protocols differ. Where a folder has both
layouts, the prepared one is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dphr_infer.errors import ConfigError, DatasetError
from dphr_train.datasets.base import CheckReport
from dphr_train.datasets.check import CheckedSide, check_sides
from dphr_train.datasets.layout import has_layout, layout_error
from dphr_train.datasets.place_folders import PlaceScan, missing_places, pair_places, read_places, scan_places
from dphr_train.types import Direction, PlaceImage, TrainSplit, View

Role = Literal["train", "query", "gallery"]
VIEWS: tuple[View, View] = ("drone", "satellite")

HEIGHTS_M = (150, 200, 250, 300)
PLACES = range(1, 201)
_TRAIN_NUMBERS = """
    1 2 3 4 5 6 7 9 10 11 13 15 16 20 21 24 25 26 27 28 29 30 31 32 33 34 36 37 39 43 44 45 51 55 56 57 58 60 64
    66 67 69 70 73 74 76 77 80 81 82 84 85 86 87 88 89 90 91 94 96 97 100 101 102 103 104 105 106 113 116 118 119
    120 123 125 126 127 129 132 134 137 139 141 142 145 146 147 148 149 151 152 155 156 157 158 159 160 163 166
    167 168 169 171 174 179 180 182 183 184 185 186 187 191 192 193 196 197 198 199 200
"""
TRAIN_PLACES = frozenset(int(number) for number in _TRAIN_NUMBERS.split())
"""The 120 places of the official training split; the other 80 are the queries."""

OFFICIAL: dict[tuple[Role, View], int] = {
    ("train", "drone"): 6_000,
    ("train", "satellite"): 120,
    ("query", "drone"): 4_000,
    ("query", "satellite"): 80,
    ("gallery", "drone"): 10_000,
    ("gallery", "satellite"): 200,
}
"""Images of the official release at one height, by side."""


@dataclass(frozen=True, slots=True)
class Sues200:
    """SUES-200 at one height, prepared or raw; nothing is read until a split is asked for."""

    root: Path
    height_m: int

    def __post_init__(self) -> None:
        if self.height_m not in HEIGHTS_M:
            raise ConfigError(f"SUES-200 was flown at {', '.join(map(str, HEIGHTS_M))} m, not at {self.height_m} m.")

    def train_split(self) -> TrainSplit:
        """Every training drone image of the height with the satellite image of its place.

        Raises:
            DatasetError: another layout, or a folder, a place or a view of some places is missing.
        """
        sides = {self._folder("train", view): self._images("train", view) for view in VIEWS}
        return TrainSplit(pair_places(sides), "drone")

    def test_directions(self) -> list[Direction]:
        """Drone -> satellite and satellite -> drone at the height; none in a prepared folder without Testing.

        Raises:
            DatasetError: another layout, or a folder, a place or an image is missing.
        """
        if self._is_prepared() and not (self.root / "Testing").is_dir():
            return []
        views: tuple[tuple[View, View], ...] = (("drone", "satellite"), ("satellite", "drone"))
        return [
            Direction(
                f"{query}->{gallery}", query, gallery, self._images("query", query), self._images("gallery", gallery)
            )
            for query, gallery in views
        ]

    def check(self, read_images: bool = True) -> CheckReport:
        """Count the images of each side; a place that one view has and the other lacks is missing, and so is, in the
        raw layout, every place of the official 200.

        Raises:
            DatasetError: the folder has another layout.
        """
        if not has_layout(self.root, "sues200"):
            raise layout_error(self.root, "sues200", self._folder("gallery", "drone"))
        scans = {side: self._scan(*side) for side in OFFICIAL}
        missing: list[str] = []
        if self._is_prepared():
            for role in ("train", "query", "gallery"):
                missing += missing_places({self._name(role, view): scans[role, view] for view in VIEWS})
        else:
            for view in VIEWS:
                lacking = sorted(set(PLACES) - scans["gallery", view].places)
                missing += [f"{self._name('gallery', view)}/{place:04d}" for place in lacking]
        sides = [
            CheckedSide(f"{role} {view}", official, [image.path for image in scans[role, view].images])
            for (role, view), official in OFFICIAL.items()
        ]
        return check_sides(self.root, sides, read_images, missing)

    def _is_prepared(self) -> bool:
        return any((self.root / name).is_dir() for name in ("Training", "Testing"))

    def _folder(self, role: Role, view: View) -> Path:
        if not self._is_prepared():
            return self.root / ("drone_view_512" if view == "drone" else "satellite-view")
        if role == "train":
            return self.root / "Training" / str(self.height_m) / view
        return self.root / "Testing" / str(self.height_m) / f"{role}_{view}"

    def _name(self, role: Role, view: View) -> str:
        return self._folder(role, view).relative_to(self.root).as_posix()

    def _inner(self, view: View) -> str:
        """The folder below a place's that holds its images."""
        return str(self.height_m) if view == "drone" and not self._is_prepared() else ""

    def _images(self, role: Role, view: View) -> list[PlaceImage]:
        folder = self._folder(role, view)
        if not folder.is_dir():
            raise layout_error(self.root, "sues200", folder)
        images = read_places(folder, self._inner(view))
        if self._is_prepared():
            return images
        places = {image.place_id for image in images}
        if places != set(PLACES):
            missing, foreign = sorted(set(PLACES) - places), sorted(places - set(PLACES))
            names = ", ".join(f"{place:04d}" for place in (missing or foreign)[:5])
            raise DatasetError(
                f"{folder} lacks {len(missing)} of the official {len(PLACES)} places and has {len(foreign)} others "
                f"(the first: {names}). The raw layout is split by the official numbers: complete the download."
            )
        return [image for image in images if _is_of(role, image)]

    def _scan(self, role: Role, view: View) -> PlaceScan:
        scan = scan_places(self._folder(role, view), self._inner(view))
        if self._is_prepared():
            return scan
        return PlaceScan([image for image in scan.images if _is_of(role, image)], scan.empty)


def _is_of(role: Role, image: PlaceImage) -> bool:
    """Whether an image of the raw layout belongs to a side, by the official numbers."""
    return role == "gallery" or (image.place_id in TRAIN_PLACES) == (role == "train")
