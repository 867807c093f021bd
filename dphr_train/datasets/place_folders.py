"""Benchmarks that keep each place in a folder named by its number: <folder>/<id>/*.jpg."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dphr_infer.errors import DatasetError
from dphr_infer.images.preprocess import IMAGE_SUFFIXES
from dphr_train.types import PlaceImage, TrainPair


@dataclass(frozen=True, slots=True)
class PlaceScan:
    """The images below a folder, by place and name, and the places that have none."""

    images: list[PlaceImage]
    empty: list[Path]

    @property
    def places(self) -> set[int]:
        """Numbers of the places that have an image."""
        return {image.place_id for image in self.images}


def scan_places(folder: Path, inner: str = "") -> PlaceScan:
    """Every image in folder/<id>/, or in folder/<id>/<inner>/; nothing where the folder is not there.

    Raises:
        DatasetError: a folder whose name is no number.
    """
    images: list[PlaceImage] = []
    empty: list[Path] = []
    for place in sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else ():
        if not (place.name.isascii() and place.name.isdigit()):
            raise DatasetError(f"{place} is not named by a number, as a place must be: rename or remove it.")
        home = place / inner
        found = sorted(path for path in home.iterdir() if _is_image(path)) if home.is_dir() else []
        if not found:
            empty.append(place)
        images += [PlaceImage(path, int(place.name)) for path in found]
    return PlaceScan(images, empty)


def read_places(folder: Path, inner: str = "") -> list[PlaceImage]:
    """Every image in folder/<id>/ or folder/<id>/<inner>/, by place and name.

    Raises:
        DatasetError: a place whose name is no number, a place without an image, or no place at all.
    """
    scan = scan_places(folder, inner)
    if scan.empty:
        names = ", ".join(place.name for place in scan.empty[:5])
        raise DatasetError(
            f"{folder} has {len(scan.empty)} places without an image{f' in {inner}/' if inner else ''} "
            f"(the first: {names}). Copy them again or remove the empty folders."
        )
    if not scan.images:
        raise DatasetError(f"{folder} holds no place with an image.")
    return scan.images


def pair_places(sides: Mapping[Path, list[PlaceImage]]) -> list[TrainPair]:
    """Every query image with the first reference image of its place.

    Args:
        sides: two folders with their images, the queries' first; the folders are for messages.

    Raises:
        DatasetError: a place is in one of them only.
    """
    (query_folder, queries), (reference_folder, references) = sides.items()
    first: dict[int, Path] = {}
    for image in references:
        first.setdefault(image.place_id, image.path)
    seen = {image.place_id for image in queries}
    for folder, other, missing, total in (
        (reference_folder, query_folder, seen - first.keys(), len(seen)),
        (query_folder, reference_folder, first.keys() - seen, len(first)),
    ):
        if missing:
            raise DatasetError(
                f"{folder} lacks {len(missing)} of the {total} places of {other} (the first: "
                f"{', '.join(f'{place:04d}' for place in sorted(missing)[:5])}). Complete the download or remove them "
                "there too."
            )
    return [TrainPair(image.path, first[image.place_id], image.place_id) for image in queries]


def missing_places(scans: Mapping[str, PlaceScan]) -> list[str]:
    """Places that one of the sides has, be it as an empty folder, and another lacks, as "side/<id>"."""
    wanted = {int(place.name) for scan in scans.values() for place in scan.empty}
    wanted = wanted.union(*(scan.places for scan in scans.values()))
    return [f"{side}/{place:04d}" for side, scan in scans.items() for place in sorted(wanted - scan.places)]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES
