from __future__ import annotations

import math

import numpy as np
import pytest

from dphr_train.cities.camera import Pose, drone_rays, pose_over, satellite_rays, seen_corners, spiral


def test_a_drone_that_looks_east_and_down_45_degrees_aims_its_height_ahead() -> None:
    x, y = Pose(100.0, 200.0, 80.0, 90.0, -45.0, 40.0).aim()
    assert (x, y) == pytest.approx((180.0, 200.0))


def test_north_is_toward_smaller_y() -> None:
    x, y = Pose(100.0, 200.0, 80.0, 0.0, -45.0, 40.0).aim()
    assert (x, y) == pytest.approx((100.0, 120.0))


@pytest.mark.parametrize("heading_deg", [0.0, 37.0, 200.0, 359.0])
def test_pose_over_aims_at_the_point_it_was_given(heading_deg: float) -> None:
    assert pose_over(50.0, 60.0, 120.0, heading_deg, -47.0, 40.0).aim() == pytest.approx((50.0, 60.0))


def test_the_right_of_a_picture_that_looks_east_is_south() -> None:
    rays = drone_rays(Pose(0.0, 0.0, 100.0, 90.0, -90.0, 40.0))
    np.testing.assert_allclose(rays.forward, (0, 0, -1), atol=1e-12)
    np.testing.assert_allclose(rays.right, (0, 1, 0), atol=1e-12)
    np.testing.assert_allclose(rays.down, (-1, 0, 0), atol=1e-12)


@pytest.mark.parametrize("pitch_deg", [-30.0, -50.0, -89.0])
def test_camera_axes_are_orthonormal(pitch_deg: float) -> None:
    rays = drone_rays(Pose(0.0, 0.0, 100.0, 123.0, pitch_deg, 40.0))
    axes = np.stack((rays.forward, rays.right, rays.down))
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)


def test_satellite_rays_meet_the_ground_where_a_map_has_it() -> None:
    rays = satellite_rays(70.0, 90.0, 160.0, 5.0, 30.0, 300.0)
    start = rays.start + 80.0 * rays.right - 80.0 * rays.down  # the picture's upper right corner
    ground = start - rays.forward * start[2] / rays.forward[2]
    np.testing.assert_allclose(ground, (150.0, 10.0, 0.0), atol=1e-9)


def test_the_spiral_descends_from_256_to_121_5_m_in_three_loops_around_the_place() -> None:
    views = list(spiral(10.0, 20.0, 30.0, 54, 40.0))
    assert len(views) == 54
    assert (views[0].height_m, views[0].pitch_deg) == (256.0, -50.0)
    assert (views[-1].height_m, views[-1].pitch_deg) == (121.5, -42.0)
    assert views[18].heading_deg == pytest.approx(views[0].heading_deg)  # one loop later
    for pose in views:
        assert pose.aim() == pytest.approx((10.0, 20.0))


def test_corners_of_a_picture_taken_straight_down_are_a_square() -> None:
    corners = seen_corners(Pose(0.0, 0.0, 100.0, 0.0, -90.0, 90.0), 1.0, 0.0, 900.0)
    assert sorted((round(x), round(y)) for x, y in corners) == [(-100, -100), (-100, 100), (100, -100), (100, 100)]


def test_corners_above_the_horizon_are_cut_off_at_the_farthest_distance() -> None:
    corners = seen_corners(Pose(0.0, 0.0, 100.0, 0.0, -10.0, 60.0), 1.0, 0.0, 500.0)
    assert max(math.hypot(x, y) for x, y in corners) == pytest.approx(500.0)
