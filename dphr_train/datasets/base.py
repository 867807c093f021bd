"""What every benchmark gives: pairs to train on, directions to test in, and a check of what lies on the disk.

The views of a pair are a *query* (drone, or ground panorama) and a *reference* (satellite), whatever the benchmark
calls them; a place is known by its number, and every image of a place carries it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from dphr_infer.types import GalleryProtocol

View = Literal["drone", "satellite", "ground"]
QueryView = Literal["drone", "ground"]


@dataclass(frozen=True, slots=True)
class PlaceImage:
    """One image of one place."""

    path: Path
    place_id: int


@dataclass(frozen=True, slots=True)
class TrainPair:
    """A query image and the reference image of the same place."""

    query: Path
    reference: Path
    place_id: int


@dataclass(frozen=True, slots=True, eq=False)
class Positions:
    """Where the training places lie, for samplers that bring neighbours together.

    Attributes:
        kind: "degrees", latitude and longitude on WGS84; "metres", east and north in one plane (UTM).
        values: float64 (n_places, 2); row i is the i-th of the sorted place numbers of the training pairs.
    """

    kind: Literal["degrees", "metres"]
    values: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class TrainSplit:
    """Training pairs, what their query shows, and where their places lie (None where the benchmark does not say)."""

    pairs: list[TrainPair]
    query_view: QueryView
    positions: Positions | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Direction:
    """One direction of retrieval: what is looked up in what, and by which of the benchmark's rules.

    Attributes:
        name: "drone->satellite" and so on.
        queries, gallery: images; a gallery image is right for a query when their places are the same.
        protocols: galleries to report, "full" and, where the benchmark has distractors, "matched".
        one_percent: last rank that counts for R@1 %: "round" is the official University-1652 script's
            round(0.01 G) on a 0-based list, one rank generous; "floor" is k = G // 100 (CVUSA, CVACT, VIGOR).
        semi_positives: int64 (n_queries, 3), gallery rows that show a query's place off its centre (VIGOR); they may
            outrank the right one without breaking a hit. None elsewhere.
        query_positions_m, gallery_positions_m: float64 (n, 2), UTM east and north, where a benchmark counts any gallery
            image within `within_m` metres as found (CVACT test, 5 m). None elsewhere.
    """

    name: str
    query_view: View
    gallery_view: View
    queries: list[PlaceImage]
    gallery: list[PlaceImage]
    protocols: tuple[GalleryProtocol, ...] = ("full", "matched")
    one_percent: Literal["round", "floor"] = "round"
    semi_positives: NDArray[np.int64] | None = None
    query_positions_m: NDArray[np.float64] | None = None
    gallery_positions_m: NDArray[np.float64] | None = None
    within_m: float = 5.0


@dataclass(frozen=True, slots=True)
class Count:
    """What a check counted: how many there are and how many the official release has."""

    what: str
    found: int
    official: int


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What `dphr-train check` found.

    Attributes:
        counts: images or places by split and view.
        missing: files that a list of the benchmark names and that are not there.
        unreadable: files that are no image, or are cut short, each with the reason.
    """

    counts: list[Count]
    missing: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """True when every count is the official one and every file is there and readable."""
        return not self.missing and not self.unreadable and all(c.found == c.official for c in self.counts)


class Dataset(Protocol):
    """A benchmark's folder; nothing is read until a split is asked for.

    Every method raises DatasetError where the folder has another layout or lacks something; it says which layout was
    recognised, what is missing, and what to do.
    """

    @property
    def root(self) -> Path:
        """The folder."""
        ...

    def train_split(self) -> TrainSplit:
        """Training pairs."""
        ...

    def test_directions(self) -> list[Direction]:
        """Directions of the test split, the main one first; an empty list where the folder has no test split at all."""
        ...

    def check(self, read_images: bool = True) -> CheckReport:
        """Count, look for every listed file, and, unless told not to, decode every image."""
        ...
