"""The real images that the gate compares on: a benchmark's query -> reference test split, cut alike every time."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import ExportError
from dphr_infer.files.bundle import Precision, file_digest
from dphr_train.config import DataConfig, DatasetName
from dphr_train.config_data import DEFAULT_DATASET
from dphr_train.datasets.open import open_dataset
from dphr_train.datasets.reading import PLAIN_READER, ViewReader, drone_photos
from dphr_train.datasets.university1652 import University1652
from dphr_train.metrics import report_retrieval
from dphr_train.types import UNIVERSITY_RULES, Direction, PlaceImage, RetrievalReport, Rules, View

MIN_PLACES = 4
MIN_IMAGES = 16
INT8_RECALL_STEP = 0.005
"""One query must move recall@1 by no more than int8's limit, or a single one decides whether a model passes."""


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationSet:
    """Queries and the references they are looked up in; every query's place is in the gallery.

    Attributes:
        root: folder of the data set.
        query_view, gallery_view: what they show.
        reader: of the images.
        rules: the benchmark's. A semi-positive that the cut left out is replaced by the row of the query's own
            reference, which changes no figure.
    """

    root: Path
    queries: tuple[PlaceImage, ...]
    gallery: tuple[PlaceImage, ...]
    query_view: View = "drone"
    gallery_view: View = "satellite"
    rules: Rules = UNIVERSITY_RULES
    reader: ViewReader = PLAIN_READER

    def images(self) -> list[PlaceImage]:
        """Queries, then gallery."""
        return [*self.queries, *self.gallery]

    def read(self, row: int) -> NDArray[np.uint8]:
        """The image of a row of `images`, uint8 (H, W, 3), not yet of model size.

        Raises:
            ImageError: it cannot be read.
        """
        n = len(self.queries)
        if row < n:
            return self.reader.read(self.queries[row].path, self.query_view).pixels
        return self.reader.read(self.gallery[row - n].path, self.gallery_view).pixels

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

    def report(self, embeddings: NDArray[np.float32]) -> RetrievalReport:
        """Rank the whole gallery for every query, by the benchmark's own rules, as training's evaluation does.

        Args:
            embeddings: float32 (n_images, dim), unit length, in the order of `images`.

        Raises:
            DatasetError: an embedding is not finite.
        """
        split = len(self.queries)
        return report_retrieval(
            embeddings[:split], self.query_ids(), embeddings[split:], self.gallery_ids(), rules=self.rules
        )


def spread(place_ids: Sequence[int], count: int) -> list[int]:
    """Row numbers: the first row of every place, then the second of every place, and so on, up to `count`.

    Args:
        place_ids: the place of each row; places take their turns in the order in which they come.
    """
    rows: dict[int, list[int]] = defaultdict(list)
    for row, place in enumerate(place_ids):
        rows[place].append(row)
    turns = zip_longest(*rows.values())
    return [row for turn in turns for row in turn if row is not None][:count]


