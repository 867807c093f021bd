"""Frozen values that travel between the parts. They know nothing of files, engines or maps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from dphr_infer.errors import ConfigError, GalleryError

if TYPE_CHECKING:  # the first answer of a command must not wait for NumPy
    import numpy as np
    from numpy.typing import NDArray

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
GalleryDtype = Literal["fp16", "fp32"]
GALLERY_DTYPES: tuple[GalleryDtype, ...] = ("fp16", "fp32")
Format = Literal["table", "csv", "geojson"]
FORMATS: tuple[Format, ...] = ("table", "csv", "geojson")
PixelFormat = Literal["rgb", "nv12"]
ColourMatrix = Literal["bt601", "bt709"]
ColourRange = Literal["limited", "full"]


@dataclass(frozen=True, slots=True)
class GeoPoint:
    """A point on the WGS84 ellipsoid, in degrees; latitude in [-90, 90], longitude in [-180, 180].

    Raises:
        ConfigError: outside these ranges, or NaN.
    """

    latitude_deg: float
    longitude_deg: float

    def __post_init__(self) -> None:
        if not (-90 <= self.latitude_deg <= 90 and -180 <= self.longitude_deg <= 180):
            raise ConfigError(
                f"A point has latitude {self.latitude_deg:g} and longitude {self.longitude_deg:g}; expected degrees in "
                "[-90, 90] and [-180, 180], latitude first."
            )


@dataclass(frozen=True, slots=True)
class Prior:
    """Where a photo must have been taken of: only gallery rows at most `radius_m` away are matched.

    Attributes:
        latitude_deg, longitude_deg: the centre, as in `GeoPoint`.
        radius_m: above 0 and finite.

    Raises:
        ConfigError: one of them lies outside its range.
    """

    latitude_deg: float
    longitude_deg: float
    radius_m: float

    def __post_init__(self) -> None:
        GeoPoint(self.latitude_deg, self.longitude_deg)
        if not 0 < self.radius_m < math.inf:
            raise ConfigError(f"`radius_m` is {self.radius_m:g}; expected metres above 0 and finite.")

    @property
    def centre(self) -> GeoPoint:
        """The middle of the circle."""
        return GeoPoint(self.latitude_deg, self.longitude_deg)


@dataclass(frozen=True, slots=True)
class RowRanges:
    """Gallery rows as half-open [start, stop) ranges, none empty, sorted and disjoint; what a matcher may match.

    Iterating gives (start, stop); `len` is the number of ranges.

    Attributes:
        ranges: the pairs.
        count: rows in them.

    Raises:
        GalleryError: a range is empty or negative, or begins before an earlier one ends.
    """

    ranges: tuple[tuple[int, int], ...]
    count: int = field(init=False, compare=False)

    def __post_init__(self) -> None:
        end = count = 0
        for start, stop in self.ranges:
            if not end <= start < stop:
                raise GalleryError(
                    f"Row range [{start}, {stop}) follows one that ends at {end}: expected ranges that are sorted, "
                    "disjoint and not empty."
                )
            end, count = stop, count + stop - start
        object.__setattr__(self, "count", count)

    def __len__(self) -> int:
        return len(self.ranges)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self.ranges)


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


@dataclass(frozen=True, slots=True, repr=False)
class LocationEstimate:
    """Where a photo was taken of, and whether to believe it.

    Attributes:
        point:      the estimated ground position of the photo's centre.
        similarity: inner product with the best match, in [-1, 1].
        accepted:   True when the matches agree with each other by the localizer's rule; an integrator drops the rest.
        radius_m:   spread of the matches that back the estimate, in metres; an indication, not a guarantee.
        places:     the k best matches, best first.
        rotation_deg: clockwise rotation that was applied to the photo before it was embedded.
        source:     what was located, for people: the photo's path, or empty.
    """

    point: GeoPoint
    similarity: float
    accepted: bool
    radius_m: float
    places: tuple[Place, ...]
    rotation_deg: float
    source: str = ""

    @property
    def latitude_deg(self) -> float:
        """Of `point`, WGS84."""
        return self.point.latitude_deg

    @property
    def longitude_deg(self) -> float:
        """Of `point`, WGS84."""
        return self.point.longitude_deg

    def __repr__(self) -> str:
        state = "accepted" if self.accepted else "not accepted"
        return (
            f"<LocationEstimate {self.source or 'photo'}: {self.latitude_deg:.6f}, {self.longitude_deg:.6f} "
            f"±{self.radius_m:.0f} m, similarity {self.similarity:.4f}, {state}>"
        )

    def to_geojson(self) -> dict[str, Any]:
        """A Feature (RFC 7946): a point, longitude first, and the other attributes as properties."""
        places = [
            {
                "row": place.row,
                "latitude_deg": round(place.point.latitude_deg, 7),
                "longitude_deg": round(place.point.longitude_deg, 7),
                "similarity": round(place.similarity, 4),
            }
            for place in self.places
        ]
        return {
            "type": "Feature",
            "geometry": {"type": "Point", "coordinates": [round(self.longitude_deg, 7), round(self.latitude_deg, 7)]},
            "properties": {
                "photo": self.source,
                "similarity": round(self.similarity, 4),
                "accepted": self.accepted,
                "radius_m": round(self.radius_m, 1),
                "rotation_deg": round(self.rotation_deg, 1),
                "places": places,
            },
        }
