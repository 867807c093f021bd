"""Frozen values that travel between the parts. They know nothing of files, engines or maps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
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
Verdict = Literal["verified", "retrieved", "none"]
VERDICTS: tuple[Verdict, ...] = ("verified", "retrieved", "none")
PixelFormat = Literal["rgb", "nv12"]
ColourMatrix = Literal["bt601", "bt709"]
ColourRange = Literal["limited", "full"]
Covariance = tuple[float, float, float]
"""east², east·north, north² in square metres."""
# Images that an engine gets at once where nobody says how many.
EMBED_BATCH = 16

# A camera that looks less far down sees most of its picture too far away, and a degree of error moves it too much.
_MAX_PITCH_DEG = -25.0
_MIN_FOV_DEG, _MAX_FOV_DEG = 2.0, 150.0
MAX_HEIGHT_M = 20_000.0


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
class CameraView:
    """How a pinhole camera looked at flat ground.

    Attributes:
        height_m: of the camera above the ground.
        pitch_deg: of the optical axis: -90 straight down, 0 at the horizon; below -90 it looks backwards.
        fov_deg: field of view across the picture's width.
        yaw_deg: compass direction of the optical axis, clockwise from true north; straight down, of the top edge.
        roll_deg: turn about the optical axis; positive where the picture's right side points below the horizon.

    Raises:
        ConfigError: not finite; a pitch outside [-155, -25], a roll outside [-90, 90], a height that is not in
            (0, 20000], or a field of view outside [2, 150].
    """

    height_m: float
    pitch_deg: float
    fov_deg: float
    yaw_deg: float = 0.0
    roll_deg: float = 0.0

    def __post_init__(self) -> None:
        _check_view("height", self.height_m, 0.0, MAX_HEIGHT_M, "metres above the ground", open_below=True)
        _check_view("pitch", self.pitch_deg, -180 - _MAX_PITCH_DEG, _MAX_PITCH_DEG, "degrees, -90 straight down")
        _check_view("field of view", self.fov_deg, _MIN_FOV_DEG, _MAX_FOV_DEG, "degrees across the picture's width")
        _check_view("roll", self.roll_deg, -90.0, 90.0, "degrees")
        _check_view("yaw", self.yaw_deg, -360.0, 360.0, "degrees clockwise from north")

    def focal_px(self, width_px: int) -> float:
        """Focal length in pixels of a picture of that width."""
        return width_px / 2 / math.tan(math.radians(self.fov_deg) / 2)

    def gsd_m(self, width_px: int) -> float:
        """Metres of ground to a pixel in the middle of a picture of that width; the mean over both directions."""
        slant = math.sin(math.radians(-self.pitch_deg))  # in (0, 1]
        return self.height_m / slant / self.focal_px(width_px) / math.sqrt(slant)

    def camera_east_north_m(self) -> tuple[float, float]:
        """Where the camera hangs, in metres east and north of the ground in the middle of its picture."""
        back = self.height_m / math.tan(math.radians(self.pitch_deg))
        yaw = math.radians(self.yaw_deg)
        return back * math.sin(yaw), back * math.cos(yaw)


def _check_view(name: str, value: float, low: float, high: float, unit: str, open_below: bool = False) -> None:
    if not low <= value <= high or (open_below and value == low):
        raise ConfigError(
            f"The camera's {name} is {value:g}; expected {unit}, {'above' if open_below else 'from'} {low:g} to "
            f"{high:g}. Check its unit and sign."
        )


@dataclass(frozen=True, slots=True)
class Attitude:
    """A camera's view, and how much of it is known; see `images/attitude.py`.

    Attributes:
        view: what is known, completed by what stands in.
        sources: for people, where each value comes from, by the names of `CameraView`; by "view" what is wrong with all
            together.
        missing: what would be needed to rectify; empty where the view is known.
        values: what was found, by the same names; also what no view could be made of.
    """

    view: CameraView
    sources: Mapping[str, str]
    missing: tuple[str, ...] = ()
    values: Mapping[str, float] = field(default_factory=dict)

    @property
    def known(self) -> bool:
        """Whether height, pitch, field of view and yaw are."""
        return not self.missing

    @property
    def yaw_known(self) -> bool:
        """Whether north is."""
        return "yaw" not in self.missing

    @property
    def reason(self) -> str:
        """Why the view is not known, in words; empty where it is."""
        return "" if self.known else self.sources.get("view", f"unknown: {', '.join(self.missing)}")


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


@dataclass(frozen=True, slots=True, eq=False)
class MatchedPoints:
    """Points that a photo and the map were found to share.

    Attributes:
        photo_m: float64 (n, 2), metres east and north of the photo's middle, as its camera's view has the ground.
        map_m: float64 (n, 2), the same points, metres east and north of the estimated point.
    """

    photo_m: NDArray[np.float64]
    map_m: NDArray[np.float64]


@dataclass(frozen=True, slots=True, repr=False)
class LocationEstimate:
    """Where a photo was taken of, and whether to believe it.

    Attributes:
        point:      the estimated ground position of the photo's centre.
        similarity: inner product with the best match, in [-1, 1].
        verdict:    "verified": the photo lies on the map's pixels so that chance does not explain it; "retrieved": no
            map was there to verify it, and similarity and margin reach what the bundle was calibrated to; "none": not
            to be used.
        radius_m:   of a verified one the circle that holds the place at 95 %, if the errors are as `covariance_m2`
            says; else the spread of the matches around the best, an indication and no guarantee.
        places:     the k best matches, best first.
        rotation_deg: clockwise rotation that was applied to the photo before it was embedded.
        source:     what was located, for people: the photo's path, or empty.
        reason:     why the verdict is "none", in words; else empty.
        covariance_m2: of a verified `point`: east², east·north, north² in square metres; else None.
        camera: where the camera hung, which is not `point` unless it looked straight down; None by `camera_reason`.
        camera_covariance_m2: of a verified estimate's `camera`: that of `point` and the errors of height and angles
            that `CameraSettings` states; else None.
        camera_reason: why there is no `camera`, in words; else empty.
        attitude: how the camera looked, and where each value comes from; None where no photo was given.
        matched: of a verified one, what the photo and the map share; else None.
    """

    point: GeoPoint
    similarity: float
    verdict: Verdict
    radius_m: float
    places: tuple[Place, ...]
    rotation_deg: float
    source: str = ""
    reason: str = ""
    covariance_m2: Covariance | None = None
    camera: GeoPoint | None = None
    camera_covariance_m2: Covariance | None = None
    camera_reason: str = field(default="attitude unknown: no photo was given", compare=False)
    attitude: Attitude | None = field(default=None, compare=False)
    matched: MatchedPoints | None = field(default=None, compare=False)

    @property
    def accepted(self) -> bool:
        """Whether the verdict is another than "none"; an integrator drops the rest."""
        return self.verdict != "none"

    @property
    def latitude_deg(self) -> float:
        """Of `point`, WGS84."""
        return self.point.latitude_deg

    @property
    def longitude_deg(self) -> float:
        """Of `point`, WGS84."""
        return self.point.longitude_deg

    def __repr__(self) -> str:
        state = self.verdict if self.accepted else f"none: {self.reason}"
        return (
            f"<LocationEstimate {self.source or 'photo'}: {self.latitude_deg:.6f}, {self.longitude_deg:.6f} "
            f"±{self.radius_m:.0f} m, similarity {self.similarity:.4f}, {state}>"
        )

    def to_geojson(self) -> dict[str, Any]:
        """A Feature (RFC 7946): a point, longitude first, and the other attributes but `matched` as properties."""
        places = [
            {"row": place.row, **_degrees(place.point), "similarity": round(place.similarity, 4)}
            for place in self.places
        ]
        return {
            "type": "Feature",
            "geometry": {"type": "Point", "coordinates": [round(self.longitude_deg, 7), round(self.latitude_deg, 7)]},
            "properties": {
                "photo": self.source,
                "similarity": round(self.similarity, 4),
                "accepted": self.accepted,
                "verdict": self.verdict,
                "reason": self.reason,
                "radius_m": round(self.radius_m, 1),
                "covariance_m2": _rounded(self.covariance_m2),
                "camera": None if self.camera is None else _degrees(self.camera),
                "camera_covariance_m2": _rounded(self.camera_covariance_m2),
                "camera_reason": self.camera_reason,
                "attitude": None if self.attitude is None else dict(self.attitude.values),
                "attitude_sources": None if self.attitude is None else dict(self.attitude.sources),
                "rotation_deg": round(self.rotation_deg, 1),
                "places": places,
            },
        }


def _degrees(point: GeoPoint) -> dict[str, float]:
    return {"latitude_deg": round(point.latitude_deg, 7), "longitude_deg": round(point.longitude_deg, 7)}


def _rounded(covariance_m2: Covariance | None) -> list[float] | None:
    return None if covariance_m2 is None else [round(value, 3) for value in covariance_m2]
