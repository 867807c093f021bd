"""The matches of one photo -> where it was taken of, and whether to believe it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from dphr_infer.files.calibration import CALIBRATE, Calibration
from dphr_infer.files.gallery import Gallery
from dphr_infer.geo import circle_95_m, distance_m, east_north_m, offset
from dphr_infer.images.blank import blank_reason
from dphr_infer.images.photo import Photo
from dphr_infer.images.vehicle import ViewErrors, camera_covariance_m2, camera_point
from dphr_infer.locate.settings import LocateSettings
from dphr_infer.register.registrar import Registration
from dphr_infer.types import MAX_HEIGHT_M, Attitude, GeoPoint, LocationEstimate, Matches, Place

# Places of a grid lie a whole stride apart only up to rounding; "within half a tile" must not depend on that.
_ROUNDING = 1.01
# What a compass errs by; a yaw that the map corrects by more is said.
_YAW_ERROR_DEG = 15.0


def estimate(
    matches: Matches,
    gallery: Gallery,
    settings: LocateSettings,
    rotations_deg: Sequence[float],
    calibration: Calibration | None,
    source: str = "",
) -> LocationEstimate:
    """Of the view with the most similar match, its places; the first of equals.

    It is "retrieved" where the bundle's calibration says so: similarity and margin, each at least what was stated. The
    radius is the largest distance from the estimated point of the places within a tile side of the best one, and at
    least half the stride, which is how far a place between the grid's points may be from the nearest along an axis.

    Args:
        matches: of the photo's views, rows (R, k); at least `matches_for_margin` of them, or the margin is a lower
            bound.
        gallery: whose rows they are.
        settings: how many places to tell, and whether to refine.
        rotations_deg: R, under which the views were embedded.
        calibration: of the bundle.
        source: of the photo, for people.
    """
    view = int(np.argmax(matches.similarity[:, 0]))
    rows, similarity = matches.rows[view][: settings.top_k], matches.similarity[view][: settings.top_k]
    places = tuple(
        Place(int(row), gallery.point(int(row)), float(value)) for row, value in zip(rows, similarity, strict=True)
    )
    tile_m, stride_m = gallery.origin.tile_m, gallery.origin.stride_m
    near = [place for place in places if distance_m(place.point, places[0].point) <= tile_m * _ROUNDING]
    point = _refined(places, tile_m / 2 * _ROUNDING) if settings.refine else places[0].point
    reason = _not_retrieved(matches, view, gallery, calibration)
    return LocationEstimate(
        point=point,
        similarity=places[0].similarity,
        verdict="none" if reason else "retrieved",
        radius_m=max(stride_m / 2, *(distance_m(place.point, point) for place in near)),
        places=places,
        rotation_deg=rotations_deg[view],
        source=source,
        reason=reason,
    )


def matches_for_margin(gallery: Gallery) -> int:
    """How many matches hold one that lies more than a tile side from the best, where the map goes on there."""
    origin = gallery.origin
    return math.ceil(math.pi * (origin.tile_m * _ROUNDING / origin.stride_m + 1) ** 2) + 1


def matches_for_places(gallery: Gallery, places: int) -> int:
    """How many matches name so many places, each of which many tiles show."""
    return places * math.ceil((gallery.origin.tile_m / gallery.origin.stride_m) ** 2 / 2)


def margin_of(matches: Matches, view: int, gallery: Gallery) -> float:
    """How much more similar the best match of a view is than the best that lies more than a tile side from it.

    Where none of the matches does, the least similar of them stands for it: the margin is at least that.
    """
    rows, similarity = matches.rows[view], matches.similarity[view]
    best = gallery.point(int(rows[0]))
    away = np.hypot(*east_north_m(best, gallery.latitude_deg[rows], gallery.longitude_deg[rows]))
    others = np.flatnonzero(away > gallery.origin.tile_m * _ROUNDING)
    return float(similarity[0]) - float(similarity[others[0] if len(others) else -1])


def _not_retrieved(matches: Matches, view: int, gallery: Gallery, calibration: Calibration | None) -> str:
    """Why matches alone are not to be believed; empty where they are."""
    if calibration is None:
        return f"not calibrated: the bundle states no similarity floor and margin. {CALIBRATE}"
    wanted, origin = calibration.verdict, gallery.origin
    if wanted.floor is None or wanted.margin is None:
        return f"unverified: matches alone told right from wrong nowhere at the bundle's alpha {wanted.alpha:g}"
    if not calibration.fits(origin.tile_m, origin.stride_m):
        return (
            f"not calibrated for this gallery: its stride is {origin.stride_m / origin.tile_m:.2f} tile sides, that of "
            f"the calibration {calibration.stride_m / calibration.tile_m:.2f}"
        )
    similarity = float(matches.similarity[view][0])
    if similarity < wanted.floor:
        return f"off the map: similarity {similarity:.3f}, the bundle's floor is {wanted.floor:.3f}"
    margin = margin_of(matches, view, gallery)
    if margin < wanted.margin:
        return f"ambiguous: margin {margin:.3f} to another place, the bundle asks {wanted.margin:.3f}"
    return ""


def verified(found: LocationEstimate, registration: Registration | None) -> LocationEstimate:
    """An estimate after its photo was tried on the map: at the registered place, or not to be used."""
    if registration is None:
        return dataclasses.replace(found, verdict="none", reason="unverified: too little of the photo matches the map")
    if not registration.verified:
        return dataclasses.replace(found, verdict="none", reason=registration.refused)
    return dataclasses.replace(
        found,
        point=registration.point,
        verdict="verified",
        radius_m=circle_95_m(registration.covariance_m2),
        reason="",
        covariance_m2=registration.covariance_m2,
        matched=registration.matched,
    )


def with_camera(
    found: LocationEstimate, attitude: Attitude, errors: ViewErrors, registration: Registration | None
) -> LocationEstimate:
    """An estimate with where its camera hung, if it has a position and the attitude is known.

    What a registration tells of height and yaw stands before the attitude: drones do write a yaw that is half a turn
    off, and a height above take-off.

    Args:
        found: after its photo was tried on the map.
        attitude: of its camera.
        errors: of the attitude.
        registration: of a verified estimate; of others it is not looked at.
    """
    found = dataclasses.replace(found, attitude=attitude)
    if not found.accepted or not attitude.known:
        reason = f"attitude {attitude.reason}" if found.accepted else "not accepted"
        return dataclasses.replace(found, camera_reason=reason)
    view = attitude.view
    if registration is not None and found.verdict == "verified":
        height_m = min(view.height_m * registration.scale, MAX_HEIGHT_M)
        yaw_deg = (view.yaw_deg + registration.turn_deg) % 360
        view = dataclasses.replace(view, height_m=height_m, yaw_deg=yaw_deg)
        errors = dataclasses.replace(errors, yaw_deg=min(errors.yaw_deg, errors.roll_deg))
        if abs(registration.turn_deg) > _YAW_ERROR_DEG:
            yaw = f"{attitude.sources['yaw_deg']}; by the map it is {yaw_deg:.0f}"
            found = dataclasses.replace(
                found, attitude=dataclasses.replace(attitude, sources={**attitude.sources, "yaw_deg": yaw})
            )
    ground_m2 = found.covariance_m2
    return dataclasses.replace(
        found,
        camera=camera_point(found.point, view),
        camera_covariance_m2=None if ground_m2 is None else camera_covariance_m2(ground_m2, view, errors),
        camera_reason="",
    )


def not_blank(found: LocationEstimate, photo: Photo) -> LocationEstimate:
    """An estimate that is not verified, after its photo was looked at: of nothing, it is not to be used."""
    if found.verdict == "verified" or not (blank := blank_reason(photo)):
        return found
    return dataclasses.replace(found, verdict="none", reason=blank)


def candidates(matches: Matches, gallery: Gallery) -> list[GeoPoint]:
    """Every place that the view with the most similar match names, best first."""
    view = int(np.argmax(matches.similarity[:, 0]))
    return [gallery.point(int(row)) for row in matches.rows[view]]


def _refined(places: Sequence[Place], reach_m: float) -> GeoPoint:
    """The mean of the places within reach of the best, weighted by their similarity where that is above 0."""
    best = places[0].point
    near = [place for place in places if distance_m(place.point, best) <= reach_m and place.similarity > 0]
    if not near:
        return best
    latitude_deg = np.array([place.point.latitude_deg for place in near])
    longitude_deg = np.array([place.point.longitude_deg for place in near])
    east_m, north_m = east_north_m(best, latitude_deg, longitude_deg)
    weights = np.array([place.similarity for place in near])
    return offset(best, float(np.average(east_m, weights=weights)), float(np.average(north_m, weights=weights)))
