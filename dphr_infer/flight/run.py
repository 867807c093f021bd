"""The photos of a flight, one after the other: each located, its motion told, and both given to the filter."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import FlightError, ImageError
from dphr_infer.files.calibration import CALIBRATE, Calibration
from dphr_infer.files.gallery import Gallery
from dphr_infer.flight.fix import Fix, NoFix, Odometry
from dphr_infer.flight.flight import Flight, FlightStep
from dphr_infer.flight.odometry import visual_odometry
from dphr_infer.images.photo import Photo, PhotoLike
from dphr_infer.images.rectify import rectify
from dphr_infer.images.vehicle import ViewErrors, camera_covariance_m2, camera_point
from dphr_infer.locate.stream import OnError
from dphr_infer.locate.views import Views
from dphr_infer.measure.stats import ks_distance, ks_p_value
from dphr_infer.types import Attitude, Covariance, GeoPoint, LocationEstimate

# Motion is seen on squares of so many pixels and tiles.
_SIDE_PX, _SIDE_TILES = 192, 1.5

# Fewer confirmed ranks tell nothing of their law; and how seldom a flight like those of the calibration is disowned.
_LEAST_RANKS, _LEAST_P = 8, 0.01

Motion = Callable[[Photo], Odometry | None]
OnSkip = Callable[[PhotoLike, FlightError | ImageError], None]


class Locating(Protocol):
    """What gives each photo with its estimate: a `Localizer`, or estimates that were kept."""

    @property
    def views(self) -> Views:
        """How its photos are seen."""
        ...

    def locate_photos(
        self, photos: PhotoLike | Iterable[PhotoLike], *, on_error: OnError | None = None
    ) -> Iterator[tuple[Photo, LocationEstimate]]:
        """See `Localizer.locate_photos`."""
        ...


@dataclass(frozen=True, slots=True)
class FlightFrame:
    """One photo of a flight.

    Attributes:
        photo: with its metadata.
        estimate: of this photo alone.
        odometry: motion since the last photo that was taken; None where it is not known.
        step: what the filter makes of both.
        camera, camera_covariance_m2: where the camera hung by this frame's fix, and how sure that is; None without a
            fix or a known attitude.
    """

    photo: Photo
    estimate: LocationEstimate
    odometry: Odometry | None
    step: FlightStep
    camera: GeoPoint | None = None
    camera_covariance_m2: Covariance | None = None


class SeenMotion:
    """Motion as two successive photos show it, for cameras whose attitude is known; see `visual_odometry`.

    Args:
        attitude: of a photo, as `Localizer.views` tells it.
        tile_m: side of the gallery's tiles; the ground that is compared is some tiles wide.
    """

    def __init__(self, attitude: Callable[[Photo], Attitude], tile_m: float) -> None:
        self._attitude, self._gsd_m = attitude, _SIDE_TILES * tile_m / _SIDE_PX
        self._last: NDArray[np.float32] | None = None

    def __call__(self, photo: Photo) -> Odometry | None:
        """Since the photo before; None at the first, without an attitude, and where no shift stands out."""
        before, self._last = self._last, None
        attitude = self._attitude(photo)
        if not attitude.known:
            return None
        ground = rectify(photo.rgb, attitude.view, _SIDE_PX, self._gsd_m)
        grey = ground.image.astype(np.float32).mean(axis=2)
        grey[~ground.seen] = grey[ground.seen].mean()  # an edge that moves with the photo would be seen as no motion
        self._last = grey
        return None if before is None else visual_odometry(before, grey, self._gsd_m)


def fly(
    localizer: Locating,
    flight: Flight,
    photos: Iterable[PhotoLike],
    time_s: Callable[[Photo], float],
    motion: Motion,
    on_skip: OnSkip | None = None,
) -> Iterator[FlightFrame]:
    """Take the photos of a flight in their order.

    Args:
        localizer: open; what it verifies on the map enters the filter as a registration. Its `top_k` should be at least
            (tile/stride)².
        flight: over the localizer's gallery.
        photos: as of `Localizer.locate_each`.
        time_s: when a photo was taken.
        motion: of each photo since the one before.
        on_skip: called with a photo that cannot be read, or that the filter refuses, and why; the flight goes on. None
            raises.

    Raises:
        ImageError, GalleryError, EngineError, FlightError: as of `Localizer.locate_each` and `Flight.step`.
    """
    for photo, estimate in localizer.locate_photos(photos, on_error=on_skip):
        moved = motion(photo)
        try:
            step = flight.step(time_s(photo), estimate, moved)
        except FlightError as error:
            if on_skip is None:
                raise
            on_skip(photo, error)
            continue
        yield FlightFrame(photo, estimate, moved, step, *_camera(step.fix, estimate, localizer.views.errors))


def _camera(
    fix: Fix | NoFix, estimate: LocationEstimate, errors: ViewErrors
) -> tuple[GeoPoint | None, Covariance | None]:
    """Where the camera hung by a frame's fix, and the covariance."""
    attitude = estimate.attitude
    if isinstance(fix, NoFix) or attitude is None or not attitude.known:
        return None, None
    if fix.source == "registered":
        return estimate.camera, estimate.camera_covariance_m2
    (east2, both), (_, north2) = fix.covariance.tolist()
    ground_m2 = (east2, both, north2)
    return camera_point(fix.point, attitude.view), camera_covariance_m2(ground_m2, attitude.view, errors)


