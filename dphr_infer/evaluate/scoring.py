"""How well a set of photos was located: the numbers under the table of `dphr-infer locate`."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dphr_infer.evaluate.footprint import tile_shows
from dphr_infer.evaluate.truth import Truth
from dphr_infer.geo import distance_m, east_north_m
from dphr_infer.images.metadata import PhotoMetadata
from dphr_infer.types import LocationEstimate

NEAR_M = 40.0


@dataclass(frozen=True, slots=True)
class LocatedPhoto:
    """A photo, where it was placed, and where it was taken of if that is known."""

    path: Path
    metadata: PhotoMetadata
    estimate: LocationEstimate
    truth: Truth | None

    @property
    def error_m(self) -> float | None:
        """Distance from the estimate to the truth."""
        return None if self.truth is None else distance_m(self.estimate.point, self.truth.point)

    @property
    def place_errors_m(self) -> tuple[float, ...]:
        """Distance of each of the top k places from the truth; empty where that is unknown."""
        if self.truth is None:
            return ()
        return tuple(distance_m(place.point, self.truth.point) for place in self.estimate.places)

    def right_places(self, tile_m: float) -> tuple[bool, ...]:
        """Whether each of the top k tiles shows what the photo shows (`tile_shows`); empty without a footprint."""
        if self.truth is None or not self.truth.corners:
            return ()
        return tuple(tile_shows(self.truth.corners, place.point, tile_m) for place in self.estimate.places)

    def shown_by(self, tile_m: float) -> tuple[bool, ...]:
        """Whether each of the top k tiles is a right one, for pictures; empty without truth.

        With a footprint as in `right_places`; else, whether the true centre lies within the tile.
        """
        if self.truth is None or self.truth.corners:
            return self.right_places(tile_m)
        latitude, longitude = np.array([self.truth.point.latitude_deg]), np.array([self.truth.point.longitude_deg])
        offsets_m = [east_north_m(place.point, latitude, longitude) for place in self.estimate.places]
        return tuple(bool(max(abs(east[0]), abs(north[0])) <= tile_m / 2) for east, north in offsets_m)


@dataclass(frozen=True, slots=True)
class LocateSummary:
    """Errors over the photos whose truth is known, in metres; None where a number has no photo to stand on.

    Attributes:
        n_photos: located.
        n_with_truth: of these, with a known truth.
        n_truth_from_file, n_truth_from_metadata: of those, by source.
        n_truth_unused: rows of the truth file that no photo goes by.
        median_error_m: of the estimate.
        share_within_40_m: of the photos with truth, by the estimate.
        oracle_median_error_m, oracle_share_within_40_m: the same for the nearest of the top k places: what a perfect
            choice among them would reach.
        accepted_share: of the photos located, with or without truth.
        accepted_median_error_m: of the accepted with truth.
        n_with_footprint: photos whose corners are known.
        recall_at_1, recall_at_k: share of those whose best, or any of whose top k tiles, is right (`tile_shows`).
        top_k: places looked at.
    """

    n_photos: int
    n_with_truth: int
    n_truth_from_file: int
    n_truth_from_metadata: int
    n_truth_unused: int
    median_error_m: float | None
    share_within_40_m: float | None
    oracle_median_error_m: float | None
    oracle_share_within_40_m: float | None
    accepted_share: float | None
    accepted_median_error_m: float | None
    n_with_footprint: int
    recall_at_1: float | None
    recall_at_k: float | None
    top_k: int


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _share(flags: Sequence[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None


def summarise(photos: Sequence[LocatedPhoto], tile_m: float, n_truth_unused: int = 0) -> LocateSummary:
    """The summary of some located photos on a gallery of `tile_m` tiles."""
    sources = [photo.truth.source for photo in photos if photo.truth is not None]
    errors = [photo.error_m for photo in photos if photo.error_m is not None]
    oracle = [min(photo.place_errors_m) for photo in photos if photo.place_errors_m]
    accepted = [photo.error_m for photo in photos if photo.error_m is not None and photo.estimate.accepted]
    right = [flags for photo in photos if (flags := photo.right_places(tile_m))]
    return LocateSummary(
        n_photos=len(photos),
        n_with_truth=len(errors),
        n_truth_from_file=sources.count("file"),
        n_truth_from_metadata=sources.count("metadata"),
        n_truth_unused=n_truth_unused,
        median_error_m=_median(errors),
        share_within_40_m=_share([error <= NEAR_M for error in errors]),
        oracle_median_error_m=_median(oracle),
        oracle_share_within_40_m=_share([error <= NEAR_M for error in oracle]),
        accepted_share=_share([photo.estimate.accepted for photo in photos]),
        accepted_median_error_m=_median(accepted),
        n_with_footprint=len(right),
        recall_at_1=_share([flags[0] for flags in right]),
        recall_at_k=_share([any(flags) for flags in right]),
        top_k=max((len(photo.estimate.places) for photo in photos), default=0),
    )
