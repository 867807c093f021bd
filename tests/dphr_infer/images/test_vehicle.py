import dataclasses
import math

import numpy as np
import pytest

from dphr_infer.geo import east_north_m
from dphr_infer.images.vehicle import ViewErrors, camera_covariance_m2, camera_point
from dphr_infer.types import CameraView, GeoPoint

GROUND = GeoPoint(47.0, 8.0)
NONE = ViewErrors(0.0, 0.0, 0.0, 0.0)


def away_m(point: GeoPoint) -> tuple[float, float]:
    (east,), (north,) = east_north_m(GROUND, np.array([point.latitude_deg]), np.array([point.longitude_deg]))
    return float(east), float(north)


@pytest.mark.parametrize(
    ("view", "east_m", "north_m"),
    [
        (CameraView(120.0, -90.0, 60.0, 77.0), 0.0, 0.0),
        (CameraView(100.0, -45.0, 60.0, 0.0), 0.0, -100.0),  # looks north at ground that lies north of it
        (CameraView(100.0, -45.0, 60.0, 90.0, 8.0), -100.0, 0.0),  # a turn about the axis moves nothing
        (CameraView(100.0, -135.0, 60.0, 90.0), 100.0, 0.0),  # backwards
        (CameraView(120.0, -85.0, 60.0, 180.0), 0.0, 10.5),  # 5 degrees off straight down
    ],
)
def test_the_camera_hangs_behind_the_ground_that_it_looks_at(view: CameraView, east_m: float, north_m: float) -> None:
    assert away_m(camera_point(GROUND, view)) == pytest.approx((east_m, north_m), abs=0.01)


def test_straight_down_each_error_moves_the_camera_as_far_as_similar_triangles_say() -> None:
    view, degree_m = CameraView(100.0, -90.0, 60.0, 0.0), 100 * math.radians(1)
    for changed, east_m, north_m in (
        ({"pitch_deg": 1.0}, 0.0, degree_m),  # the top of the picture is north
        ({"roll_deg": 1.0}, degree_m, 0.0),
        ({"yaw_deg": 10.0}, 0.0, 0.0),
        ({"height": 0.5}, 0.0, 0.0),
    ):
        found = camera_covariance_m2((0.0, 0.0, 0.0), view, dataclasses.replace(NONE, **changed))
        assert found == pytest.approx((east_m**2, 0.0, north_m**2), abs=1e-9)


def test_without_errors_of_the_view_the_camera_is_as_sure_as_its_ground() -> None:
    ground_m2 = (4.0, -1.0, 9.0)
    assert camera_covariance_m2(ground_m2, CameraView(80.0, -50.0, 60.0, 33.0), NONE) == ground_m2


def traced_m(view: CameraView, lean_rad: float) -> np.ndarray:
    """The plain reference: where a camera hangs whose axis, leaned about the level direction of view, meets (0, 0)."""
    pitch, yaw = math.radians(view.pitch_deg), math.radians(view.yaw_deg)
    level, right = np.array([math.sin(yaw), math.cos(yaw), 0]), np.array([math.cos(yaw), -math.sin(yaw), 0])
    up = math.cos(lean_rad) * np.array([0.0, 0.0, 1.0]) + math.sin(lean_rad) * right
    ray = math.cos(pitch) * level + math.sin(pitch) * up
    return -ray[:2] / -ray[2] * view.height_m


@pytest.mark.parametrize("pitch_deg", [-90.0, -88.0, -60.0, -35.0, -120.0])
@pytest.mark.parametrize("yaw_deg", [0.0, 73.0, 301.0])
def test_the_covariance_is_what_many_draws_show(pitch_deg: float, yaw_deg: float) -> None:
    view = CameraView(120.0, pitch_deg, 60.0, yaw_deg)
    errors, ground_m2 = ViewErrors(0.03, 0.8, 1.2, 2.0), (2.0, 0.5, 1.0)
    draw, count = np.random.default_rng(4), 40_000
    ground = draw.multivariate_normal((0, 0), [[2.0, 0.5], [0.5, 1.0]], count)
    height, pitch, lean, yaw = draw.normal(0, 1, (4, count))
    cameras = np.array(
        [
            traced_m(
                CameraView(120 * (1 + 0.03 * a), pitch_deg + 0.8 * b, 60.0, (yaw_deg + 2 * d) % 360),
                math.radians(1.2) * c,
            )
            for a, b, c, d in zip(height, pitch, lean, yaw, strict=True)
        ]
    )
    seen = np.cov((cameras + ground).T)
    east2, both, north2 = camera_covariance_m2(ground_m2, view, errors)
    scale = math.sqrt(seen[0, 0] * seen[1, 1])
    assert (east2, north2) == pytest.approx((seen[0, 0], seen[1, 1]), rel=0.04)
    assert both == pytest.approx(seen[0, 1], abs=0.04 * scale)
