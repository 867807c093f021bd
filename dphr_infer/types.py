"""Frozen values that travel between the parts. They know nothing of files, engines or maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

GalleryProtocol = Literal["full", "matched"]


@dataclass(frozen=True, slots=True)
class GeoPoint:
    """A point on the WGS84 ellipsoid, in degrees; latitude in [-90, 90], longitude in [-180, 180]."""

    latitude_deg: float
    longitude_deg: float


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """The k most similar gallery rows of each query, best first; equal similarities by the lower row.

    Attributes:
        rows:       int32 (Q, k), row numbers in the gallery.
        similarity: float32 (Q, k), inner product of unit vectors, in [-1, 1]; higher is nearer.
    """

    rows: NDArray[np.int32]
    similarity: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Place:
    """One match of one photo: where a gallery row lies, and how similar it is."""

    row: int
    point: GeoPoint
    similarity: float


@dataclass(frozen=True, slots=True)
class LocationEstimate:
    """Where a photo was taken of, and whether to believe it.

    Attributes:
        point:      the estimated ground position of the photo's centre.
        similarity: inner product with the best match, in [-1, 1].
        accepted:   True when the matches agree with each other by the localizer's rule; an integrator drops the rest.
        radius_m:   spread of the matches that back the estimate, in metres; an indication, not a guarantee.
        places:     the k best matches, best first.
        rotation_deg: clockwise rotation that was applied to the photo before it was embedded.
    """

    point: GeoPoint
    similarity: float
    accepted: bool
    radius_m: float
    places: tuple[Place, ...]
    rotation_deg: float


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
