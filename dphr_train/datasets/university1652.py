"""University-1652 (Zheng, Wei, Yang: ACM MM 2020) and every set in its folder layout.

train/{satellite,drone}/<id>/*              one satellite image and many drone images a place
test/{query,gallery}_{satellite,drone}/<id>/*    the galleries may hold more places than the queries (distractors)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dphr_train.datasets.base import CheckReport
from dphr_train.datasets.check import CheckedSide, check_sides
from dphr_train.datasets.layout import has_layout, layout_error
from dphr_train.datasets.place_folders import missing_places, pair_places, read_places, scan_places
from dphr_train.types import Direction, PlaceImage, TrainSplit, View

Role = Literal["query", "gallery"]

OFFICIAL = {
    "train/drone": 37_854,
    "train/satellite": 701,
    "test/query_drone": 37_855,
    "test/query_satellite": 701,
    "test/gallery_drone": 51_355,
    "test/gallery_satellite": 951,
}
"""Images of the official release, by folder."""


@dataclass(frozen=True, slots=True)
class University1652:
    """A data set folder in University-1652's layout; nothing is read until a split is asked for."""

    root: Path

    def train_split(self) -> TrainSplit:
        """Every training drone image with the first satellite image of its place.

        Raises:
            DatasetError: a folder or a view of some places is missing; says which and how many.
        """
        folders = [self.root / "train" / view for view in ("drone", "satellite")]
        return TrainSplit(pair_places({folder: self._read(folder) for folder in folders}), "drone")

    def test_directions(self) -> list[Direction]:
        """Drone -> satellite and satellite -> drone; none where there is no test split.

        Raises:
            DatasetError: another layout, a folder is missing, or places are without an image.
        """
        if not self.has_test_split():
            if not has_layout(self.root, "university1652"):
                raise layout_error(self.root, "university1652", self.root / "test")
            return []
        views: tuple[tuple[View, View], ...] = (("drone", "satellite"), ("satellite", "drone"))
        return [
            Direction(
                f"{query}->{gallery}",
                query,
                gallery,
                self.test_images("query", query),
                self.test_images("gallery", gallery),
            )
            for query, gallery in views
        ]

    def test_images(self, role: Role, view: View) -> list[PlaceImage]:
        """The images of one side of the test split.

        Raises:
            DatasetError: the folder is missing or has places without an image.
        """
        return self._read(self.root / "test" / f"{role}_{view}")

    def has_test_split(self) -> bool:
        """True when the folder has a test split at all."""
        return (self.root / "test").is_dir()

    def check(self, read_images: bool = True) -> CheckReport:
        """Count the images of each folder; a place that one view of a split has and the other lacks is missing.

        Raises:
            DatasetError: the folder has another layout.
        """
        if not has_layout(self.root, "university1652"):
            raise layout_error(self.root, "university1652", self.root / "train")
        scans = {what: scan_places(self.root / what) for what in OFFICIAL}
        missing = [
            name
            for side in ("train/", "test/query_", "test/gallery_")
            for name in missing_places({what: scan for what, scan in scans.items() if what.startswith(side)})
        ]
        sides = [CheckedSide(what, OFFICIAL[what], [i.path for i in scan.images]) for what, scan in scans.items()]
        return check_sides(self.root, sides, read_images, missing)

    def _read(self, folder: Path) -> list[PlaceImage]:
        if not folder.is_dir():
            raise layout_error(self.root, "university1652", folder)
        return read_places(folder)
