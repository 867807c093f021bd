"""What goes into a flight and what comes out: motion, registered positions; fixes, silence with its reason, a track."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import FlightError
from dphr_infer.types import GeoPoint, LocationEstimate

Reason = Literal["starting", "no-motion", "off-map", "ambiguous", "no-match"]
Source = Literal["registered", "retrieved"]
# How often a verified registration is wrong all the same: the most that registrations are held to.
OUTLIER_SHARE = 0.01


def check_covariance(name: str, covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """A covariance as float64 (2, 2).

    Raises:
        FlightError: another shape, not finite, not symmetric, or with a negative variance along some direction.
    """
    values = np.asarray(covariance, np.float64)
    if values.shape != (2, 2) or not np.isfinite(values).all():
        raise FlightError(f"The covariance of {name} is {values.tolist()}; expected 2 x 2 finite numbers in m².")
    size = float(np.abs(values).max())
    if abs(values[0, 1] - values[1, 0]) > 1e-9 * size or np.linalg.eigvalsh(values)[0] < -1e-9 * size:
        raise FlightError(f"The covariance of {name} is {values.tolist()}; expected it symmetric, no variance below 0.")
    return values


def sigma_of(covariance: NDArray[np.float64]) -> float:
    """Standard deviation in metres along the worst direction."""
    return math.sqrt(float(np.linalg.eigvalsh(covariance)[-1]))


@dataclass(frozen=True, slots=True, eq=False)
class Odometry:
    """How far the ground point below the frame's centre moved since the last frame, and how sure that is.

    Attributes:
        east_m, north_m: the displacement in metres.
        covariance: float64 (2, 2), east and north, m².

    Raises:
        FlightError: not finite, or no covariance.
    """

    east_m: float
    north_m: float
    covariance: NDArray[np.float64]

    def __post_init__(self) -> None:
        if not (math.isfinite(self.east_m) and math.isfinite(self.north_m)):
            raise FlightError(f"The odometry is {self.east_m} m east, {self.north_m} m north; expected finite numbers.")
        object.__setattr__(self, "covariance", check_covariance("the odometry", self.covariance))

    @property
    def distance_m(self) -> float:
        """Length of the displacement."""
        return math.hypot(self.east_m, self.north_m)


@dataclass(frozen=True, slots=True, eq=False)
class RegisteredPoint:
    """Where a frame's picture was found on the map's pixels.

    Attributes:
        point: the ground point below the frame's centre.
        covariance: float64 (2, 2), east and north, m², of a registration that is not an outlier.
        outlier_share: how often a registration that passed its own check is nevertheless wrong, in (0, 1).

    Raises:
        FlightError: the share lies outside, or the covariance is none.
    """

    point: GeoPoint
    covariance: NDArray[np.float64]
    outlier_share: float

    def __post_init__(self) -> None:
        if not 0 < self.outlier_share < 1:
            raise FlightError(f"The registration's outlier share is {self.outlier_share}; expected it in (0, 1).")
        object.__setattr__(self, "covariance", check_covariance("the registration", self.covariance))


def registered_point(estimate: LocationEstimate) -> RegisteredPoint | None:
    """Of a verified estimate; None of any other."""
    if estimate.covariance_m2 is None:
        return None
    east2, both, north2 = estimate.covariance_m2
    return RegisteredPoint(estimate.point, np.array([[east2, both], [both, north2]]), OUTLIER_SHARE)


@dataclass(frozen=True, slots=True, eq=False)
class Fix:
    """This frame's own measurement of the ground point below its centre, given while the filter knows where it is.

    It holds no earlier frame's measurement, so an autopilot's filter may fuse it. The filter decides only that it is
    given, and which of the frame's matches it may come from. Frames that share their ground share part of a retrieved
    fix's error: take one per tile side, or weigh them less.

    Attributes:
        point: the position.
        covariance: float64 (2, 2), east and north, m².
        sigma_m: standard deviation along the covariance's worst direction.
        source: "registered" on the map's pixels, or "retrieved": the frame's matches near the filter's mode.
        protection_m: radius around `point` that holds `FilterSettings.protection_mass` of all probability, that of
            being off the map included; infinite where no radius does.
    """

    point: GeoPoint
    covariance: NDArray[np.float64]
    sigma_m: float
    source: Source
    protection_m: float


@dataclass(frozen=True, slots=True)
class NoFix:
    """Why a frame has no fix.

    Attributes:
        reason: "starting": less than one tile side of new ground has been weighed;
            "no-motion": the odometry is unknown, or the aircraft has not moved since the start;
            "off-map": being off the map, or lost, is the likeliest;
            "ambiguous": no place holds enough of the probability;
            "no-match": the filter knows the place, but this frame has no measurement of its own near it.
    """

    reason: Reason


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """Where the filter believes the aircraft to be: for maps and logs.

    Never feed it to another filter: it holds the measurements of all earlier frames, and would be counted twice.
    That is what `Fix` is for.

    Attributes:
        point: mean of the probability around the mode.
        covariance: float64 (2, 2), east and north, m².
        mass: probability within a tile side of `point`.
    """

    point: GeoPoint
    covariance: NDArray[np.float64]
    mass: float
