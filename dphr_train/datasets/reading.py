"""Image files as they go to the encoder's preprocess; drone photos may be rectified, by what flies."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import ConfigError, DatasetError, ImageError
from dphr_infer.files.manifest import Manifest
from dphr_infer.images.attitude import attitude_of
from dphr_infer.images.metadata import read_photo_metadata
from dphr_infer.images.photo import read_photo
from dphr_infer.images.preprocess import Preprocess, read_image
from dphr_infer.images.rectify import rectify
from dphr_infer.locate.settings import CameraSettings, LocateSettings
from dphr_infer.locate.views import Views
from dphr_infer.measure.progress import track
from dphr_infer.types import Attitude, CameraView
from dphr_train.config import DataConfig, Rectify
from dphr_train.types import Direction, View

_logger = logging.getLogger(__name__)

Jitter = Callable[[CameraView], CameraView]
"""A camera's view -> one that its metadata might as well have told."""


@dataclass(frozen=True, slots=True, eq=False)
class ViewImage:
    """What a file shows.

    Attributes:
        pixels: uint8 (H, W, 3), not yet of model size.
        north_up: whether its top is known to point north; a satellite image's does.
    """

    pixels: NDArray[np.uint8]
    north_up: bool


@dataclass(frozen=True, slots=True)
class ViewReader:
    """Reads the images of every view.

    Attributes:
        rectify: as `DataConfig.rectify`.
        tile_m, side_px: of the square of ground that a rectified photo becomes.

    Raises:
        ConfigError: photos are to be rectified to a square of no size.
    """

    rectify: Rectify = "off"
    tile_m: float = 0.0
    side_px: int = 0

    def __post_init__(self) -> None:
        if self.rectify != "off" and not 0 < self.tile_m < math.inf:
            raise ConfigError(
                f"`tile_m` is {self.tile_m:g}, but `rectify` is {self.rectify}: give the side of the ground that a "
                "satellite image shows, in metres."
            )

    def read(self, path: Path, view: View, jitter: Jitter | None = None) -> ViewImage:
        """Read one file; a drone photo whose attitude is known is rectified, unless `rectify` is "off".

        Args:
            jitter: changes the attitude before.

        Raises:
            ImageError: the file cannot be read, or `rectify` is "all" and its attitude is not known.
        """
        if self.rectify == "off" or view != "drone":
            return ViewImage(read_image(path), view == "satellite")
        views = Views(LocateSettings(), CameraSettings(), Preprocess(self.side_px, self.side_px), self.tile_m)
        photo = read_photo(path, partial(views.coarser, registered_m=None))
        attitude = views.attitude(photo)
        if attitude.known:
            camera = attitude.view if jitter is None else jitter(attitude.view)
            return ViewImage(rectify(photo.rgb, camera, self.side_px, self.tile_m / self.side_px).image, True)
        if self.rectify == "all":
            raise ImageError(f"{path} tells no attitude to rectify it by: {_lacks(attitude)}.")
        return ViewImage(photo.rgb, False)

    def require_attitudes(self, photos: Iterable[Path]) -> None:
        """Look at the metadata of all drone photos, before any is embedded.

        Photos without attitude are refused where `rectify` is "all"; where it is "auto" their number is logged.

        Raises:
            DatasetError: names their number, the first, and what it lacks.
            ImageError: a file cannot be read.
        """
        paths = list(dict.fromkeys(photos))
        if self.rectify == "off" or not paths:
            return
        without: list[tuple[Path, Attitude]] = []
        for path in track(paths, "attitudes", len(paths), "photos"):
            attitude = attitude_of(read_photo_metadata(path), {}, 1, 1, self.tile_m)
            if not attitude.known:
                without.append((path, attitude))
        if not without:
            return
        first, attitude = without[0]
        found = (
            f"{len(without)} of {len(paths)} drone photos tell no attitude to rectify them by (the first: {first}, "
            f"{_lacks(attitude)})"
        )
        if self.rectify == "all":
            raise DatasetError(f"{found}. Remove them, or choose `rectify` auto, which leaves them as they are.")
        _logger.warning("%s: they are left as they are.", found)


PLAIN_READER = ViewReader()


def reader_of(data: DataConfig) -> ViewReader:
    """The reader that a training run's data asks for."""
    return ViewReader(data.rectify, data.tile_m, data.image_px)


def reader_of_bundle(manifest: Manifest) -> ViewReader:
    """The reader that a bundle's encoder was trained with; photos without attitude are left as they are, and logged.

    Raises:
        BundleError: it was trained on rectified photos, but does not say to which size.
    """
    side_px = max(manifest.preprocess.height_px, manifest.preprocess.width_px)
    tile_m = manifest.trained_tile_m
    return ViewReader(side_px=side_px) if tile_m is None else ViewReader("auto", tile_m, side_px)


def drone_photos(directions: Iterable[Direction]) -> list[Path]:
    """The drone photos among queries and galleries."""
    found: list[Path] = []
    for direction in directions:
        sides = ((direction.query_view, direction.queries), (direction.gallery_view, direction.gallery))
        found += [image.path for view, images in sides if view == "drone" for image in images]
    return found


def _lacks(attitude: Attitude) -> str:
    return f"lacks {', '.join(attitude.missing)}"
