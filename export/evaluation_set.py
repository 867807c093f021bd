"""The real images that the gate compares on: drone queries and satellite gallery of a data set's test split."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dphr_infer.bundle import file_digest
from dphr_infer.errors import ExportError
from dphr_train.datasets.university1652 import PlaceImage, University1652

MIN_PLACES = 4
MIN_IMAGES = 16
DEFAULT_MAX_IMAGES = 1000


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """Drone queries and the satellite images they are looked up in; every query's place is in the gallery."""

    root: Path
    queries: tuple[PlaceImage, ...]
    gallery: tuple[PlaceImage, ...]

    def images(self) -> list[PlaceImage]:
        """Queries, then gallery."""
        return [*self.queries, *self.gallery]

    def name(self, image: PlaceImage) -> str:
        """The path of an image below the root, for messages."""
        return image.path.relative_to(self.root).as_posix()

    def query_ids(self) -> NDArray[np.int64]:
        """int64 (n_queries,), the place of each query."""
        return np.array([image.place_id for image in self.queries], dtype=np.int64)

    def gallery_ids(self) -> NDArray[np.int64]:
        """int64 (n_gallery,), the place of each gallery image."""
        return np.array([image.place_id for image in self.gallery], dtype=np.int64)

    def digest(self) -> str:
        """sha256, in hex, over the names and contents of all its images."""
        digest = hashlib.sha256()
        for image in self.images():
            digest.update(f"{self.name(image)} {file_digest(image.path)}\n".encode())
        return digest.hexdigest()


def _by_place(images: list[PlaceImage]) -> dict[int, list[PlaceImage]]:
    places: dict[int, list[PlaceImage]] = defaultdict(list)
    for image in images:
        places[image.place_id].append(image)
    return places


def _spread(images: list[PlaceImage], count: int) -> list[PlaceImage]:
    """The first image of every place, then the second of every place, and so on, up to `count`."""
    rounds = zip_longest(*_by_place(images).values())
    return [image for turn in rounds for image in turn if image is not None][:count]


def read_evaluation_set(root: Path, max_images: int) -> EvaluationSet:
    """Read the drone -> satellite test split, cut to `max_images` in the same way every time.

    The cut keeps the gallery whole while it takes at most half of the images; a larger gallery loses distractors
    first. Queries are spread evenly over the places.

    Raises:
        DatasetError: the folder lacks its test split.
        ExportError: fewer than 4 places with both views, or fewer than 16 images.
    """
    queries = University1652(root).test_images("query", "drone")
    gallery = University1652(root).test_images("gallery", "satellite")
    shown = _by_place(queries).keys() & _by_place(gallery).keys()
    if len(shown) < MIN_PLACES or min(len(queries) + len(gallery), max_images) < MIN_IMAGES:
        raise ExportError(
            f"{root} has {len(shown)} test places with both views and {len(queries) + len(gallery)} images, of which "
            f"at most {max_images} may be used; the parity gate needs at least {MIN_PLACES} places and {MIN_IMAGES} "
            "images, or it proves nothing. Add test places, or raise --max-images."
        )
    gallery.sort(key=lambda image: image.place_id not in shown)
    kept_gallery = gallery[: max(max_images // 2, max_images - len(queries))]
    kept_places = {image.place_id for image in kept_gallery}
    kept_queries = _spread(
        [image for image in queries if image.place_id in kept_places], max_images - len(kept_gallery)
    )
    return EvaluationSet(root, tuple(kept_queries), tuple(kept_gallery))
