"""A photo -> the pictures of model size that are embedded: rectified, turned, or as it is."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from dphr_infer.cuda.preprocess.plan import Pose
from dphr_infer.errors import ImageError
from dphr_infer.images.attitude import attitude_of
from dphr_infer.images.metadata import PhotoMetadata
from dphr_infer.images.photo import Photo
from dphr_infer.images.preprocess import Preprocess
from dphr_infer.images.rectify import GroundSquare, rectify
from dphr_infer.images.rotation import rotate_square
from dphr_infer.images.vehicle import ViewErrors
from dphr_infer.locate.settings import CameraSettings, LocateSettings
from dphr_infer.types import Attitude

_log = logging.getLogger(__name__)

# A tile keeps at least so many pixels to its side: photos are also compared with each other, see flight/run.py.
_LEAST_SIDE_PX = 256


class Views:
    """Knows which views of a photo are looked up, and how each is made.

    Args:
        settings: whose heading is asked.
        camera: what is known of it, and whether to rectify.
        preprocess: the bundle's.
        tile_m: side of the gallery's tiles.
        trained_rectified: whether the bundle's encoder was trained on rectified photos; the first photo that is not
            brought to it in that way is logged. None where the bundle does not say, and nothing is.
    """

    def __init__(
        self,
        settings: LocateSettings,
        camera: CameraSettings,
        preprocess: Preprocess,
        tile_m: float,
        trained_rectified: bool | None = None,
    ) -> None:
        self._settings, self._camera, self._tile_m = settings, camera, tile_m
        self._side_px = max(preprocess.height_px, preprocess.width_px)
        self._expected = trained_rectified

    @property
    def errors(self) -> ViewErrors:
        """Of an attitude, as the settings state them."""
        camera = self._camera
        return ViewErrors(
            camera.height_sigma_share, camera.pitch_sigma_deg, camera.roll_sigma_deg, camera.yaw_sigma_deg
        )

    def attitude(self, photo: Photo) -> Attitude:
        """How its camera looked: the settings before the metadata."""
        height_px, width_px = photo.size_px
        return attitude_of(photo.metadata, self._camera.known, width_px, height_px, self._tile_m)

    def coarser(self, metadata: PhotoMetadata, width_px: int, height_px: int, registered_m: float | None) -> float:
        """How many pixels of a photo of that size one of its finest use covers; 1 where it is not rectified.

        Args:
            metadata: of the photo.
            width_px, height_px: of its picture.
            registered_m: metres a pixel that it may be registered at; None where there is no map.
        """
        attitude = attitude_of(metadata, self._camera.known, width_px, height_px, self._tile_m)
        if self._camera.rectify == "off" or not attitude.known:
            return 1.0
        uses_m = [self._tile_m / max(self._side_px, _LEAST_SIDE_PX)] + ([] if registered_m is None else [registered_m])
        return max(1.0, min(uses_m) / attitude.view.gsd_m(width_px))

    def square(self, photo: Photo) -> GroundSquare | None:
        """The ground that it is rectified to, a tile's side; None where settings or its attitude forbid it."""
        attitude = self.attitude(photo)
        off = self._camera.rectify == "off"
        rectified = attitude.known and not off
        if self._expected is not None and rectified != self._expected:
            why = "`rectify` is off" if off else f"its attitude is not known, for want of {', '.join(attitude.missing)}"
            self._say_unlike_training(photo.source or "a photo", None if rectified else why)
        if not rectified:
            return None
        return GroundSquare(attitude.view, self._side_px, self._tile_m / self._side_px)

    def _say_unlike_training(self, source: str, why_not: str | None) -> None:
        """Once: how a photo reaches the encoder in another way than in training."""
        self._expected = None
        if why_not is None:
            _log.warning(
                "The bundle was trained on photos as they are, but %s is rectified, and further ones where their "
                "attitude is known; `rectify` off takes them as they are.",
                source,
            )
        else:
            _log.warning(
                "The bundle was trained on rectified photos, but %s is taken as it is, and further ones like it: %s.",
                source,
                why_not,
            )

    def rotations_deg(self, photo: Photo) -> tuple[float, ...]:
        """The clockwise rotations that it is embedded under.

        Raises:
            ImageError: heading is "north" and the photo has no yaw.
        """
        attitude, heading = self.attitude(photo), self._settings.heading
        if self._camera.rectify == "off" or not attitude.known:
            if heading == "as-is":
                return (0.0,)
            if heading == "search":
                return tuple(360.0 * i / self._settings.rotations for i in range(self._settings.rotations))
            if not attitude.yaw_known:
                raise ImageError(
                    '`heading` "north" needs the photo\'s yaw, but its metadata has none. Use "search", or photos with '
                    "GimbalYawDegree (DJI XMP) or GPSImgDirection (EXIF)."
                )
        return (attitude.view.yaw_deg % 360.0,)

    def pose(self, photo: Photo) -> Pose:
        """How a GPU brings it to the model, under the one rotation that it is looked up by; errors as of `images`."""
        (degrees,), square = self.rotations_deg(photo), self.square(photo)
        return square or (None if self._settings.heading == "as-is" else degrees)

    def images(self, photo: Photo) -> list[NDArray[np.uint8]]:
        """One for each rotation, uint8 (h, w, 3), not yet of model size.

        Raises:
            ImageError: as of `rotations_deg`; or the photo shows nothing of its square.
        """
        rotations, square = self.rotations_deg(photo), self.square(photo)
        if square is not None:
            return [rectify(photo.rgb, square.view, square.side_px, square.gsd_m).image]
        if self._settings.heading == "as-is":
            return [photo.rgb]
        return [rotate_square(photo.rgb, degrees, self._side_px) for degrees in rotations]
