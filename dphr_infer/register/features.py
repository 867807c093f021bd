"""Local features of a picture of the ground: points with a descriptor each. The owner of cv2 in this room."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import MissingPackageError

# OpenCV's default leaves out most of what a photo in haze shares with a map.
_CONTRAST = 0.005
# A feature whose surroundings reach over the picture's edge would describe the edge.
_EDGE_PX = 6


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Points of a picture with a descriptor each.

    Attributes:
        points: float32 (n, 2), x and y in pixels or east and north in metres, as the owner says.
        sizes: float32 (n,), how large the described surroundings are, in the unit of the points.
        descriptors: float32 (n, D), unit length; their inner product is the similarity of two points.
    """

    points: NDArray[np.float32]
    sizes: NDArray[np.float32]
    descriptors: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.points)


NO_FEATURES = Features(np.zeros((0, 2), np.float32), np.zeros(0, np.float32), np.zeros((0, 1), np.float32))


class FeatureExtractor(Protocol):
    """What finds features. To add one, e.g. a learned one, write a class with this method."""

    def extract(self, image: NDArray[np.uint8], seen: NDArray[np.bool_], most: int, upright: bool) -> Features:
        """The strongest features.

        Args:
            image: uint8 (h, w, 3).
            seen: bool (h, w); none lies where it is False, or close by.
            most: at most that many, the strongest.
            upright: whether both pictures have north up, within some 15 degrees: descriptors then need not be the same
                under every turn, and tell more.

        Returns:
            points in pixels, where (0, 0) is the outer corner of the first pixel.
        """
        ...


class SiftFeatures:
    """SIFT (Lowe 2004) by OpenCV, its descriptors as square roots (RootSIFT, Arandjelovic and Zisserman 2012).

    Raises:
        MissingPackageError: OpenCV is not installed.
    """

    def __init__(self) -> None:
        self._cv2 = _import_cv2()

    def extract(self, image: NDArray[np.uint8], seen: NDArray[np.bool_], most: int, upright: bool) -> Features:
        """See `FeatureExtractor`."""
        cv2 = self._cv2
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        # Padded, so that the outside counts as unseen.
        mask = cv2.erode(np.pad(seen, 1).astype(np.uint8), np.ones((2 * _EDGE_PX + 1,) * 2, np.uint8))[1:-1, 1:-1]
        if not mask.any():
            return NO_FEATURES
        sift = cv2.SIFT_create(most, contrastThreshold=_CONTRAST)
        found = sift.detect(grey, np.ascontiguousarray(mask))
        if upright:
            found = _turned_upright(found)
        found, descriptors = sift.compute(grey, found)
        if not len(found):
            return NO_FEATURES
        points = np.array([key.pt for key in found], np.float32) + 0.5
        sizes = np.array([key.size for key in found], np.float32)
        roots = np.sqrt(descriptors / np.maximum(descriptors.sum(1, keepdims=True), 1e-9))
        return Features(points, sizes, roots.astype(np.float32))


def _turned_upright(keys: Sequence[Any]) -> list[Any]:
    """Each place and size once: SIFT repeats one for every direction that stands out."""
    once: dict[tuple[float, float, float], Any] = {}
    for key in keys:
        key.angle = 0.0
        once.setdefault((*key.pt, key.size), key)
    return list(once.values())


def _import_cv2() -> Any:
    try:
        return importlib.import_module("cv2")
    except ImportError as error:
        raise MissingPackageError("opencv-python-headless", "register", "Registering a photo on the map") from error
