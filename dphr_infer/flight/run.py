"""The photos of a flight, one after the other: each located, its motion told, and both given to the filter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import FlightError, ImageError
from dphr_infer.flight.fix import Fix, NoFix, Odometry
from dphr_infer.flight.flight import Flight, FlightStep
from dphr_infer.flight.odometry import visual_odometry
from dphr_infer.images.photo import Photo, PhotoLike
from dphr_infer.images.rectify import rectify
from dphr_infer.images.vehicle import ViewErrors, camera_covariance_m2, camera_point
from dphr_infer.locate.localizer import Localizer
from dphr_infer.types import Attitude, Covariance, GeoPoint, LocationEstimate

# Motion is seen on squares of so many pixels and tiles.
_SIDE_PX, _SIDE_TILES = 192, 1.5

Motion = Callable[[Photo], Odometry | None]
OnSkip = Callable[[PhotoLike, FlightError | ImageError], None]


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
    localizer: Localizer,
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
