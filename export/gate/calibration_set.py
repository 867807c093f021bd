"""Training images that int8 ranges are measured on: both views, even over the places, the same ones every time.

What a range is measured on must not be what it is judged on, so no query of the gate and no reference that answers one
is taken, nor a copy of it under another name. Distractors of the gallery may be: where a benchmark puts its training
places among them (SUES-200, VIGOR same-area), there is no other reference image to be had.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import DatasetError, ExportError
from dphr_infer.files.bundle import file_digest
from dphr_infer.images.preprocess import Preprocess
from dphr_infer.measure.progress import Progress
from dphr_train.config import DataConfig, DatasetName
from dphr_train.config_data import DEFAULT_DATASET
from dphr_train.datasets.open import open_dataset
from dphr_train.types import PlaceImage
from export.gate.evaluation_set import EvaluationSet, spread


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationSet:
    """Images at model size, and what names them.

    Attributes:
        images: uint8 (n, height_px, width_px, 3), RGB, queries then references.
        names: their paths below the data set's folder, in the same order.
        sha256: in hex, over names and contents of the files.
    """

    images: NDArray[np.uint8]
    names: tuple[str, ...]
    sha256: str

    @property
    def n(self) -> int:
        """Number of images."""
        return len(self.images)


def calibration_images(
    root: Path,
    preprocess: Preprocess,
    count: int,
    judged_on: EvaluationSet,
    dataset: DatasetName = DEFAULT_DATASET,
) -> CalibrationSet:
    """Read `count` training images, half of them queries, fewer references where there are not so many.

    Args:
        root: folder of the data set.
        preprocess: of the bundle.
        count: images to take, some hundreds; the whole set lies in memory at model size.
        judged_on: what the gate runs on; its queries and their references are not taken, and images are read as its.
        dataset: the benchmark in `root`.

    Raises:
        ConfigError: there is no such data set.
        ExportError: no training split, or it has fewer than `count` images besides those that the model is judged on.
        ImageError: an image cannot be read.
    """
    queries, references = _training_images(root, dataset)
    forbidden = _judged(judged_on)
    free = [_without(images, forbidden) for images in (queries, references)]
    n_references = min(count // 2, len(free[1]))
    n_queries = min(count - n_references, len(free[0]))
    n_references = min(count - n_queries, len(free[1]))
    if n_queries + n_references < count or not n_queries or not n_references:
        raise ExportError(
            f"{count} calibration images were asked for, but the training split of {root} has {len(free[0])} queries "
            f"and {len(free[1])} references besides the images that the model is judged on. Ask for fewer, but for "
            "both views, or name a larger data set."
        )
    chosen = [*_even(free[0], n_queries), *_even(free[1], n_references)]
    names = tuple(image.path.relative_to(root).as_posix() for image in chosen)
    digest = hashlib.sha256()
    pixels = np.empty((count, preprocess.height_px, preprocess.width_px, 3), np.uint8)
    with Progress("calibration images", count, "images") as progress:
        for row, (image, name) in enumerate(zip(chosen, names, strict=True)):
            digest.update(f"{name} {file_digest(image.path)}\n".encode())
            view = judged_on.query_view if row < n_queries else judged_on.gallery_view
            pixels[row] = preprocess(judged_on.reader.read(image.path, view).pixels)
            progress.advance(1)
    return CalibrationSet(pixels, names, digest.hexdigest())


def _training_images(root: Path, dataset: DatasetName) -> tuple[list[PlaceImage], list[PlaceImage]]:
    """Queries and references of the training split, each file once, by place and path."""
    try:
        pairs = open_dataset(DataConfig(dataset=dataset).dataset, root).train_split().pairs
    except DatasetError as error:
        raise ExportError(
            f"int8 is calibrated on training images, but {root} has no training split: {error}"
        ) from error
    sides = (
        {PlaceImage(pair.query, pair.place_id) for pair in pairs},
        {PlaceImage(pair.reference, pair.place_id) for pair in pairs},
    )
    queries, references = (sorted(side, key=lambda image: (image.place_id, image.path)) for side in sides)
    return queries, references


def _judged(data: EvaluationSet) -> dict[int, set[str]]:
    """{size in bytes: digests} of the queries and of the references that answer them."""
    asked = {image.place_id for image in data.queries}
    found: dict[int, set[str]] = {}
    for image in (*data.queries, *(image for image in data.gallery if image.place_id in asked)):
        found.setdefault(image.path.stat().st_size, set()).add(file_digest(image.path))
    return found


def _without(images: Sequence[PlaceImage], forbidden: dict[int, set[str]]) -> list[PlaceImage]:
    """The images whose content is not among the forbidden ones; only files of the same size are read to tell."""
    kept = []
    for image in images:
        digests = forbidden.get(image.path.stat().st_size)
        if digests is None or file_digest(image.path) not in digests:
            kept.append(image)
    return kept


def _even(images: Sequence[PlaceImage], count: int) -> list[PlaceImage]:
    """`count` images, as many of each place as can be, and evenly over the images of a place.

    Where there are more places than images to take, every so-manieth place gives one.

    Args:
        images: by place; at least `count`.
    """
    places = sorted({image.place_id for image in images})
    taken = min(count, len(places))
    kept = {places[number * len(places) // taken] for number in range(taken)}
    by_place: dict[int, list[PlaceImage]] = {place: [] for place in sorted(kept)}
    for image in images:
        if image.place_id in kept:
            by_place[image.place_id].append(image)
    turns = [place for place, own in by_place.items() for _ in own]
    quota = Counter(turns[row] for row in spread(turns, count))
    return [own[number * len(own) // quota[place]] for place, own in by_place.items() for number in range(quota[place])]
