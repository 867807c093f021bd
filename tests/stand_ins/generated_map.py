"""A generated town as a map in memory, and what a camera sees of it."""

from __future__ import annotations

from types import TracebackType

import numpy as np
from PIL import Image, ImageDraw

from dphr_infer.geo import east_north_m, offset
from dphr_infer.images.rectify import projection
from dphr_infer.maps.view import MapView
from dphr_infer.types import CameraView, GeoPoint

_BORDER_PX = 700


def town(side_px: int, seed: int) -> np.ndarray:
    """Roofs, trees and tracks without repetition, uint8 (side_px, side_px, 3)."""
    draw_of = np.random.default_rng(seed)
    low = draw_of.integers(90, 140, (side_px // 16, side_px // 16, 3), np.uint8)
    image = Image.fromarray(low).resize((side_px, side_px), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(side_px * side_px // 250):
        x, y = draw_of.uniform(0, side_px, 2)
        colour = tuple(int(value) for value in draw_of.integers(20, 236, 3))
        kind, turn = draw_of.integers(3), draw_of.uniform(0, np.pi)
        long, short = draw_of.uniform(3, 12), draw_of.uniform(2, 7)
        if kind == 0:
            draw.ellipse((x - short, y - short, x + short, y + short), colour)
        elif kind == 1:
            along, across = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
            corners = [(x, y) + a * long * along + b * short * across for a, b in ((1, 1), (1, -1), (-1, -1), (-1, 1))]
            draw.polygon([tuple(corner) for corner in corners], colour)
        else:
            draw.line((x, y, x + 4 * long * np.cos(turn), y + 4 * long * np.sin(turn)), colour, 2)
    return np.asarray(image)


class ArrayMap:
    """`MapPixels` of an array, north up.

    Attributes:
        image: uint8 (h, w, 3).
        entered: how often it was entered and not yet left.
        views: how many were asked for.
    """

    def __init__(self, image: np.ndarray, gsd_m: float, centre: GeoPoint) -> None:
        self.image, self._gsd_m, self._centre = image, gsd_m, centre
        self.entered = self.views = 0
        self._padded = [
            Image.fromarray(np.pad(array, ((_BORDER_PX, _BORDER_PX),) * 2 + ((0, 0),) * (array.ndim - 2)))
            for array in (image, np.full(image.shape[:2], 255, np.uint8))
        ]

    def __enter__(self) -> ArrayMap:
        self.entered += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.entered -= 1

    @property
    def gsd_m(self) -> float:
        return self._gsd_m

    @property
    def centre(self) -> GeoPoint:
        return self._centre

    def to_px(self, point: GeoPoint) -> tuple[float, float]:
        (east,), (north,) = east_north_m(self._centre, np.array([point.latitude_deg]), np.array([point.longitude_deg]))
        height, width = self.image.shape[:2]
        return width / 2 + east / self._gsd_m, height / 2 - north / self._gsd_m

    def view(self, centre: GeoPoint, width_px: int, height_px: int, gsd_m: float) -> MapView:
        self.views += 1
        x, y = (value + _BORDER_PX for value in self.to_px(centre))
        half_x, half_y = (side * gsd_m / self._gsd_m / 2 for side in (width_px, height_px))
        box = (x - half_x, y - half_y, x + half_x, y + half_y)
        size = self._padded[0].size
        if min(box[:2]) < 0 or box[2] > size[0] or box[3] > size[1]:
            nothing = np.zeros((height_px, width_px, 3), np.uint8)
            return MapView(nothing, np.zeros((height_px, width_px), bool), centre, gsd_m)
        image, covered = (
            np.asarray(one.resize((width_px, height_px), Image.Resampling.BILINEAR, box=box)) for one in self._padded
        )
        return MapView(image, covered == 255, centre, gsd_m)

    def photo(self, point: GeoPoint, view: CameraView, width_px: int, height_px: int, noise: float = 4.0) -> np.ndarray:
        """What a camera sees that looks at a point so, in other light and with noise; uint8 (height_px, width_px, 3).

        Where the map has no pixels the photo is black.
        """
        x, y = self.to_px(point)
        to_map = np.array([[1 / self._gsd_m, 0, x], [0, -1 / self._gsd_m, y], [0, 0, 1]])
        matrix = to_map @ np.linalg.inv(projection(view, width_px, height_px))
        matrix /= matrix[2, 2]
        seen = Image.fromarray(self.image).transform(
            (width_px, height_px), Image.Transform.PERSPECTIVE, tuple(matrix.ravel()[:8]), Image.Resampling.BILINEAR
        )
        grain = np.random.default_rng(1).normal(0, noise, (height_px, width_px, 3))
        return np.clip(np.asarray(seen) * 0.8 + 20 + grain, 0, 255).astype(np.uint8)


def place(pixels: ArrayMap, east_m: float, north_m: float) -> GeoPoint:
    """The point so far from a map's middle."""
    return offset(pixels.centre, east_m, north_m)
