"""Where a photo lies on the map around the places that retrieval names, and whether to believe it.

ground picture   the photo from straight above, at a resolution that the map has too     rectify
features         of the picture, and of the map's blocks around the places               features, map_features
vote             matched points name a translation, or a bounded similarity              vote
false alarms     how many votes as good chance would give                                false_alarms
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import ImageError
from dphr_infer.geo import circle_95_m, distance_m, offset
from dphr_infer.images.rectify import GroundPicture, rectify
from dphr_infer.maps.view import MapPixels
from dphr_infer.register.false_alarms import log10_false_alarms
from dphr_infer.register.features import CELLS, FeatureExtractor, Features, SiftFeatures
from dphr_infer.register.map_features import DENSITY, MapFeatures
from dphr_infer.register.settings import RegisterSettings
from dphr_infer.register.vote import (
    Points,
    Vote,
    best_matches,
    distinct_cells,
    fit,
    vote_similarity,
    vote_translation,
)
from dphr_infer.types import Attitude, CameraView, GeoPoint, MatchedPoints

# Errors of the view that a vote allows: scale as a factor, turn in degrees.
_KNOWN = (1.25, 15.0)
_ASSUMED_SCALE = 2.0
_ANY_TURN_DEG = 180.0
# Features are described alike within this factor of size.
_SIZE_FACTOR = 1.5
# A vote's tolerance: pixels, or shares of the picture's side. A translation must bear the view's errors.
_TOLERANCE_PX, _TRANSLATION_SHARE, _SIMILARITY_SHARE = 3.0, 0.02, 0.01
# Matches closer to each other are one.
_APART_PX = 2.0
# How uneven a map's features lie, as a factor on the chance that one match agrees.
_UNEVEN = 2.0
_FEWEST = 4
# What most photos need. Where these do not place one, all are tried.
_FEW_FEATURES = 400
# Searches of a place that may be tried: few and all features, each by two votes, then all under any turn.
_SEARCHES = 5
# A vote that chance explains by 10 to this power less often than asked is doubted no more than by what else its own
# matches look like.
_BEYOND_DOUBT = 12
# Scale and attitude of a good view agree within that; what exceeds it may be height that its matches stand on.
_SCALE_ERROR = 0.03
# What is fitted to how many matches, the first that they tell: an affine map, a similarity, a translation.
_PARAMETERS = ((6, 12), (4, 5), (2, 0))
# How exactly a feature is found, in pixels. What stands up from the ground errs alike for neighbours: so many matches
# count as one, and no number of them betters a share of the picture's side.
_POINT_PX, _ALIKE, _FLOOR_SHARE = 0.5, 6.0, 0.0025


@dataclass(frozen=True, slots=True)
class Registration:
    """A photo on the map's pixels.

    Attributes:
        point: the ground in the middle of the photo.
        covariance_m2: of that point, (east², east·north, north²) in square metres.
        log10_nfa: of the vote.
        inliers, matches: how many matches agree, of how many.
        scale: metres on the map to a metre of the view: 1.02 where the camera was 2 % higher than it says.
        turn_deg: by how much the true yaw exceeds the view's.
        refused: why the vote is not believed; empty where it is.
        matched: the matches that agree, for pictures.
    """

    point: GeoPoint
    covariance_m2: tuple[float, float, float]
    log10_nfa: float
    inliers: int
    matches: int
    scale: float
    turn_deg: float
    refused: str = ""
    matched: MatchedPoints | None = field(default=None, compare=False, repr=False)

    @property
    def verified(self) -> bool:
        """Whether the vote is believed."""
        return not self.refused


@dataclass(frozen=True, slots=True)
class _Search:
    """How a photo is searched for around a place: resolution, sizes in metres, and what may differ from the view."""

    view: CameraView
    gsd_m: float
    side_m: float
    radius_m: float
    scale: float
    turn_deg: float
    upright: bool
    known: bool


class Registrar:
    """Lays photos on a map. A context manager, which enters and leaves the map.

    Args:
        pixels: the map, not yet entered.
        tile_m: side of the gallery's tiles.
        settings: None takes `RegisterSettings()`.
        extractor: None takes SIFT.

    Raises:
        MissingPackageError: OpenCV is not installed.
    """

    def __init__(
        self,
        pixels: MapPixels,
        tile_m: float,
        settings: RegisterSettings | None = None,
        extractor: FeatureExtractor | None = None,
    ) -> None:
        self.settings = settings or RegisterSettings()
        self._pixels, self._tile_m = pixels, tile_m
        self._extractor = extractor or SiftFeatures()
        self._map = MapFeatures(pixels, self._extractor, self.settings.cache_mb << 20)

    def __enter__(self) -> Registrar:
        self._pixels.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pixels.__exit__(kind, error, trace)

    @property
    def finest_m(self) -> float:
        """Metres a pixel of the finest picture that a photo is registered by."""
        return max(self._pixels.gsd_m, self.settings.side_tiles * self._tile_m / self.settings.max_side_px)

    def ground_picture(self, image: NDArray[np.uint8], attitude: Attitude) -> GroundPicture:
        """The photo as it is registered, at the map's resolution or coarser by steps of a square root of two.

        Raises:
            ImageError: the photo shows nothing of the ground around its middle.
        """
        map_m, view = self._pixels.gsd_m, attitude.view
        side_m = self.settings.side_tiles * self._tile_m
        wanted_m = max(self.finest_m, view.gsd_m(image.shape[1]))
        gsd_m = map_m * 2 ** (math.ceil(2 * math.log2(wanted_m / map_m) - 1e-9) / 2)
        return rectify(image, view, max(1, round(side_m / gsd_m)), gsd_m)

    def register(self, image: NDArray[np.uint8], attitude: Attitude, places: Sequence[GeoPoint]) -> Registration | None:
        """Lay a photo on the map around places, most likely first.

        Args:
            image: uint8 (H, W, 3).
            attitude: of its camera.
            places: where retrieval has it; those within half a tile of an earlier one count once.

        Returns:
            The place whose vote chance explains least, verified or not; None where nowhere enough matches vote, or the
            photo shows nothing of the ground around its middle.

        Raises:
            MapError: the map is damaged.
        """
        try:
            ground = self.ground_picture(image, attitude)
        except ImageError:
            return None
        places = self._apart(places)
        every = math.ceil(DENSITY * float(ground.seen.sum()) / 1e6)
        found = None
        for most in sorted({min(_FEW_FEATURES, every), every}):
            found = self._best(ground, attitude, places, most, attitude.yaw_known) or found
            if found is not None and found.verified:
                return found
        if attitude.yaw_known and (found is None or found.log10_nfa > self.settings.max_log10_nfa):
            # Cameras do write a yaw that is half a turn off: what its north does not place is tried under any turn.
            turned = self._best(ground, attitude, places, every, upright=False)
            if turned is not None and (found is None or turned.log10_nfa < found.log10_nfa):
                return turned
        return found

    def _best(
        self, ground: GroundPicture, attitude: Attitude, places: Sequence[GeoPoint], most: int, upright: bool
    ) -> Registration | None:
        found = self._extractor.extract(ground.image, ground.seen, most, upright)
        if len(found) < _FEWEST:  # before the map is looked at
            return None
        points = (found.points - ground.image.shape[0] / 2) * np.array([ground.gsd_m, -ground.gsd_m], np.float32)
        photo = Features(points, found.sizes * np.float32(ground.gsd_m), found.descriptors)
        search = _Search(
            attitude.view,
            ground.gsd_m,
            side_m=self.settings.side_tiles * self._tile_m,
            radius_m=(self.settings.side_tiles + 1) / 2 * self._tile_m,
            scale=_KNOWN[0] if attitude.known else _ASSUMED_SCALE,
            turn_deg=_KNOWN[1] if upright else _ANY_TURN_DEG,
            upright=upright,
            known=attitude.known,
        )
        votes: list[Registration] = []
        asked = photo
        for place in places:
            if any(one.verified and distance_m(place, one.point) < search.radius_m / 2 for one in votes):
                continue  # most of what lies around it was searched already
            one, agreeing = self._at(place, asked, search)
            if one is None:
                continue
            votes.append(one)
            if one.verified and one.log10_nfa < self.settings.max_log10_nfa - _BEYOND_DOUBT and asked is photo:
                asked = Features(photo.points[agreeing], photo.sizes[agreeing], photo.descriptors[agreeing])
        return self._unless_elsewhere(votes, search.side_m / 4) if votes else None

    def _unless_elsewhere(self, votes: Sequence[Registration], apart_m: float) -> Registration:
        """The one that chance explains least, refused where others put the photo elsewhere nearly as well."""
        best = min(votes, key=lambda one: one.log10_nfa)
        rivals = [one.inliers for one in votes if distance_m(one.point, best.point) > apart_m]
        if best.verified and max(rivals, default=0) >= self.settings.rivals * best.inliers:
            return dataclasses.replace(best, refused=_ambiguous(best.inliers, max(rivals)))
        return best

    def _apart(self, places: Sequence[GeoPoint]) -> list[GeoPoint]:
        kept: list[GeoPoint] = []
        for place in places:
            if len(kept) == self.settings.candidates:
                break
            if all(distance_m(place, other) > self._tile_m / 2 for other in kept):
                kept.append(place)
        return kept

    def _at(self, place: GeoPoint, photo: Features, search: _Search) -> tuple[Registration | None, NDArray[np.intp]]:
        """The photo at a place, and which of its features agree."""
        target = self._map.around(place, search.radius_m, search.gsd_m, search.upright)
        sizes = _SIZE_FACTOR * search.scale / _KNOWN[0]
        from_photo, from_map = best_matches(photo, target, self.settings.ratio, sizes, _APART_PX * search.gsd_m)
        if len(from_photo) < _FEWEST:
            return None, from_photo
        here, there = _complex(photo, from_photo), _complex(target, from_map)
        vote, log10_nfa = self._vote(here, there, search)
        agreeing = from_photo[vote.inliers]
        return self._judged(place, here, there, vote, search, log10_nfa) if len(agreeing) > 1 else None, agreeing

    def _vote(self, here: Points, there: Points, search: _Search) -> tuple[Vote, float]:
        """The vote that chance explains least, and its log10 NFA."""
        pixels_m = _TOLERANCE_PX * search.gsd_m
        tight_m = max(pixels_m, _SIMILARITY_SHARE * search.side_m)
        votes = [(vote_similarity(here, there, tight_m, 4 * tight_m, search.scale, search.turn_deg), tight_m)]
        if search.known and search.upright:
            loose_m = max(pixels_m, _TRANSLATION_SHARE * search.side_m)
            votes.append((vote_translation(here, there, loose_m, 4 * loose_m), loose_m))
        judged = []
        for vote, tolerance_m in votes:
            chance = min(0.5, _UNEVEN * math.pi * tolerance_m**2 / (2 * search.radius_m) ** 2)
            hypotheses = vote.hypotheses * _SEARCHES * self.settings.candidates
            # One crossing or roof that looks like another holds a dozen features, and they are no dozen witnesses.
            supports = distinct_cells(here[vote.inliers], search.side_m / CELLS)
            nfa = log10_false_alarms(supports, len(here), vote.used, chance, hypotheses)
            judged.append((vote, nfa))
        return min(judged, key=lambda one: one[1])

    def _judged(
        self, place: GeoPoint, here: Points, there: Points, vote: Vote, search: _Search, log10_nfa: float
    ) -> Registration:
        count = int(vote.inliers.sum())
        refused = ""
        if log10_nfa > self.settings.max_log10_nfa:
            refused = f"unverified: chance gives 10^{log10_nfa:.1f} votes as good"
        elif vote.rivals >= self.settings.rivals * count:
            refused = _ambiguous(count, vote.rivals)
        # An affine map takes up what errors of pitch and roll do to a picture of this size.
        fits = (fit(here[vote.inliers], there[vote.inliers], p) for p, fewest in _PARAMETERS if count >= fewest)
        found = next(one for one in fits if math.isfinite(one.lever))  # matches on one line do not tell an affine map
        point_m2 = found.variance_m2 + (_POINT_PX * search.gsd_m) ** 2
        variance_m2 = point_m2 * _ALIKE * found.lever + (_FLOOR_SHARE * search.side_m) ** 2
        east, north = _leaning_m(search.view, found.turn) if search.known else (0.0, 0.0)
        covariance_m2 = (variance_m2 + east**2, east * north, variance_m2 + north**2)
        radius_m, most_m = circle_95_m(covariance_m2), self.settings.max_radius_tiles * self._tile_m
        if not refused and radius_m > most_m:
            refused = (
                f"imprecise: its circle of 95 % has a radius of {radius_m:.0f} m, at most {most_m:.0f} are believed"
            )
        return Registration(
            offset(place, found.shift.real, found.shift.imag),
            covariance_m2,
            log10_nfa,
            count,
            len(here),
            abs(found.turn),
            -math.degrees(np.angle(found.turn)),
            refused,
            MatchedPoints(*(_pairs(one[vote.inliers]) for one in (here, there - found.shift))),
        )


def _ambiguous(here: int, elsewhere: int) -> str:
    return f"ambiguous: {here} matches agree here and {elsewhere} elsewhere"


def _pairs(points: Points) -> NDArray[np.float64]:
    return np.stack([points.real, points.imag], axis=1)


def _leaning_m(view: CameraView, turn: complex) -> tuple[float, float]:
    """By how far matches may lie off the ground that they seem to be on, east and north: what stands as high as the
    scale's excess says, e.g. the roofs of a block, leans away from an oblique camera by its height's share of that.
    """
    height_m = max(0.0, abs(1 - abs(turn)) - _SCALE_ERROR) * view.height_m
    away_m = height_m / math.tan(math.radians(-view.pitch_deg))
    yaw = math.radians(view.yaw_deg) - float(np.angle(turn))
    return away_m * math.sin(yaw), away_m * math.cos(yaw)


def _complex(features: Features, rows: NDArray[np.intp]) -> Points:
    points: Points = features.points[rows].astype(np.float64) @ np.array([1, 1j])
    return points
