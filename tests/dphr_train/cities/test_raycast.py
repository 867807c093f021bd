"""Things planted by hand have to appear where the camera model says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from dphr_train.cities.acquisition import Conditions, acquire, whole_city, window_around
from dphr_train.cities.camera import Rays, drone_rays, pose_over, satellite_rays
from dphr_train.cities.city import City
from dphr_train.cities.raycast import render

PX = 101  # odd: there is a middle pixel, number 50
RED, BLUE = (255, 0, 0), (0, 0, 255)
NOON = Conditions(1, 180.0, 60.0, haze_m=1e6)

MakeCity = Callable[..., City]


def picture(city: City, rays: Rays, conditions: Conditions = NOON) -> NDArray[np.float32]:
    return render(acquire(city, whole_city(city), conditions), rays, PX, PX, 1)


def where(image: NDArray[np.float32], colour: tuple[int, int, int]) -> tuple[float, float]:
    """Mean (row, column) of the pixels in which the colour's channel stands out."""
    channel = colour.index(255)
    others = np.delete(image, channel, axis=2).max(axis=2)
    rows, columns = np.nonzero(image[:, :, channel] > 2 * others)
    assert rows.size, "the marker is not in the picture"
    return float(rows.mean()), float(columns.mean())


@pytest.mark.parametrize("heading_deg", [0.0, 90.0, 222.0])
def test_the_ground_point_under_the_aim_is_in_the_middle(flat_city: MakeCity, heading_deg: float) -> None:
    city = flat_city((230.0, 170.0, 3.0, 0.0, RED))
    row, column = where(picture(city, drone_rays(pose_over(230.0, 170.0, 120.0, heading_deg, -50.0, 40.0))), RED)
    assert (row, column) == pytest.approx((50, 50), abs=1.0)


def test_a_drone_heading_east_sees_east_at_the_top_and_south_on_the_right(flat_city: MakeCity) -> None:
    city = flat_city((230.0, 200.0, 3.0, 0.0, RED), (200.0, 230.0, 3.0, 0.0, BLUE))
    image = picture(city, drone_rays(pose_over(200.0, 200.0, 150.0, 90.0, -60.0, 40.0)))
    east, south = where(image, RED), where(image, BLUE)
    assert east[0] < 35
    assert east[1] == pytest.approx(50, abs=1.0)
    assert south[1] > 65
    assert south[0] == pytest.approx(50, abs=2.0)


def test_a_drone_straight_above_maps_metres_to_pixels_by_its_field_of_view(flat_city: MakeCity) -> None:
    city = flat_city((220.0, 200.0, 1.0, 0.0, RED))
    row, column = where(picture(city, drone_rays(pose_over(200.0, 200.0, 100.0, 0.0, -89.99, 53.1301))), RED)
    assert column == pytest.approx(50 + 20 / 100 * PX, abs=0.7)  # 53.13 degrees at 100 m are 100 m of ground
    assert row == pytest.approx(50, abs=0.7)


def test_a_tower_hides_what_lies_behind_it(flat_city: MakeCity) -> None:
    marker, tower = (200.0, 180.0, 3.0, 0.0, RED), (200.0, 200.0, 8.0, 60.0, (90, 90, 90))
    rays = drone_rays(pose_over(200.0, 180.0, 100.0, 0.0, -45.0, 40.0))  # from the south, over the tower's place
    assert where(picture(flat_city(marker), rays), RED) == pytest.approx((50, 50), abs=1.0)
    hidden = picture(flat_city(marker, tower), rays)
    assert not (hidden[:, :, 0] > 2 * hidden[:, :, 1]).any()


def test_the_satellite_sees_north_up_and_east_right(flat_city: MakeCity) -> None:
    city = flat_city((240.0, 200.0, 3.0, 0.0, RED), (200.0, 240.0, 3.0, 0.0, BLUE))
    image = picture(city, satellite_rays(200.0, 200.0, 160.0, 5.0, 70.0, 100.0))
    assert where(image, RED) == pytest.approx((50, 50 + 40 / 160 * PX), abs=0.7)
    assert where(image, BLUE) == pytest.approx((50 + 40 / 160 * PX, 50), abs=0.7)


def test_a_roof_leans_away_from_the_satellite_by_the_tangent_of_its_tilt(flat_city: MakeCity) -> None:
    city = flat_city((200.0, 200.0, 5.0, 60.0, RED))
    image = picture(city, satellite_rays(200.0, 200.0, 100.0, 10.0, 90.0, 200.0))
    lean_px = 60 * np.tan(np.radians(10.0)) / 100 * PX
    assert where(image, RED) == pytest.approx((50, 50 + lean_px), abs=1.0)


def test_a_window_shows_the_same_as_the_whole_city(drawn_city: City) -> None:
    rays = satellite_rays(300.0, 300.0, 60.0, 5.0, 30.0, drawn_city.highest_m + 10)
    conditions = Conditions(3, 170.0, 60.0)
    whole = render(acquire(drawn_city, whole_city(drawn_city), conditions), rays, 48, 48, 1)
    window = window_around(drawn_city, 120.0, 120.0, 480.0, 480.0)
    part = render(acquire(drawn_city, window, conditions), rays, 48, 48, 1)
    differing = np.abs(whole - part).max(axis=2) > 1.0
    assert differing.mean() < 0.01  # cell borders may fall to the other side


def test_haze_pales_what_is_far(flat_city: MakeCity) -> None:
    rays = drone_rays(pose_over(200.0, 200.0, 120.0, 0.0, -45.0, 20.0))
    clear = picture(flat_city(), rays, Conditions(1, 180.0, 60.0, haze_m=1e6))
    hazy = picture(flat_city(), rays, Conditions(1, 180.0, 60.0, haze_m=300.0))
    assert hazy[50, 50, 2] > clear[50, 50, 2] + 20


def test_outside_the_city_there_is_countryside_not_black(flat_city: MakeCity) -> None:
    image = picture(flat_city(), drone_rays(pose_over(390.0, 200.0, 120.0, 90.0, -45.0, 40.0)))
    assert image[:20].min() > 20
