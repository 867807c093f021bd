"""A rectified photo written as plainly as its definition: a loop over the rays from the camera to the ground."""

from __future__ import annotations

import math

import numpy as np


def pixel_of(
    east_m: float,
    north_m: float,
    *,
    height_m: float,
    pitch_deg: float,
    yaw_deg: float,
    roll_deg: float,
    fov_deg: float,
    width_px: int,
    height_px: int,
) -> tuple[float, float] | None:
    """Where a camera sees ground, in metres from the middle of its picture; None behind the camera."""
    pitch, yaw, roll = math.radians(pitch_deg), math.radians(yaw_deg), math.radians(roll_deg)
    back_m = height_m / math.tan(-pitch)  # on the ground, from below the camera to the middle of the picture
    # The ray, turned step by step into the camera's own directions: by yaw, by pitch, by roll.
    to_north, to_east, up = north_m + back_m * math.cos(yaw), east_m + back_m * math.sin(yaw), -height_m
    ahead = to_north * math.cos(yaw) + to_east * math.sin(yaw)
    aside = to_east * math.cos(yaw) - to_north * math.sin(yaw)
    depth = ahead * math.cos(pitch) + up * math.sin(pitch)
    rise = up * math.cos(pitch) - ahead * math.sin(pitch)
    right, above = aside * math.cos(roll) - rise * math.sin(roll), rise * math.cos(roll) + aside * math.sin(roll)
    if depth <= 0:
        return None
    focal_px = width_px / 2 / math.tan(math.radians(fov_deg / 2))
    return width_px / 2 + focal_px * right / depth, height_px / 2 - focal_px * above / depth


def rectified(
    image: np.ndarray, camera: dict[str, float], side_px: int, gsd_m: float, factor: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each pixel of the square interpolated in the photo where its ray comes from.

    Args:
        image: uint8 (H, W, 3).
        camera: keywords of `pixel_of`.
        side_px, gsd_m: of the square.
        factor: by which the photo is reduced first.

    Returns:
        float64 (S, S, 3); bool (S, S), whether the photo shows the pixel; float64 (S, S), how many pixels of the photo
        lie between it and the photo's edge, inf behind the camera.
    """
    height, width = image.shape[:2]
    small = reduced(image, factor)
    square, seen = np.zeros((side_px, side_px, 3)), np.zeros((side_px, side_px), bool)
    edge = np.full((side_px, side_px), math.inf)
    for row in range(side_px):
        for column in range(side_px):
            east_m, north_m = (column + 0.5 - side_px / 2) * gsd_m, (side_px / 2 - row - 0.5) * gsd_m
            found = pixel_of(east_m, north_m, width_px=width, height_px=height, **camera)
            if found is None:
                continue
            x, y = found
            edge[row, column] = min(abs(x), abs(x - width), abs(y), abs(y - height))
            if 0 <= x < width and 0 <= y < height:
                seen[row, column] = True
                square[row, column] = interpolated(small, x / factor - 0.5, y / factor - 0.5)
    return square, seen, edge


def reduced(image: np.ndarray, factor: int) -> np.ndarray:
    """The means of squares of that many pixels; those at the right and lower edge may hold fewer."""
    height, width = image.shape[:2]
    rows, columns = range(0, height, factor), range(0, width, factor)
    small = np.zeros((len(rows), len(columns), 3))
    for i, top in enumerate(rows):
        for j, left in enumerate(columns):
            small[i, j] = np.floor(image[top : top + factor, left : left + factor].mean(axis=(0, 1)) + 0.5)
    return small


def interpolated(image: np.ndarray, x: float, y: float) -> np.ndarray:
    """Bilinear from the first pixel's middle; beyond the outermost middles the outermost pixels go on."""
    left, top = math.floor(x), math.floor(y)
    a, b = x - left, y - top

    def at(row: int, column: int) -> np.ndarray:
        return image[min(max(row, 0), image.shape[0] - 1), min(max(column, 0), image.shape[1] - 1)]

    upper = (1 - a) * at(top, left) + a * at(top, left + 1)
    lower = (1 - a) * at(top + 1, left) + a * at(top + 1, left + 1)
    return (1 - b) * upper + b * lower
