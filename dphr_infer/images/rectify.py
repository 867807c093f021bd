"""A photo brought to the map's geometry: seen straight from above, north up, at a chosen scale.

The ground is taken as flat and level. What a pinhole camera at a known height, attitude and field of view sees of it is
then one homography, and one resampling turns the photo into a picture of the ground: what stands on the ground (walls,
trees) leans away from the camera as it did, what lies on it falls into place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dphr_infer.errors import ImageError
from dphr_infer.types import CameraView

# A photo of more pixels than that to one of the square's side is averaged over so many and sampled beyond.
MAX_REDUCTION = 64
# Pixels of a photo that are reduced at a time: what Pillow makes of them stays in the processor's cache.
_STRIP_PX = 1 << 19


def projection(view: CameraView, width_px: int, height_px: int) -> NDArray[np.float64]:
    """Ground -> picture, float64 (3, 3).

    (x, y, z) = P @ (east, north, 1), metres from the ground in the middle of the picture; the pixel is (x/z, y/z),
    where (0, 0) is the outer corner of the first. Where z <= 0 the ground lies behind the camera.
    """
    yaw, pitch, roll = (math.radians(value) for value in (view.yaw_deg, view.pitch_deg, view.roll_deg))
    forward = np.array([math.cos(pitch) * math.sin(yaw), math.cos(pitch) * math.cos(yaw), math.sin(pitch)])
    level = np.array([math.cos(yaw), -math.sin(yaw), 0.0])
    down = np.cross(forward, level)
    right, lower = (
        math.cos(roll) * level + math.sin(roll) * down,
        math.cos(roll) * down - math.sin(roll) * level,
    )
    east, north = view.camera_east_north_m()
    focal = view.focal_px(width_px)
    lens = np.array([[focal, 0, width_px / 2], [0, focal, height_px / 2], [0, 0, 1.0]])
    axes = lens @ np.stack([right, lower, forward])
    return np.column_stack([axes[:, 0], axes[:, 1], axes @ np.array([-east, -north, -view.height_m])])


@dataclass(frozen=True, slots=True)
class GroundSquare:
    """The square of ground that a photo is brought to: by `rectify`, or by preprocess.cu from what this value says.

    The pixel in row r and column c has its centre (c + 0.5 - side_px/2) * gsd_m east and (side_px/2 - r - 0.5) * gsd_m
    north of the ground in the middle of the photo.

    Attributes:
        view: of the camera.
        side_px: of the square.
        gsd_m: metres a pixel.
    """

    view: CameraView
    side_px: int
    gsd_m: float

    def reduction(self, width_px: int) -> int:
        """By which whole factor a photo of that width is averaged before it is read, 1..64."""
        return max(1, min(MAX_REDUCTION, int(self.gsd_m / self.view.gsd_m(width_px))))

    def to_photo(self, width_px: int, height_px: int) -> NDArray[np.float64]:
        """The square's pixels -> the photo's, float64 (3, 3); both count from the outer corner of the first."""
        half = self.side_px / 2 * self.gsd_m
        to_ground = np.array([[self.gsd_m, 0, -half], [0, -self.gsd_m, half], [0, 0, 1.0]])
        matrix: NDArray[np.float64] = projection(self.view, width_px, height_px) @ to_ground
        return matrix

    def spans(self, width_px: int, height_px: int) -> NDArray[np.int32]:
        """Which pixels a photo of that size shows: those of row r from spans[r, 0] on before spans[r, 1].

        Returns:
            int32 (side_px, 2); 0 and 0 where it shows none of a row.

        Raises:
            ImageError: it shows none at all.
        """
        x, y, z = self.to_photo(width_px, height_px)
        # Inside is where four values, linear in the column, are not below 0; then z is above 0.
        inside = np.stack([x, y, width_px * z - x, height_px * z - y])
        rows = np.arange(self.side_px) + 0.5
        at_0 = inside[:, 1, None] * rows + inside[:, 2, None] + inside[:, :1] / 2  # in the middle of the first column
        with np.errstate(divide="ignore", invalid="ignore"):
            crossing = np.clip(-at_0 / inside[:, :1], -1.0, self.side_px + 1.0)
        rises, falls, level = (inside[:, :1] > 0), (inside[:, :1] < 0), (inside[:, :1] == 0) & (at_0 < 0)
        begin = np.where(rises, np.ceil(crossing), 0).max(axis=0)
        # What the photo's right and lower edge pass through, the photo does not show.
        last = np.where(np.arange(4)[:, None] < 2, np.floor(crossing), np.ceil(crossing) - 1)
        stop = np.where(level, 0, np.where(falls, last + 1, self.side_px)).min(axis=0)
        begin, stop = np.maximum(begin, 0), np.minimum(stop, self.side_px)
        found: NDArray[np.int32] = np.where(stop > begin, [begin, stop], 0).T.astype(np.int32)
        if not found.any():
            raise ImageError(
                f"The photo shows nothing of the {self.side_px * self.gsd_m:.0f} m around its middle from a height of "
                f"{self.view.height_m:g} m: check its height."
            )
        return found


@dataclass(frozen=True, slots=True, eq=False)
class GroundPicture:
    """The ground as a photo shows it, from straight above, north up.

    The pixel in row r and column c of a picture of h x w has its centre (c + 0.5 - w/2) * gsd_m east and
    (h/2 - r - 0.5) * gsd_m north of the ground in the middle of the photo.

    Attributes:
        image: uint8 (S, S, 3); black where the photo does not show the ground.
        seen: bool (S, S), whether it does.
        gsd_m: metres a pixel.
    """

    image: NDArray[np.uint8]
    seen: NDArray[np.bool_]
    gsd_m: float


def rectify(image: NDArray[np.uint8], view: CameraView, side_px: int, gsd_m: float) -> GroundPicture:
    """Bring a photo to a square of ground around the middle of its picture.

    A photo of more than twice that resolution is first reduced by a whole factor, averaging; then each pixel is read
    bilinearly at the place where the camera saw it: within one grey level of the loop over rays that the tests hold
    beside it, two where the photo was reduced.

    Args:
        image: uint8 (H, W, 3).
        view: of its camera.
        side_px, gsd_m: of the square.

    Raises:
        ImageError: the photo shows nothing of that square.
    """
    square = GroundSquare(view, side_px, gsd_m)
    height, width = image.shape[:2]
    spans, matrix = square.spans(width, height), square.to_photo(width, height)
    factor = square.reduction(width)
    picture, left, top = _reduced(image, factor, _box(matrix, spans))
    matrix = np.array([[1 / factor, 0, -left], [0, 1 / factor, -top], [0, 0, 1.0]]) @ matrix
    turned = picture.transform(
        (side_px, side_px), Image.Transform.PERSPECTIVE, tuple(_normal(matrix)[:8]), Image.Resampling.BILINEAR
    )
    pixels = np.array(turned)
    columns = np.arange(side_px, dtype=np.int32)
    seen = (columns >= spans[:, :1]) & (columns < spans[:, 1:])
    pixels.view("V3")[..., 0][~seen] = bytes(3)  # a pixel at a time, which is faster than a channel
    return GroundPicture(pixels, seen, gsd_m)


def _box(matrix: NDArray[np.float64], spans: NDArray[np.int32]) -> tuple[float, float, float, float]:
    """Where in the photo the pixels of the spans lie: least and most x, least and most y."""
    rows = np.nonzero(spans[:, 1] > spans[:, 0])[0]
    ends = np.stack([spans[rows] + np.array([0.5, -0.5]), np.repeat(rows[:, None] + 0.5, 2, axis=1)])
    x, y, z = np.tensordot(matrix[:, :2], ends, axes=1) + matrix[:, 2, None, None]
    return (x / z).min(), (x / z).max(), (y / z).min(), (y / z).max()


def _reduced(
    image: NDArray[np.uint8], factor: int, box: tuple[float, float, float, float]
) -> tuple[Image.Image, int, int]:
    """What `reduce(factor)` makes of the part of a photo between these x and y, and its left and upper end in it.

    A pixel more lies around what the box needs, where the photo has one.
    """
    height, width = image.shape[:2]
    left, right = max(0, int(box[0] / factor) - 2), min(-(-width // factor), int(box[1] / factor) + 3)
    top, bottom = max(0, int(box[2] / factor) - 2), min(-(-height // factor), int(box[3] / factor) + 3)
    part = image[:, left * factor : right * factor]
    if factor == 1:
        return Image.fromarray(part[top:bottom]), left, top
    reduced = Image.new("RGB", (right - left, bottom - top))
    rows = max(1, _STRIP_PX // (part.shape[1] * factor))
    for row in range(top, bottom, rows):
        strip = part[row * factor : min(row + rows, bottom) * factor]
        reduced.paste(Image.fromarray(strip).reduce(factor), (0, row - top))
    return reduced, left, top


def _normal(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The nine values scaled so that the last is 1, as Pillow takes them."""
    values = matrix.ravel()
    # The camera's own plane may cross the square's corner: a hair beside it nothing is seen anyway.
    last = values[8] if abs(values[8]) > 1e-9 * np.abs(values).max() else 1e-9 * np.abs(values).max()
    scaled: NDArray[np.float64] = values / last
    return scaled
