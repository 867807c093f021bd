"""CVACT (Liu, Li: CVPR 2019): ground panoramas of Canberra and one satellite image each. The only file that reads .mat.

ANU_data_small/{streetview/<id>_grdView.jpg, satview_polish/<id>_satView_polish.jpg}    train and val
ANU_data_test/...                                                                       test
ACT_data.mat    panoIds; utm, east and north in metres; trainSet.trainInd, valSet.valInd, valSetAll.valInd, from 1
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import ConfigError, DatasetError, MissingPackageError
from dphr_train.datasets.base import CheckReport
from dphr_train.datasets.check import CheckedSide, check_sides, pairs_sides
from dphr_train.datasets.layout import layout_error
from dphr_train.datasets.listed import absent_files, missing_files_error, pairs_direction, require_files
from dphr_train.types import Direction, GroundPositions, Positions, TrainPair, TrainSplit

Part = Literal["train", "val", "test"]

OFFICIAL: dict[Part, int] = {"train": 35_532, "val": 8_884, "test": 92_802}
"""Pairs of the official lists."""

OFFICIALLY_MISSING_TRAIN_PAIRS = 1
"""The official release itself lacks one image of the training list."""

_FIELDS: dict[Part, tuple[str, str]] = {
    "train": ("trainSet", "trainInd"),
    "val": ("valSet", "valInd"),
    "test": ("valSetAll", "valInd"),
}


_VARIABLES = ("panoIds", "utm", *(variable for variable, _ in _FIELDS.values()))


@dataclass(frozen=True, slots=True, eq=False)
class CvactTable:
    """What ACT_data.mat says.

    Attributes:
        ids: names of the N panoramas.
        utm_m: float64 (N, 2), east and north.
        rows: int64, rows of `ids` in each split, counted from 0.
    """

    ids: list[str]
    utm_m: NDArray[np.float64]
    rows: dict[Part, NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Cvact:
    """CVACT, tested on its "val" or its "test" split; nothing is read until a split is asked for.

    A place's number is its row in ACT_data.mat, from 0.
    """

    root: Path
    split: str

    def __post_init__(self) -> None:
        if self.split not in ("val", "test"):
            raise ConfigError(f"CVACT's split is {self.split!r}; choose val or test.")

    def train_split(self) -> TrainSplit:
        """The training list with its positions, the same for both test splits.

        The one pair whose image the official release lacks is left out; `check` names it.

        Raises:
            DatasetError: another layout, a damaged ACT_data.mat, or more than that one pair is without an image.
            MissingPackageError: SciPy is not installed.
        """
        table = self._read_table()
        pairs = self._pairs(table, "train")
        paths = _paths(pairs)
        absent = absent_files(paths)
        gone = set(absent)
        kept = [pair for pair in pairs if pair.query not in gone and pair.reference not in gone]
        if len(pairs) - len(kept) > OFFICIALLY_MISSING_TRAIN_PAIRS or not kept:
            raise missing_files_error(absent, len(paths), self._mat)
        values = table.utm_m[sorted({pair.place_id for pair in kept})]
        return TrainSplit(kept, "ground", Positions("metres", values))

    def test_directions(self) -> list[Direction]:
        """Ground -> satellite; on the test split with positions, for the official rule of 5 m.

        Raises:
            DatasetError: another layout, a damaged ACT_data.mat, or an image is missing.
            MissingPackageError: SciPy is not installed.
        """
        table = self._read_table()
        part: Part = "test" if self.split == "test" else "val"
        pairs = self._pairs(table, part)
        require_files(_paths(pairs), self._mat)
        where = table.utm_m[table.rows[part]]
        return [pairs_direction(pairs, positions=GroundPositions(where, where) if part == "test" else None)]

    def check(self, read_images: bool = True) -> CheckReport:
        """Count the images of the training list and of the split, by view.

        The official release lacks one image of the training list: where exactly one is missing there, the side that
        lacks it is held against the list less one.

        Raises:
            DatasetError: another layout, or ACT_data.mat is damaged.
            MissingPackageError: SciPy is not installed.
        """
        table = self._read_table()
        parts: tuple[Part, ...] = ("train", "test" if self.split == "test" else "val")
        sides = [side for part in parts for side in pairs_sides(part, OFFICIAL[part], self._listed(table, part))]
        return check_sides(self.root, _less_the_officially_missing(sides), read_images)

    @property
    def _mat(self) -> Path:
        return self.root / "ACT_data.mat"

    def _images(self, part: Part) -> Path:
        return self.root / ("ANU_data_test" if part == "test" else "ANU_data_small")

    def _read_table(self) -> CvactTable:
        if not self._mat.is_file():
            raise layout_error(self.root, "cvact", self._mat)
        return read_table(self._mat)

    def _pairs(self, table: CvactTable, part: Part) -> list[TrainPair]:
        """The pairs of a split whose folder has to be there."""
        if not self._images(part).is_dir():
            raise layout_error(self.root, "cvact", self._images(part))
        return self._listed(table, part)

    def _listed(self, table: CvactTable, part: Part) -> list[TrainPair]:
        folder = self._images(part)
        return [
            TrainPair(
                folder / "streetview" / f"{table.ids[row]}_grdView.jpg",
                folder / "satview_polish" / f"{table.ids[row]}_satView_polish.jpg",
                int(row),
            )
            for row in table.rows[part]
        ]


def _less_the_officially_missing(sides: list[CheckedSide]) -> list[CheckedSide]:
    """The sides, the two of train without the one image that the official release lacks."""
    train = sides[:2]
    absent = absent_files([path for side in train for path in side.images])
    if len(absent) != OFFICIALLY_MISSING_TRAIN_PAIRS:
        return sides
    kept = [
        CheckedSide(
            f"{side.what} (less the one never released)",
            side.official - 1,
            [path for path in side.images if path not in absent],
        )
        if any(path in absent for path in side.images)
        else side
        for side in train
    ]
    return [*kept, *sides[2:]]


def read_table(path: Path) -> CvactTable:
    """Read ACT_data.mat.

    A file cut short is refused; one with changed bytes may bring SciPy's compiled reader down (1.17 does).

    Raises:
        DatasetError: it is damaged, lacks a variable, or has an index outside 1..N.
        MissingPackageError: SciPy is not installed.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise MissingPackageError("scipy", "train", "Reading CVACT's ACT_data.mat") from error
    try:
        content = loadmat(path, squeeze_me=True, variable_names=_VARIABLES)
    except Exception as error:  # SciPy answers a damaged file with whatever its reader stumbles over
        raise DatasetError(f"{path} is damaged or no MATLAB file ({error}). Copy it again from its source.") from error
    try:
        ids = [str(name).strip() for name in np.atleast_1d(content["panoIds"])]
        utm_m = np.asarray(content["utm"], dtype=np.float64).reshape(-1, 2)
        rows = {part: _rows(path, content, part, len(ids)) for part in _FIELDS}
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise DatasetError(
            f"{path} has not CVACT's panoIds, utm, trainSet.trainInd, valSet.valInd and valSetAll.valInd ({error}). "
            "Copy it again from its source."
        ) from error
    if len(utm_m) != len(ids) or not np.isfinite(utm_m).all():
        finite = int(np.isfinite(utm_m).all(axis=1).sum())
        raise DatasetError(f"{path} has {finite} positions for {len(ids)} panoramas. Copy it again from its source.")
    return CvactTable(ids, utm_m, rows)


def _rows(path: Path, content: dict[str, Any], part: Part, n: int) -> NDArray[np.int64]:
    """Rows of one split, from 0."""
    variable, member = _FIELDS[part]
    indices = np.atleast_1d(content[variable][member].item()).astype(np.int64).ravel()
    outside = indices[(indices < 1) | (indices > n)]
    if outside.size:
        raise DatasetError(f"{path} has {variable}.{member} {outside[0]}, but its {n} panoramas count from 1.")
    return indices - 1


def _paths(pairs: Sequence[TrainPair]) -> list[Path]:
    return [path for pair in pairs for path in (pair.query, pair.reference)]
