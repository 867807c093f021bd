"""Turning a photo about its centre, so that its top points where the map's does."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dphr_infer.errors import ImageError
from dphr_infer.images.preprocess import MIN_SIDE_PX


def inscribed_side_px(width_px: int, height_px: int, clockwise_deg: float) -> float:
    """Side of the largest upright square around the centre of a turned photo that holds none of its empty corners.

    The square, seen from the photo, is turned by the angle; it is side * (|cos| + |sin|) wide and high, and that must
    not exceed the photo's shorter side.

    Raises:
        ImageError: the angle is not finite.
    """
    if not math.isfinite(clockwise_deg):
        raise ImageError(
            f"The photo is to be turned by {clockwise_deg} degrees, which is no angle: give a finite yaw, or take "
            'another heading than "north".'
        )
    angle = math.radians(clockwise_deg)
    return min(width_px, height_px) / (abs(math.cos(angle)) + abs(math.sin(angle)))


def rotate_square(image: NDArray[np.uint8], clockwise_deg: float, model_side_px: int) -> NDArray[np.uint8]:
    """Turn a photo clockwise and take the largest centred square without empty corners.

    A photo of more than twice the model's resolution is first reduced by a whole factor, averaging, to no less than
    twice: turning then costs little, and the antialiased resize to model size still has all it needs. Multiples of
    90 degrees are exact.

    Args:
        image: uint8 (H, W, 3).
        clockwise_deg: by how much the picture turns; a photo's yaw brings north up.
        model_side_px: longer side of the model's input.

    Returns:
        uint8 (S, S, 3).

    Raises:
        ImageError: the square is below 16 px per side, or the angle is not finite.
    """
    height, width = image.shape[:2]
    side = inscribed_side_px(width, height, clockwise_deg)
    if side < MIN_SIDE_PX:
        raise ImageError(
            f"The image is {width}x{height} px; turned by {clockwise_deg:.0f} degrees, {side:.0f} px per side are "
            f"left, and {MIN_SIDE_PX} are needed."
        )
    picture = Image.fromarray(image)
    factor = int(side // (2 * model_side_px))
    if factor > 1:
        picture = picture.reduce(factor)
    # The cosine of 270 degrees is not quite 0: without the small addition a row would be lost to rounding.
    side_px = int(inscribed_side_px(*picture.size, clockwise_deg) + 1e-6)
    quarters, rest = divmod(clockwise_deg % 360.0, 90.0)
    if rest == 0.0:
        turned = np.rot90(np.asarray(picture), -int(quarters))
        top, left = (turned.shape[0] - side_px) // 2, (turned.shape[1] - side_px) // 2
        return np.ascontiguousarray(turned[top : top + side_px, left : left + side_px])
    return np.array(_turn(picture, clockwise_deg, side_px))


def _turn(picture: Image.Image, clockwise_deg: float, side_px: int) -> Image.Image:
    """The centred square of what `picture.rotate` gives, but for rounding: only its pixels are computed."""
    angle = math.radians(clockwise_deg)
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)  # as Pillow rounds them
    width, height = picture.size
    x, y = (width - side_px) // 2 - width / 2, (height - side_px) // 2 - height / 2
    matrix = (cos, sin, cos * x + sin * y + width / 2, -sin, cos, cos * y - sin * x + height / 2)
    return picture.transform((side_px, side_px), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