def read_evaluation_set(
    root: Path, max_images: int, dataset: DatasetName = DEFAULT_DATASET, reader: ViewReader = PLAIN_READER
) -> EvaluationSet:
    """Read the query -> reference test split, cut to `max_images` in the same way every time.

    The cut keeps the gallery whole while it takes at most half of the images; a larger gallery loses distractors
    first. Queries are spread evenly over the places.

    Both views reach a bundle through one preprocess. A panorama is cut to it as in training without data.ground-px; a
    model of panoramas in a size of their own is refused where the checkpoint is read.

    Raises:
        ConfigError: there is no such data set.
        DatasetError: the folder lacks its test split.
        ExportError: no test split at all, fewer than 4 places with both views, or fewer than 16 images.
    """
    direction = _open_direction(root, dataset)
    queries, gallery = direction.queries, direction.gallery
    shown = {image.place_id for image in queries} & {image.place_id for image in gallery}
    if len(shown) < MIN_PLACES or min(len(queries) + len(gallery), max_images) < MIN_IMAGES:
        raise ExportError(
            f"{root} has {len(shown)} test places with both views and {len(queries) + len(gallery)} images, of which "
            f"at most {max_images} may be used; the parity gate needs at least {MIN_PLACES} places and {MIN_IMAGES} "
            "images, or it proves nothing. Add test places, or raise --max-images."
        )
    by_use = sorted(range(len(gallery)), key=lambda row: gallery[row].place_id not in shown)
    gallery_rows = by_use[: max(max_images // 2, max_images - len(queries))]
    places = {gallery[row].place_id for row in gallery_rows}
    answerable = [row for row, image in enumerate(queries) if image.place_id in places]
    chosen = spread([queries[row].place_id for row in answerable], max_images - len(gallery_rows))
    query_rows = [answerable[number] for number in chosen]
    cut = _cut(direction, query_rows, gallery_rows)
    reader.require_attitudes(drone_photos([cut]))
    return EvaluationSet(
        root,
        tuple(cut.queries),
        tuple(cut.gallery),
        cut.query_view,
        cut.gallery_view,
        cut.rules,
        reader,
    )


def _open_direction(root: Path, dataset: DatasetName) -> Direction:
    """The main direction of the test split; of University-1652's layout no folder of the other direction is needed."""
    opened = open_dataset(DataConfig(dataset=dataset).dataset, root)  # the settings refuse an unknown name
    if isinstance(opened, University1652):
        queries, gallery = opened.test_images("query", "drone"), opened.test_images("gallery", "satellite")
        return Direction("drone->satellite", "drone", "satellite", queries, gallery)
    directions = opened.test_directions()
    if not directions:
        raise ExportError(
            f"{root} has no test split of {dataset}: the gate compares the exported models with torch on real images "
            "that were not trained on. Complete the download, or name another data set."
        )
    return directions[0]


def _cut(direction: Direction, query_rows: list[int], gallery_rows: list[int]) -> Direction:
    """The named rows of a direction, with what its rules say about them."""
    semi_positives, positions = direction.rules.semi_positives, direction.rules.positions
    if semi_positives is not None:
        kept_row = {row: new for new, row in enumerate(gallery_rows)}
        own = {direction.gallery[row].place_id: new for new, row in enumerate(gallery_rows)}
        semi_positives = np.array(
            [
                [kept_row.get(int(row), own[direction.queries[query].place_id]) for row in semi_positives[query]]
                for query in query_rows
            ],
            dtype=np.int64,
        )
    if positions is not None:
        positions = replace(
            positions, queries_m=positions.queries_m[query_rows], gallery_m=positions.gallery_m[gallery_rows]
        )
    return replace(
        direction,
        queries=[direction.queries[row] for row in query_rows],
        gallery=[direction.gallery[row] for row in gallery_rows],
        rules=Rules(direction.rules.one_percent, semi_positives, positions),
    )


def needed_queries(precision: Precision) -> int:
    """Queries that the gate needs to judge a precision by.

    int8 is proved by recall@1: with fewer than 200 queries a single one moves it by more than the limit of 0.5 point.
    fp32 and fp16 are proved by the cosine of every image, for which the smallest set is enough.
    """
    return math.ceil(1 / INT8_RECALL_STEP) if precision == "int8" else MIN_PLACES


def require_enough(data: EvaluationSet, precisions: Collection[Precision]) -> None:
    """Refuse an evaluation set that is too small to judge a precision by.

    Raises:
        ExportError: says how many queries there are and how many are needed.
    """
    for precision in precisions:
        needed = needed_queries(precision)
        if len(data.queries) < needed:
            raise ExportError(
                f"The evaluation set has {len(data.queries)} queries; {precision} needs at least {needed}, or a single "
                "query decides whether it passes. Name a larger test split, raise --max-images, or export without "
                f"{precision}."
            )
