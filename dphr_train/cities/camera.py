"""Where cameras are and how they look, as plain geometry. Local metres: x east, y south, z up."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SPIRAL_LOOPS = 3
_SPIRAL_HIGH_M, _SPIRAL_LOW_M = 256.0, 121.5
_SPIRAL_HIGH_PITCH_DEG, _SPIRAL_LOW_PITCH_DEG = -50.0, -42.0


@dataclass(frozen=True, slots=True)
class Pose:
    """A drone's camera: position (m), heading clockwise from north, pitch below the horizon negative, field of view.

    `fov_deg` is the full angle across the picture's width.
    """

    x: float
    y: float
    height_m: float
    heading_deg: float
    pitch_deg: float
    fov_deg: float

    def aim(self) -> tuple[float, float]:
        """Where the centre of the picture meets flat ground, (x, y) in metres."""
        reach = self.height_m / math.tan(math.radians(-self.pitch_deg))
        heading = math.radians(self.heading_deg)
        return self.x + reach * math.sin(heading), self.y - reach * math.cos(heading)


def pose_over(x: float, y: float, height_m: float, heading_deg: float, pitch_deg: float, fov_deg: float) -> Pose:
    """The pose whose picture has the ground point (x, y) in its centre."""
    back = height_m / math.tan(math.radians(-pitch_deg))
    heading = math.radians(heading_deg)
    return Pose(
        x - back * math.sin(heading), y + back * math.cos(heading), height_m, heading_deg % 360, pitch_deg, fov_deg
    )


@dataclass(frozen=True, slots=True, eq=False)
class Rays:
    """A bundle of rays for the ray caster, float64 (3,) each in (x, y, z).

    Perspective: rays start at `start` toward forward + u right + v down. Parallel: they start at start + u right +
    v down toward `forward`. u and v run from -scale to scale over the width and, in proportion, the height.
    """

    start: NDArray[np.float64]
    forward: NDArray[np.float64]
    right: NDArray[np.float64]
    down: NDArray[np.float64]
    scale: float
    perspective: bool


def drone_rays(pose: Pose) -> Rays:
    """The rays of a pinhole camera without roll; the picture's top is where the heading points."""
    heading, pitch = math.radians(pose.heading_deg), math.radians(pose.pitch_deg)
    sin, cos = math.sin(heading), math.cos(heading)
    return Rays(
        np.array((pose.x, pose.y, pose.height_m)),
        np.array((sin * math.cos(pitch), -cos * math.cos(pitch), math.sin(pitch))),
        np.array((cos, sin, 0.0)),
        np.array((sin * math.sin(pitch), -cos * math.sin(pitch), -math.cos(pitch))),
        math.tan(math.radians(pose.fov_deg / 2)),
        True,
    )


def satellite_rays(x: float, y: float, width_m: float, tilt_deg: float, tilt_azimuth_deg: float, top_m: float) -> Rays:
    """Parallel rays, north up, that meet flat ground in a square of `width_m` around (x, y).

    The ground is where a map has it; what is tall leans away from the satellite by tan(tilt) of its height.

    Args:
        tilt_azimuth_deg: direction in which the satellite looks and tops lean, clockwise from north.
        top_m: the rays start at this height, above everything.
    """
    azimuth, tilt = math.radians(tilt_azimuth_deg), math.radians(tilt_deg)
    forward = np.array((math.sin(azimuth) * math.sin(tilt), -math.cos(azimuth) * math.sin(tilt), -math.cos(tilt)))
    start = np.array((x, y, 0.0)) - forward / math.cos(tilt) * top_m
    return Rays(start, forward, np.array((1.0, 0.0, 0.0)), np.array((0.0, 1.0, 0.0)), width_m / 2, False)


def spiral(x: float, y: float, start_deg: float, views: int, fov_deg: float) -> Iterator[Pose]:
    """The descending spiral of University-1652: three loops from 256 m to 121.5 m around a ground point."""
    for i in range(views):
        share = i / max(1, views - 1)
        height = _SPIRAL_HIGH_M + (_SPIRAL_LOW_M - _SPIRAL_HIGH_M) * share
        pitch = _SPIRAL_HIGH_PITCH_DEG + (_SPIRAL_LOW_PITCH_DEG - _SPIRAL_HIGH_PITCH_DEG) * share
        yield pose_over(x, y, height, start_deg + 360 * _SPIRAL_LOOPS * i / views, pitch, fov_deg)


def seen_corners(pose: Pose, aspect: float, height_m: float, farthest_m: float) -> list[tuple[float, float]]:
    """Where the rays of the picture's corners cross the height `height_m`, (x, y); at most `farthest_m` away.

    Args:
        aspect: height of the picture divided by its width.
    """
    rays, corners = drone_rays(pose), []
    for u in (-rays.scale, rays.scale):
        for v in (-rays.scale * aspect, rays.scale * aspect):
            ray = rays.forward + u * rays.right + v * rays.down
            flat = math.hypot(ray[0], ray[1])
            reach = (height_m - pose.height_m) / ray[2] if ray[2] < 0 else math.inf
            reach = min(reach, farthest_m / flat) if flat > 0 else reach
            corners.append((pose.x + reach * float(ray[0]), pose.y + reach * float(ray[1])))
    return corners
