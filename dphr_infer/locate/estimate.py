"""The matches of one photo -> where it was taken of, and whether to believe it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from dphr_infer.files.gallery import Gallery
from dphr_infer.geo import distance_m, east_north_m, offset
from dphr_infer.locate.settings import LocateSettings
from dphr_infer.register.registrar import Registration
from dphr_infer.types import GeoPoint, LocationEstimate, Matches, Place

# Places of a grid lie a whole stride apart only up to rounding; "within half a tile" must not depend on that.
_ROUNDING = 1.01
# Radius of the circle that holds 95 % of a round normal distribution, in its standard deviations.
_CIRCLE_95 = math.sqrt(-2 * math.log(0.05))


def estimate(
    matches: Matches, gallery: Gallery, settings: LocateSettings, rotations_deg: Sequence[float], source: str = ""
) -> LocationEstimate:
    """Of the view with the most similar match, its places; the first of equals.

    The radius is the largest distance of an agreeing match from the estimated point, and at least half the stride,
    which is how far a place between the grid's points may be from the nearest along an axis.

    Args:
        matches: of the photo's views, rows (R, k).
        gallery: whose rows they are.
        settings: when to accept, and whether to refine.
        rotations_deg: R, under which the views were embedded.
        source: of the photo, for people.
    """
    view = int(np.argmax(matches.similarity[:, 0]))
    rows, similarity = matches.rows[view][: settings.top_k], matches.similarity[view][: settings.top_k]
    places = tuple(
        Place(int(row), gallery.point(int(row)), float(value)) for row, value in zip(rows, similarity, strict=True)
    )
    tile_m, stride_m = gallery.origin.tile_m, gallery.origin.stride_m
    agreeing = [place for place in places if distance_m(place.point, places[0].point) <= tile_m * _ROUNDING]
    point = _refined(places, tile_m / 2 * _ROUNDING) if settings.refine else places[0].point
    reason = ""
    if len(agreeing) < settings.agreeing:
        reason = (
            f"ambiguous: {len(agreeing)} of the best {len(places)} matches lie together, {settings.agreeing} are needed"
        )
    elif places[0].similarity < settings.min_similarity:
        reason = f"similarity {places[0].similarity:.4f}, {settings.min_similarity:g} is needed"
    return LocationEstimate(
        point=point,
        similarity=places[0].similarity,
        verdict="none" if reason else "retrieved",
        radius_m=max(stride_m / 2, *(distance_m(place.point, point) for place in agreeing)),
        places=places,
        rotation_deg=rotations_deg[view],
        source=source,
        reason=reason,
    )


def verified(found: LocationEstimate, registration: Registration | None) -> LocationEstimate:
    """An estimate after its photo was tried on the map: at the registered place, or not to be used."""
    if registration is None:
        return dataclasses.replace(found, verdict="none", reason="unverified: too little of the photo matches the map")
    if not registration.verified:
        return dataclasses.replace(found, verdict="none", reason=registration.refused)
    east2, both, north2 = registration.covariance_m2
    widest_m2 = (east2 + north2) / 2 + math.hypot((east2 - north2) / 2, both)
    return dataclasses.replace(
        found,
        point=registration.point,
        verdict="verified",
        radius_m=_CIRCLE_95 * math.sqrt(widest_m2),
        reason="",
        covariance_m2=registration.covariance_m2,
    )


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
