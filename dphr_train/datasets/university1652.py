"""University-1652 (Zheng, Wei, Yang: ACM MM 2020) and every set in its folder layout.

train/{satellite,drone}/<id>/*              one satellite image and many drone images a place
test/{query,gallery}_{satellite,drone}/<id>/*    the galleries may hold more places than the queries (distractors)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dphr_infer.errors import DatasetError
from dphr_infer.preprocess import IMAGE_SUFFIXES
from dphr_train.datasets.base import Direction, PlaceImage, TrainPair, TrainSplit, View

Role = Literal["query", "gallery"]
TRAIN_VIEWS: tuple[View, ...] = ("satellite", "drone")


def _read_folder(folder: Path) -> list[PlaceImage]:
    """Every image below folder/<id>/, by id and name.

    Raises:
        DatasetError: the folder is missing, has a place whose name is no number, or a place without an image.
    """
    if not folder.is_dir():
        raise DatasetError(
            f"{folder} is missing. The set needs University-1652's layout: train/{{satellite,drone}}/<id>/ and "
            "test/{query,gallery}_{satellite,drone}/<id>/, each with its images."
        )
    images: list[PlaceImage] = []
    empty: list[str] = []
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        if not place.name.isdigit():
            raise DatasetError(f"{place} is not named by a number, as a place must be: rename or remove it.")
        found = sorted(path for path in place.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            empty.append(place.name)
        images += [PlaceImage(path, int(place.name)) for path in found]
    if empty:
        raise DatasetError(
            f"{folder} has {len(empty)} places without an image (the first: {', '.join(empty[:5])}). "
            "Copy them again or remove the empty folders."
        )
    if not images:
        raise DatasetError(f"{folder} holds no place with an image.")
    return images


@dataclass(frozen=True, slots=True)
class University1652:
    """A data set folder in University-1652's layout; nothing is read until a split is asked for."""

    root: Path

    def train_split(self) -> TrainSplit:
        """Every training drone image with the first satellite image of its place.

        Raises:
            DatasetError: a folder or a view of some places is missing; says which and how many.
        """
        images = {view: _read_folder(self.root / "train" / view) for view in TRAIN_VIEWS}
        places = {view: {image.place_id for image in images[view]} for view in TRAIN_VIEWS}
        for view, other in (("satellite", "drone"), ("drone", "satellite")):
            missing = sorted(places[other] - places[view])
            if missing:
                raise DatasetError(
                    f"{self.root / 'train' / view} lacks {len(missing)} of the {len(places[other])} places of the "
                    f"{other} view (the first: {', '.join(f'{place:04d}' for place in missing[:5])}). "
                    "Complete the download or remove them from the other view."
                )
        satellite: dict[int, Path] = {}
        for image in images["satellite"]:
            satellite.setdefault(image.place_id, image.path)
        pairs = [TrainPair(image.path, satellite[image.place_id], image.place_id) for image in images["drone"]]
        return TrainSplit(pairs, "drone")

    def test_directions(self) -> list[Direction]:
        """drone -> satellite and satellite -> drone; none where there is no test split.

        Raises:
            DatasetError: a folder is missing or has places without an image.
        """
        if not self.has_test_split():
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
        return _read_folder(self.root / "test" / f"{role}_{view}")

    def has_test_split(self) -> bool:
        """True when the folder has a test split at all."""
        return (self.root / "test").is_dir()
