"""Frozen values that travel between the parts of training. They know nothing of files, networks or losses.

The views of a pair are a *query* (drone, or ground panorama) and a *reference* (satellite), whatever the benchmark
calls them; a place is known by its number, and every image of a place carries it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

View = Literal["drone", "satellite", "ground"]
QueryView = Literal["drone", "ground"]
GalleryProtocol = Literal["full", "matched"]
OnePercent = Literal["round", "floor"]


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
class GroundPositions:
    """Where the images lie, for benchmarks that count every near reference as found.

    Attributes:
        queries_m: float64 (Q, 2), east and north in one plane (UTM).
        gallery_m: float64 (G, 2), in the same plane.
        within_m: a reference at this distance or nearer is right; 5 m in CVACT (Liu and Li, CVPR 2019, RecallGeo.m).
    """

    queries_m: NDArray[np.float64]
    gallery_m: NDArray[np.float64]
    within_m: float = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class Rules:
    """What a benchmark reports beside recall@k and AP, and how.

    Attributes:
        one_percent: last rank that counts for R@1 %: "round" is the official University-1652 script's
            round(0.01 G) on a 0-based list, one rank generous; "floor" is k = G // 100 (CVUSA, CVACT, VIGOR).
        semi_positives: int64 (Q, 3), gallery rows that show a query's place off its centre (VIGOR): no match for recall
            and AP, but they may outrank the right one without breaking a hit. None elsewhere.
        positions: count every near reference as found, beside the strict figures (CVACT test). None elsewhere.
    """

    one_percent: OnePercent = "round"
    semi_positives: NDArray[np.int64] | None = None
    positions: GroundPositions | None = None


UNIVERSITY_RULES = Rules()


@dataclass(frozen=True, slots=True, eq=False)
class Direction:
    """One direction of retrieval: what is looked up in what, and by which of the benchmark's rules.

    Attributes:
        name: "drone->satellite" and so on.
        queries, gallery: images; a gallery image is right for a query when their places are the same.
        protocols: galleries to report, "full" and, where the benchmark has distractors, "matched".
    """

    name: str
    query_view: View
    gallery_view: View
    queries: list[PlaceImage]
    gallery: list[PlaceImage]
    protocols: tuple[GalleryProtocol, ...] = ("full", "matched")
    rules: Rules = UNIVERSITY_RULES


@dataclass(frozen=True, slots=True)
class RetrievalReport:
    """Retrieval quality of one direction under one gallery protocol. All rates are fractions in [0, 1].

    Attributes:
        recall_at:       {k: share of queries with a true match among the first k}, k in 1, 5, 10 where k <= n_gallery.
        recall_at_1_percent: the same for the first percent of the gallery.
        ap:              mean average precision by the trapezoid rule of the official University-1652 scripts.
        standard_ap:     mean average precision as scikit-learn defines it.
        protocol:        "full" ranks every gallery image; "matched" drops those whose place no query has.
        hit_rate:        share of queries whose match no gallery image but its semi-positives outranks (VIGOR); None
            without semi-positives.
        recall_within:   {k: share of queries with any gallery image at most `within_m` metres away among the first k}
            (CVACT test); None without positions.
        within_m:        that distance in metres, or None.
    """

    recall_at: dict[int, float]
    recall_at_1_percent: float
    ap: float
    standard_ap: float
    protocol: GalleryProtocol
    n_queries: int
    n_gallery: int
    hit_rate: float | None = None
    recall_within: dict[int, float] | None = None
    within_m: float | None = None
