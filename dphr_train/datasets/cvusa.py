"""CVUSA in the split of Zhai et al. (CVPR 2017): ground panoramas of the United States and one satellite image each.

bingmap/19/<7 digits>.jpg, streetview/panos/<7 digits>.jpg
splits/{train,val}-19zl.csv     no header: satellite, panorama, annotation; paths below the root
split_locations/all.csv         no header: satellite latitude, longitude, panorama latitude, longitude; line <id>
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from dphr_infer.errors import DatasetError
from dphr_train.datasets.base import CheckReport
from dphr_train.datasets.check import check_sides, pairs_sides
from dphr_train.datasets.layout import layout_error
from dphr_train.datasets.listed import pairs_direction, read_csv, require_files
from dphr_train.types import Direction, Positions, TrainPair, TrainSplit

Split = Literal["train", "val"]

OFFICIAL: dict[Split, int] = {"train": 35_532, "val": 8_884}
"""Pairs of the official release."""

_LOCATIONS = "split_locations/all.csv"


@dataclass(frozen=True, slots=True)
class Cvusa:
    """CVUSA; nothing is read until a split is asked for. A place's number is that in its satellite file's name."""

    root: Path

    def train_split(self) -> TrainSplit:
        """The training list, with the panoramas' positions where split_locations/all.csv is there.

        Raises:
            DatasetError: another layout, a damaged list, or images that it names are missing.
        """
        pairs = self._present_pairs("train")
        return TrainSplit(pairs, "ground", self._positions(sorted({pair.place_id for pair in pairs})))

    def test_directions(self) -> list[Direction]:
        """Ground -> satellite on the validation list, on which CVUSA is reported; none where only the training list is.

        Raises:
            DatasetError: like train_split.
        """
        if not self._list("val").is_file() and self._list("train").is_file():
            return []
        return [pairs_direction(self._present_pairs("val"))]

    def check(self, read_images: bool = True) -> CheckReport:
        """Count the images of both lists by view, and name those that are missing or unreadable.

        Raises:
            DatasetError: another layout, or a list is missing or damaged.
        """
        sides = [
            side for split, official in OFFICIAL.items() for side in pairs_sides(split, official, self._pairs(split))
        ]
        return check_sides(self.root, sides, read_images)

    def _list(self, split: Split) -> Path:
        return self.root / "splits" / f"{split}-19zl.csv"

    def _present_pairs(self, split: Split) -> list[TrainPair]:
        pairs = self._pairs(split)
        require_files([path for pair in pairs for path in (pair.query, pair.reference)], self._list(split))
        return pairs

    def _pairs(self, split: Split) -> list[TrainPair]:
        """The pairs of a list, whether their images are there or not."""
        path = self._list(split)
        if not path.is_file():
            raise layout_error(self.root, "cvusa", path)
        pairs = []
        for number, row in enumerate(read_csv(path), 1):
            stem = Path(row[0]).stem if row else ""
            if len(row) < 2 or not (stem.isascii() and stem.isdigit()):
                raise DatasetError(
                    f"{path}:{number} is not `<number>.jpg, panorama, annotation` but {','.join(row)[:80]!r}. "
                    "Copy the list again from its source."
                )
            pairs.append(TrainPair(self.root / row[1], self.root / row[0], int(stem)))
        if not pairs:
            raise DatasetError(f"{path} is empty. Copy it again from its source.")
        return pairs

    def _positions(self, places: list[int]) -> Positions | None:
        """Where the panoramas of the places were taken; None without the file of locations."""
        path = self.root / _LOCATIONS
        if not path.is_file():
            return None
        rows = read_csv(path)
        values = np.empty((len(places), 2))
        for at, place in enumerate(places):
            if not 1 <= place <= len(rows):
                raise DatasetError(f"{path} has {len(rows)} rows, but place {place:07d} needs row {place}.")
            try:
                values[at] = rows[place - 1][2], rows[place - 1][3]
            except (ValueError, IndexError):
                values[at] = np.nan
            if not (abs(values[at, 0]) <= 90 and abs(values[at, 1]) <= 180):
                raise DatasetError(
                    f"{path}:{place} has no latitude and longitude in columns 3 and 4. Copy it again from its source."
                )
        return Positions("degrees", values)
