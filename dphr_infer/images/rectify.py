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
    height, width = image.shape[:2]
    seen = seen_ground(view, width, height, side_px, gsd_m)
    if not seen.any():
        raise ImageError(
            f"The photo shows nothing of the {side_px * gsd_m:.0f} m around its middle from a height of "
            f"{view.height_m:g} m: check its height."
        )
    picture = Image.fromarray(image)
    factor = max(1, int(gsd_m / view.gsd_m(width)))
    if factor > 1:
        picture = picture.reduce(factor)
    matrix = np.diag([1 / factor, 1 / factor, 1.0]) @ projection(view, width, height) @ _to_ground(side_px, gsd_m)
    turned = picture.transform(
        (side_px, side_px), Image.Transform.PERSPECTIVE, tuple(_normal(matrix)[:8]), Image.Resampling.BILINEAR
    )
    pixels = np.array(turned)
    pixels[~seen] = 0
    return GroundPicture(pixels, seen, gsd_m)


def seen_ground(view: CameraView, width_px: int, height_px: int, side_px: int, gsd_m: float) -> NDArray[np.bool_]:
    """Which pixels of a square of ground a photo of that size shows, bool (side_px, side_px)."""
    matrix = projection(view, width_px, height_px) @ _to_ground(side_px, gsd_m)
    steps = np.arange(side_px) + 0.5
    x, y, z = (row[0] * steps + row[1] * steps[:, None] + row[2] for row in matrix)
    inside: NDArray[np.bool_] = (z > 0) & (x >= 0) & (y >= 0) & (x < width_px * z) & (y < height_px * z)
    return inside


def _to_ground(side_px: int, gsd_m: float) -> NDArray[np.float64]:
    """Pixels of the square -> metres east and north."""
    half = side_px / 2 * gsd_m
    return np.array([[gsd_m, 0, -half], [0, -gsd_m, half], [0, 0, 1.0]])


def _normal(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The nine values scaled so that the last is 1, as Pillow takes them."""
    values = matrix.ravel()
    # The camera's own plane may cross the square's corner: a hair beside it nothing is seen anyway.
    last = values[8] if abs(values[8]) > 1e-9 * np.abs(values).max() else 1e-9 * np.abs(values).max()
    scaled: NDArray[np.float64] = values / last
    return scaled