def confirmed_rank(flight: Flight, step: FlightStep, rows: NDArray[np.int32]) -> int | None:
    """How the tile where the filter is sure to be ranks among a frame's matches; None where it is not sure.

    Args:
        flight: whose step it is.
        step: after that frame.
        rows: int32 (k,), the frame's matches, best first; a tile that is not among them has the rank k.
    """
    if step.track is None or step.mass < flight.settings.fix_mass:
        return None
    lattice = flight.lattice
    east_m, north_m = lattice.metres(step.track.point)
    cell = int(np.argmin(np.hypot(lattice.east_m - east_m, lattice.north_m - north_m)))
    here = np.flatnonzero(lattice.cell_of_row[rows] == cell)
    return int(here[0]) if len(here) else len(rows)


def confirmed_ranks(flight: Flight, frames: Iterable[FlightFrame]) -> list[int]:
    """Of each stretch of one tile side the first confirmed rank, which do not share their ground."""
    ranks: list[int] = []
    moved_m = math.inf
    for frame in frames:
        moved_m += 0.0 if frame.odometry is None else frame.odometry.distance_m
        rows = np.array([place.row for place in frame.estimate.places], np.int32)
        rank = confirmed_rank(flight, frame.step, rows)
        if rank is not None and moved_m >= flight.lattice.tile_m:
            ranks.append(rank)
            moved_m = 0.0
    return ranks


def promise_line(calibration: Calibration | None, gallery: Gallery, ranks: Sequence[int], on_map: bool) -> str:
    """What the fixes of a flight are promised, or why nothing is.

    Args:
        calibration: of the bundle.
        gallery: that was flown over.
        ranks: as `confirmed_ranks` gives them.
        on_map: whether photos were registered on the map besides.
    """
    if calibration is None:
        return f"no promise: not calibrated. {CALIBRATE}"
    promise, origin = calibration.promise, gallery.origin
    if promise.fix_mass is None:
        return f"no promise: at alpha {promise.alpha:g} no threshold held when the bundle was calibrated"
    if not calibration.fits(origin.tile_m, origin.stride_m):
        return (
            f"no promise: the gallery's stride is {origin.stride_m / origin.tile_m:.2f} tile sides, that of the "
            f"calibration {calibration.stride_m / calibration.tile_m:.2f}"
        )
    last = len(promise.confirmed_ranks) - 1
    words = (
        f"promise: of stretches of {origin.tile_m:g} m with a fix at most {promise.alpha:.1%} have one more than "
        f"{origin.tile_m:g} m off ({promise.wrong} of {promise.n} on {len(calibration.maps)} maps, {calibration.date})"
    )
    if on_map:
        words += "; for fixes of matches alone, those registered on the map are judged by their false alarms"
    if len(ranks) < _LEAST_RANKS:
        return f"{words}; {len(ranks)} confirmed ranks are too few to tell whether this flight is like those"
    counts = np.bincount(np.minimum(ranks, last), minlength=last + 1)
    distance = ks_distance(counts.tolist(), promise.confirmed_ranks)
    p_value = ks_p_value(distance, len(ranks), sum(promise.confirmed_ranks))
    if p_value < _LEAST_P:
        return (
            f"no promise: the {len(ranks)} confirmed ranks do not look like the calibration's "
            f"{sum(promise.confirmed_ranks)} (Kolmogorov-Smirnov {distance:.2f}, p {p_value:.2g}): another ground, "
            "camera or season than it was calibrated on"
        )
    return f"{words}; its {len(ranks)} confirmed ranks look like the calibration's (p {p_value:.2g})"
