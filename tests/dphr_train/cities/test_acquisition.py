from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from dphr_train.cities.acquisition import Conditions, acquire, mean_height, sweep_shadow, whole_city
from dphr_train.cities.camera import satellite_rays
from dphr_train.cities.city import City
from dphr_train.cities.layout import CAR
from dphr_train.cities.raycast import render

TOWER = (200.0, 200.0, 10.0, 40.0, (120, 120, 120))
# Sun azimuth, and the direction (east, south) in which the shadow falls.
AWAY = [(180.0, (0, -1)), (0.0, (0, 1)), (90.0, (-1, 0)), (270.0, (1, 0)), (135.0, (-1, -1))]


@pytest.mark.parametrize(("azimuth_deg", "away"), AWAY)
def test_the_shadow_falls_away_from_the_sun(
    flat_city: Callable[..., City], azimuth_deg: float, away: tuple[int, int]
) -> None:
    city = flat_city(TOWER)
    shadow = acquire(city, whole_city(city), Conditions(1, azimuth_deg, 45.0)).scene.shadow_m
    row, column = 400 + 50 * away[1], 400 + 50 * away[0]  # 25 m from the middle of the tower
    opposite = shadow[400 - 50 * away[1], 400 - 50 * away[0]]
    assert shadow[row, column] > 5
    assert opposite <= 0


def test_a_shadow_sinks_by_the_tangent_of_the_suns_elevation() -> None:
    height = np.zeros((9, 201), np.float32)
    height[:, 100] = 30.0
    shadow = np.zeros_like(height)
    sweep_shadow(height, 1.0, 0.0, 0.5, shadow)  # sun in the east, 0.5 m down a metre, cells of 0.5 m
    assert shadow[4, 80] == pytest.approx(30.0 - 20 * 0.5 * 0.5, abs=0.01)
    assert shadow[4, 120] <= 0


def test_shaded_ground_is_darker_in_the_picture(flat_city: Callable[..., City]) -> None:
    city = flat_city(TOWER)
    acquisition = acquire(city, whole_city(city), Conditions(1, 180.0, 45.0))
    image = render(acquisition, satellite_rays(200.0, 200.0, 100.0, 0.0, 0.0, 100.0), 100, 100, 1)
    north, south = image[25, 50].mean(), image[75, 50].mean()
    assert north < 0.6 * south


def test_mean_height_is_the_mean_of_the_square_around_a_cell() -> None:
    height = np.arange(49, dtype=np.float32).reshape(7, 7)
    out = np.zeros_like(height)
    mean_height(height, 1, out)
    assert out[3, 3] == pytest.approx(24.0)
    assert out[0, 0] == pytest.approx((0 + 1 + 7 + 8) / 9)  # outside counts as 0


def test_another_seed_parks_other_cars_and_the_same_seed_the_same(drawn_city: City) -> None:
    def cars(seed: int) -> set[int]:
        scene = acquire(drawn_city, whole_city(drawn_city), Conditions(seed, 180.0, 45.0)).scene
        return set(np.nonzero(scene.material.ravel() == CAR)[0].tolist())

    first, again, other = cars(1), cars(1), cars(2)
    assert first == again
    assert len(first) > 100
    assert len(first & other) < 0.8 * len(first)


def test_an_acquisition_leaves_the_city_as_it_was(drawn_city: City) -> None:
    before = [raster.copy() for raster in drawn_city.rasters]
    acquire(drawn_city, whole_city(drawn_city), Conditions(1, 180.0, 45.0))
    for raster, copy in zip(drawn_city.rasters, before, strict=True):
        np.testing.assert_array_equal(raster, copy)
