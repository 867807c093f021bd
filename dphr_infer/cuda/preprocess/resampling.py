"""Pillow's arithmetic as tables: which source pixels make an output pixel and with which integer weights.

Found by reading and trying Pillow 10.1, 11.3 and 13.0; test_resampling.py compares with the installed one.

resize   two passes, columns first (from Pillow 13 on rows first where the height shrinks by more than twice as many
         pixels as the width). A pass sums uint8 * weight in int32, adds 2^21, shifts right by 22 and clips to
         0..255, so that uint8 lies between the passes. A window's ends are rounded to whole pixels, weights are the
         filter at the pixels' centres, divided by their sum in double and rounded to multiples of 2^-22. The box's
         ends are float32.
reduce   blocks of whole pixels, cut at the right and lower edge: (sum + n // 2) * floor(2^24 / n) >> 24, n pixels.
rotate   about the centre, at pixel centres; a convolution cubic with a = -1, rows first in double, cut off to uint8.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dphr_infer.images.preprocess import Interpolation

PRECISION_BITS = 22


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """One pass of a resize.

    Attributes:
        first: int32 (n,), first source pixel of each output pixel; does not fall, nor does first + count.
        count: int32 (n,), number of source pixels, at least 1.
        weights: int32 (n, largest count), multiples of 2^-22; zero behind the count.
    """

    first: NDArray[np.int32]
    count: NDArray[np.int32]
    weights: NDArray[np.int32]


def _box(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return ((x > -0.5) & (x <= 0.5)).astype(np.float64)


def _bilinear(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(0.0, 1.0 - np.abs(x))


def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x, a = np.abs(x), -0.5
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


_FILTERS: dict[Interpolation, tuple[Callable[[NDArray[np.float64]], NDArray[np.float64]], float]] = {
    "box": (_box, 0.5),
    "bilinear": (_bilinear, 1.0),
    "bicubic": (_bicubic, 2.0),
}


def support_px(interpolation: Interpolation, scale: float) -> float:
    """Half the width of a window in source pixels, where an output pixel covers `scale` of them."""
    return _FILTERS[interpolation][1] * max(1.0, scale)


def resize_windows(source_px: int, start: float, stop: float, target_px: int, interpolation: Interpolation) -> Windows:
    """The pass that brings [start, stop) of a side of `source_px` pixels to `target_px`.

    Pixels at either end of a window whose weight rounds to zero are left out where no neighbour needs them.
    """
    left, right = np.float32(start), np.float32(stop)
    scale = float(np.float64(right - left) / target_px)
    support = support_px(interpolation, scale)
    centre = float(left) + (np.arange(target_px) + 0.5) * scale
    first = np.maximum(0, np.trunc(centre - support + 0.5)).astype(np.int64)
    stop_px = np.minimum(source_px, np.trunc(centre + support + 0.5)).astype(np.int64)
    offsets = np.arange(max(1, int((stop_px - first).max())))
    inside = offsets < (stop_px - first)[:, None]
    positions = (offsets + first[:, None]) - centre[:, None] + 0.5
    values = np.where(inside, _FILTERS[interpolation][0](positions * (1.0 / max(1.0, scale))), 0.0)
    total = np.cumsum(values, axis=1)[:, -1:]  # one after the other, as Pillow adds
    values = values / np.where(total == 0.0, 1.0, total)
    fixed = np.trunc(values * (1 << PRECISION_BITS) + np.where(values < 0.0, -0.5, 0.5)).astype(np.int64)
    return _trimmed(first, fixed)


def _trimmed(first: NDArray[np.int64], weights: NDArray[np.int64]) -> Windows:
    used = weights != 0
    ahead, behind = np.argmax(used, axis=1), np.argmax(used[:, ::-1], axis=1)
    # Ends that do not fall: the windows of neighbours lie between those of the first and the last of them.
    stop = np.maximum.accumulate(first + weights.shape[1] - behind)
    begin = np.minimum.accumulate((first + ahead)[::-1])[::-1]
    columns = (begin - first)[:, None] + np.arange(int((stop - begin).max()))
    inside = (columns >= 0) & (columns < weights.shape[1]) & (columns < (stop - first)[:, None])
    taken = np.take_along_axis(weights, np.clip(columns, 0, weights.shape[1] - 1), axis=1)
    return Windows(begin.astype(np.int32), (stop - begin).astype(np.int32), np.where(inside, taken, 0).astype(np.int32))


def rows_come_first(source_px: tuple[int, int], target_px: tuple[int, int]) -> bool:
    """Whether the pass over rows of the installed Pillow comes before the one over columns, (width, height) each."""
    (width, height), (target_width, target_height) = source_px, target_px
    return height - target_height > 2 * max(0, width - target_width) and _pillow_starts_with_rows()


@functools.cache
def _pillow_starts_with_rows() -> bool:
    """Asked of Pillow itself: the means of 2x2 pixels 1, 2, 1, 0 are 2 by way of (2, 1), and 1 by way of (1, 1)."""
    tall = np.repeat(np.tile(np.array([[1, 2], [1, 0]], np.uint8), (32, 1))[..., None], 3, axis=2)
    return int(np.asarray(Image.fromarray(tall).resize((1, 32), Image.Resampling.BOX)).max()) == 1


def mean_multiplier(n_pixels: int) -> int:
    """What `reduce` multiplies a sum of n pixels with before the shift by 24."""
    return int(np.float32(2.0**32) / np.float32(256 * n_pixels))


def rotation_matrix(width: int, height: int, clockwise_deg: float) -> tuple[float, float, float, float, float, float]:
    """a, b, c, d, e, f of `Image.rotate(-clockwise_deg)`: target (x, y) takes source (a x + b y + c, d x + e y + f)."""
    angle = -math.radians(-clockwise_deg % 360.0)
    a, b = round(math.cos(angle), 15), round(math.sin(angle), 15)
    d, e = round(-math.sin(angle), 15), a
    centre_x, centre_y = width / 2, height / 2
    return (
        a,
        b,
        a * -centre_x + b * -centre_y + 0.0 + centre_x,
        d,
        e,
        d * -centre_x + e * -centre_y + 0.0 + centre_y,
    )
