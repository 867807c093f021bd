"""WGS84 degrees and local metres. Knows nothing of rasters or galleries."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import ConfigError
from dphr_infer.types import Covariance, GeoPoint

_SEMI_MAJOR_M = 6378137.0
_FLATTENING = 1 / 298.257223563
_E2 = _FLATTENING * (2 - _FLATTENING)


def metres_per_degree(latitude_deg: float) -> tuple[float, float]:
    """Length of one degree of latitude and of longitude at a latitude, in metres, on the WGS84 ellipsoid."""
    latitude = math.radians(latitude_deg)
    w2 = 1 - _E2 * math.sin(latitude) ** 2
    meridian = _SEMI_MAJOR_M * (1 - _E2) / w2**1.5
    normal = _SEMI_MAJOR_M / math.sqrt(w2)
    return math.radians(meridian), math.radians(normal * math.cos(latitude))


def offset(point: GeoPoint, east_m: float, north_m: float) -> GeoPoint:
    """The point `east_m` and `north_m` away, in the tangent plane: good to centimetres over a kilometre.

    Its longitude lies in [-180, 180), whichever side of the antimeridian it starts from.

    Raises:
        ConfigError: the offset passes a pole or goes half round the earth, where the tangent plane says nothing.
    """
    per_lat, per_lon = metres_per_degree(point.latitude_deg)
    latitude_deg, east_deg = point.latitude_deg + north_m / per_lat, east_m / per_lon
    if not (abs(latitude_deg) <= 90 and abs(east_deg) < 180):
        raise ConfigError(
            f"{east_m:g} m east and {north_m:g} m north of {point.latitude_deg:g},{point.longitude_deg:g} lies beyond "
            f"a pole or half round the earth ({latitude_deg:g}° latitude, {east_deg:g}° of longitude further): "
            "expected an offset of kilometres."
        )
    longitude_deg = point.longitude_deg + east_deg
    if not -180 <= longitude_deg < 180:
        longitude_deg += 360 if longitude_deg < 0 else -360
    return GeoPoint(latitude_deg, longitude_deg)


def east_north_m(
    origin: GeoPoint, latitude_deg: NDArray[np.float64], longitude_deg: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Metres east and north of `origin` for arrays of degrees, in the tangent plane at `origin`."""
    per_lat, per_lon = metres_per_degree(origin.latitude_deg)
    east_deg = (np.asarray(longitude_deg) - origin.longitude_deg + 180.0) % 360.0 - 180.0
    return east_deg * per_lon, (np.asarray(latitude_deg) - origin.latitude_deg) * per_lat


def distance_m(a: GeoPoint, b: GeoPoint) -> float:
    """Distance between two points in metres, in the tangent plane at their middle latitude (short distances)."""
    per_lat, per_lon = metres_per_degree((a.latitude_deg + b.latitude_deg) / 2)
    east_deg = (b.longitude_deg - a.longitude_deg + 180.0) % 360.0 - 180.0
    return math.hypot(east_deg * per_lon, (b.latitude_deg - a.latitude_deg) * per_lat)


def sigma_m(covariance_m2: Covariance) -> float:
    """Standard deviation along a covariance's worst direction."""
    east2, both, north2 = covariance_m2
    return math.sqrt((east2 + north2) / 2 + math.hypot((east2 - north2) / 2, both))


def circle_95_m(covariance_m2: Covariance) -> float:
    """Radius of a circle that holds at least 95 % of a normal distribution of that covariance."""
    return math.sqrt(-2 * math.log(0.05)) * sigma_m(covariance_m2)
