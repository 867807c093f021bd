"""The photos of a flight, one after the other: each located, its motion told, and both given to the filter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import FlightError, ImageError
from dphr_infer.flight.fix import Odometry, RegisteredPoint
from dphr_infer.flight.flight import Flight, FlightStep
from dphr_infer.flight.odometry import visual_odometry
from dphr_infer.images.attitude import Attitude
from dphr_infer.images.photo import Photo, PhotoLike
from dphr_infer.images.rectify import rectify
from dphr_infer.locate.stream import OnError
from dphr_infer.types import LocationEstimate

# How often a verified registration is wrong all the same: the most that registrations are held to.
OUTLIER_SHARE = 0.01
# Motion is seen on squares of so many pixels and tiles.
_SIDE_PX, _SIDE_TILES = 192, 1.5

Motion = Callable[[Photo], Odometry | None]
OnSkip = Callable[[PhotoLike, FlightError | ImageError], None]


class Locating(Protocol):
    """What gives each photo with its estimate: a `Localizer`, or estimates that were kept."""

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
    """

    photo: Photo
    estimate: LocationEstimate
    odometry: Odometry | None
    step: FlightStep


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
        registered = None
        if estimate.covariance_m2 is not None:
            east2, both, north2 = estimate.covariance_m2
            covariance = np.array([[east2, both], [both, north2]])
            registered = RegisteredPoint(estimate.point, covariance, OUTLIER_SHARE)
        try:
            step = flight.step(time_s(photo), estimate, moved, registered)
        except FlightError as error:
            if on_skip is None:
                raise
            on_skip(photo, error)
            continue
        yield FlightFrame(photo, estimate, moved, step)
