"""How a photo's camera looked and where it hung, as columns of a list and as lines for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dphr_infer.errors import printable
from dphr_infer.geo import sigma_m
from dphr_infer.types import Attitude, Covariance, GeoPoint, LocationEstimate

_NAMES = ("height_m", "pitch_deg", "roll_deg", "yaw_deg", "fov_deg")
ATTITUDE_COLUMNS = (
    *(column for name in _NAMES for column in (name, f"{name.rsplit('_', 1)[0]}_source")),
    "attitude_reason",
)
_COVARIANCE = ("east2_m2", "east_north_m2", "north2_m2")
COVARIANCE_COLUMNS = tuple(f"covariance_{part}" for part in _COVARIANCE)
CAMERA_COLUMNS = (
    *("camera_latitude_deg", "camera_longitude_deg", "camera_sigma_m"),
    *(f"camera_covariance_{part}" for part in _COVARIANCE),
    "camera_reason",
)


def attitude_columns(attitude: Attitude | None) -> dict[str, Any]:
    """By `ATTITUDE_COLUMNS`: each value that was found and where it comes from, and why they give no view."""
    values: Mapping[str, float] = {} if attitude is None else attitude.values
    sources: Mapping[str, str] = {} if attitude is None else attitude.sources
    row: dict[str, Any] = {}
    for name in _NAMES:
        row[name] = None if name not in values else round(values[name], 2)
        row[f"{name.rsplit('_', 1)[0]}_source"] = sources.get(name, "")
    return {**row, "attitude_reason": "" if attitude is None else attitude.reason}


def covariance_columns(covariance_m2: Covariance | None, whose: str = "") -> dict[str, Any]:
    """By `COVARIANCE_COLUMNS`, with `whose` in front of each name."""
    values = (None,) * 3 if covariance_m2 is None else tuple(round(value, 3) for value in covariance_m2)
    return {f"{whose}covariance_{part}": value for part, value in zip(_COVARIANCE, values, strict=True)}


def camera_columns(camera: GeoPoint | None, covariance_m2: Covariance | None, reason: str) -> dict[str, Any]:
    """By `CAMERA_COLUMNS`; sigma is that of the worst direction."""
    return {
        "camera_latitude_deg": None if camera is None else round(camera.latitude_deg, 7),
        "camera_longitude_deg": None if camera is None else round(camera.longitude_deg, 7),
        "camera_sigma_m": None if covariance_m2 is None else round(sigma_m(covariance_m2), 2),
        **covariance_columns(covariance_m2, "camera_"),
        "camera_reason": reason,
    }


def attitude_lines(name: str, estimate: LocationEstimate) -> list[str]:
    """What `--verbose` says of a photo: its attitude, value by value with its source, and where the camera hung."""
    attitude = estimate.attitude
    if attitude is None:
        return [f"{printable(name)}: no attitude"]
    lines = [f"{printable(name)}: {'attitude known' if attitude.known else f'attitude {attitude.reason}'}"]
    for column in _NAMES:
        word, unit = column.rsplit("_", 1)
        value, source = attitude.values.get(column), attitude.sources.get(column, "unknown")
        shown = "-" if value is None else f"{value:.2f} {'m' if unit == 'm' else '°'}"
        given = f"given by `{column}`" if source == "given" else source
        lines.append(f"  {word:<7}{shown:>11}  {given}")
    if estimate.camera is None:
        return [*lines, f"  camera           -  {estimate.camera_reason}"]
    camera, covariance = estimate.camera, estimate.camera_covariance_m2
    sigma = "" if covariance is None else f" ± {sigma_m(covariance):.1f} m (1 sigma)"
    return [*lines, f"  camera   {camera.latitude_deg:.6f}, {camera.longitude_deg:.6f}{sigma}"]
