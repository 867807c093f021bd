"""The generated benchmark in the folder layout of University-1652."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from dphr_train.cities.buildings import Building
from dphr_train.cities.camera import spiral
from dphr_train.cities.city import City
from dphr_train.cities.config import UNIVERSITY_VIEWS, CitiesConfig, places_of_city
from dphr_train.cities.places import PlacePlan, Shot, drone_conditions, pick_buildings, satellite_shot
from dphr_train.cities.writer import CityTask, write_benchmark

_AIM_JITTER_M = 6.0
_HEADING_JITTER_DEG = 6.0
_PITCH_JITTER_DEG = 3.0
_FOV_DEG = (36.0, 46.0)
_TRAIN = ("train/{view}",)
_QUERY = ("test/query_{view}", "test/gallery_{view}")
_DISTRACTOR = ("test/gallery_{view}",)


def write_university1652(config: CitiesConfig, root: Path) -> None:
    """Write `train/{satellite,drone}/<id>/` and `test/{query,gallery}_{satellite,drone}/<id>/` below `root`.

    Satellite pictures are `<id>.jpg`, drone pictures `image-01.jpeg` and on. Distractors are in the galleries only;
    the queries' pictures are in the galleries too, as in the original. `metadata.csv` tells how each was taken. An
    interrupted run continues where it stopped and ends with the same bytes.

    Raises:
        DatasetError: `root` holds something else or was begun with other settings.
        ConfigError: the cities have no room for the places.
        StorageError: the disk refused.
    """
    write_benchmark(config, root, "university1652", _tasks(config))


def _tasks(config: CitiesConfig) -> list[CityTask]:
    tasks, first = [], 0
    for index in range(config.train_cities):
        count = places_of_city(config, index)
        tasks.append(CityTask("train", index, count, _planner(first, count, config.train_views, count, _TRAIN)))
        first += count
    count = config.test_places + config.distractors
    tasks.append(CityTask("test", 0, count, _planner(first, count, config.test_views, config.test_places, _QUERY)))
    return tasks


def _planner(
    first: int, count: int, views: int, leading: int, folders: tuple[str, ...]
) -> Callable[[City], list[PlacePlan]]:
    """Plan `count` places with ids from `first`; the `leading` ones go to `folders`, the rest are distractors."""

    def plan(city: City) -> list[PlacePlan]:
        return [
            _plan_place(city, building, f"{first + i:04d}", views, folders if i < leading else _DISTRACTOR)
            for i, building in enumerate(pick_buildings(city, count))
        ]

    return plan


def _plan_place(city: City, building: Building, place_id: str, views: int, folders: tuple[str, ...]) -> PlacePlan:
    """Draw a flight of `views` pictures, one from each part of the spiral."""
    rng = np.random.default_rng([city.seed, building.object_id, 3])
    satellite = tuple(f"{folder.format(view='satellite')}/{place_id}/{place_id}.jpg" for folder in folders)
    tile = satellite_shot(building, rng, satellite)
    conditions = drone_conditions(building, rng)
    aside, ahead = rng.uniform(-_AIM_JITTER_M, _AIM_JITTER_M, 2).tolist()
    path = list(spiral(building.x + aside, building.y + ahead, rng.uniform(0, 360), UNIVERSITY_VIEWS, 0.0))
    shots = []
    for k in range(views):
        low, high = k * UNIVERSITY_VIEWS // views, (k + 1) * UNIVERSITY_VIEWS // views
        pose = path[int(rng.integers(low, high))]
        pose = replace(
            pose,
            heading_deg=(pose.heading_deg + rng.uniform(-_HEADING_JITTER_DEG, _HEADING_JITTER_DEG)) % 360,
            pitch_deg=pose.pitch_deg + rng.uniform(-_PITCH_JITTER_DEG, _PITCH_JITTER_DEG),
            fov_deg=rng.uniform(*_FOV_DEG),
        )
        name = f"{place_id}/image-{k + 1:02d}.jpeg"
        shots.append(Shot(k + 1, pose, tuple(f"{folder.format(view='drone')}/{name}" for folder in folders)))
    return PlacePlan(place_id, building, tile, conditions, tuple(shots))
