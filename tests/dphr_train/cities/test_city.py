from __future__ import annotations

import numpy as np
import pytest

from dphr_infer.geo import east_north_m
from dphr_train.cities.city import BORDER_M, City, build_city, choose_places
from dphr_train.cities.layout import CELL_M, GRASS, ROAD, ROOF, TREE


def test_a_seed_gives_the_same_city_again_and_another_seed_another(drawn_city: City) -> None:
    again = build_city(drawn_city.seed, 600, drawn_city.origin)
    other = build_city(drawn_city.seed + 1, 600, drawn_city.origin)
    for a, b in zip(drawn_city.rasters, again.rasters, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(drawn_city.facades, again.facades)
    assert (drawn_city.rasters.material != other.rasters.material).mean() > 0.2


def test_a_city_has_roads_greens_roofs_and_trees(drawn_city: City) -> None:
    share = np.bincount(drawn_city.rasters.material.ravel(), minlength=10) / drawn_city.rasters.material.size
    assert share[ROAD] > 0.05
    assert share[GRASS] > 0.05
    assert share[ROOF] > 0.02
    assert share[TREE] > 0.005


def test_buildings_carry_their_number_and_rise_to_their_eaves(drawn_city: City) -> None:
    rasters = drawn_city.rasters
    for building in drawn_city.buildings:
        cells = rasters.object_id == building.object_id
        assert cells.any()
        assert (rasters.material[cells] == ROOF).all()
        assert rasters.height[cells].min() >= building.eave_m - 0.01


def test_no_building_stands_on_another_or_on_a_road(drawn_city: City) -> None:
    """Roofs are raised two metres away from anything else, so a roof cell never borders another building's."""
    ids = np.where(drawn_city.rasters.material == ROOF, drawn_city.rasters.object_id, 0)
    for a, b in ((ids[1:], ids[:-1]), (ids[:, 1:], ids[:, :-1])):
        assert not ((a > 0) & (b > 0) & (a != b)).any()


def test_places_are_apart_and_away_from_the_edge(drawn_city: City) -> None:
    places = choose_places(drawn_city, 1000, 50.0, np.random.default_rng(0))
    assert len(places) >= 4
    spots = np.array([(place.x, place.y) for place in places])
    apart = np.linalg.norm(spots[:, None] - spots[None], axis=2)[np.triu_indices(len(spots), 1)]
    assert apart.min() > 50.0
    assert spots.min() > BORDER_M
    assert spots.max() < drawn_city.size_m - BORDER_M


def test_local_metres_become_degrees_around_the_middle_of_the_city(drawn_city: City) -> None:
    point = drawn_city.point(400.0, 250.0)  # 100 m east and 50 m north of the middle
    east, north = east_north_m(drawn_city.origin, np.array([point.latitude_deg]), np.array([point.longitude_deg]))
    assert (east[0], north[0]) == pytest.approx((100.0, 50.0), abs=1e-3)
    assert drawn_city.rasters.height.shape == (int(600 / CELL_M), int(600 / CELL_M))
