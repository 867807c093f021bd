"""Frozen values that travel between the parts. They know nothing of files, engines or maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
