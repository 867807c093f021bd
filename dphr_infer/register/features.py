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
# Cells along a picture's side. Features that are few are spread over them, and matches of one cell are one witness.
CELLS = 12


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
        """Strong features, spread evenly.

        Args:
            image: uint8 (h, w, 3).
            seen: bool (h, w); none lies where it is False, or close by.
            most: at most that many.
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
        sift = cv2.SIFT_create(0, contrastThreshold=_CONTRAST)
        found = sift.detect(grey, np.ascontiguousarray(mask))
        if upright:
            for key in found:
                key.angle = 0.0
        found = [found[row] for row in _chosen(found, most, max(grey.shape) / CELLS, upright)]
        found, descriptors = sift.compute(grey, found)
        if not len(found):
            return NO_FEATURES
        points = np.array([key.pt for key in found], np.float32) + 0.5
        sizes = np.array([key.size for key in found], np.float32)
        roots = np.sqrt(descriptors / np.maximum(descriptors.sum(1, keepdims=True), 1e-9))
        return Features(points, sizes, roots.astype(np.float32))


def _chosen(keys: Sequence[Any], most: int, cell_px: float, once: bool) -> NDArray[np.intp]:
    """Rows of the strongest key of each cell, then of the second strongest of each, and so on.

    With `once` each place and size counts once: SIFT repeats one for every direction that stands out.
    """
    told = np.array([(*key.pt, key.size, key.response) for key in keys], np.float32).reshape(-1, 4)
    rows = np.sort(np.unique(told[:, :3], axis=0, return_index=True)[1]) if once else np.arange(len(told))
    if len(rows) <= most:
        return rows
    columns, lines = (told[rows, :2] // cell_px).astype(int).T
    cells = lines * (columns.max() + 1) + columns
    order = np.lexsort((-told[rows, 3], cells))
    starts = np.flatnonzero(np.diff(cells[order], prepend=-1))
    rank = np.arange(len(rows)) - np.repeat(starts, np.diff(starts, append=len(rows)))
    return rows[order[np.lexsort((-told[rows[order], 3], rank))[:most]]]


def _import_cv2() -> Any:
    try:
        return importlib.import_module("cv2")
    except ImportError as error:
        raise MissingPackageError("opencv-python-headless", "register", "Registering a photo on the map") from error
