"""Where the camera hung: the ground in the middle of its photo lies below it only where it looked straight down.

With height h, pitch p and yaw y that ground lies h / tan(-p) ahead along the yaw. Small errors, independent of each
other and of the ground point's own, move the camera over its ground by

    along the yaw     h / tan p · σ_height (a share of h)   and   h / sin² p · σ_pitch
    across it         h / tan p · σ_yaw                     and   h · σ_roll             angles in radians

A roll error is a lean about the level direction of view, as where the airframe's horizon is off: straight down it moves
the axis sideways as a pitch error moves it forwards. The view's own roll turns the picture about its axis and moves
nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dphr_infer.geo import offset
from dphr_infer.types import CameraView, Covariance, GeoPoint


@dataclass(frozen=True, slots=True)
class ViewErrors:
    """Standard deviations of a view.

    Attributes:
        height: share of the height.
        pitch_deg, roll_deg, yaw_deg: of the angles, in degrees.
    """

    height: float
    pitch_deg: float
    roll_deg: float
    yaw_deg: float


def camera_point(ground: GeoPoint, view: CameraView) -> GeoPoint:
    """Where a camera hangs that sees that ground in the middle of its picture."""
    return offset(ground, *view.camera_east_north_m())


def camera_covariance_m2(ground_m2: Covariance, view: CameraView, errors: ViewErrors) -> Covariance:
    """Of `camera_point`, from the ground's own and the view's errors; see the head of this file.

    Returns:
        east², east·north, north² in m².
    """
    pitch, yaw = math.radians(view.pitch_deg), math.radians(view.yaw_deg)
    back_m = view.height_m / math.tan(pitch)
    along_m2 = (back_m * errors.height) ** 2 + (
        view.height_m * math.radians(errors.pitch_deg) / math.sin(pitch) ** 2
    ) ** 2
    across_m2 = (back_m * math.radians(errors.yaw_deg)) ** 2 + (view.height_m * math.radians(errors.roll_deg)) ** 2
    sine, cosine = math.sin(yaw), math.cos(yaw)
    east2, both, north2 = ground_m2
    return (
        east2 + along_m2 * sine**2 + across_m2 * cosine**2,
        both + (along_m2 - across_m2) * sine * cosine,
        north2 + along_m2 * cosine**2 + across_m2 * sine**2,
    )
