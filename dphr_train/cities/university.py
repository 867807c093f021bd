"""The generated benchmark in the folder layout of University-1652."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from dphr_train.cities.buildings import Building
from dphr_train.cities.camera import spiral
from dphr_train.cities.city import City
from dphr_train.cities.config import UNIVERSITY_VIEWS, CitiesConfig
from dphr_train.cities.places import PlacePlan, Shot, drone_conditions, satellite_shot
from dphr_train.cities.writer import Layout, write_benchmark

_AIM_JITTER_M = 6.0
_HEADING_JITTER_DEG = 6.0
_PITCH_JITTER_DEG = 3.0
_FOV_DEG = (36.0, 46.0)


def write_university1652(config: CitiesConfig, root: Path) -> None:
    """Write `train/{satellite,drone}/<id>/` and `test/{query,gallery}_{satellite,drone}/<id>/` below `root`.

    Satellite pictures are `<id>.jpg`, drone pictures `image-01.jpeg` and on. Distractors are in the galleries only;
    the queries' pictures are in the galleries too, as in the original. `metadata.csv` tells how each was taken, and
    drone pictures carry it as a DJI drone writes it. An interrupted run continues where it stopped and ends with the
    same bytes.

    Raises:
        DatasetError: `root` holds something else or was begun with other settings.
        ConfigError: the cities have no room for the places.
        StorageError: the disk refused.
    """
    write_benchmark(config, root, _LAYOUT)


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


_LAYOUT = Layout(
    name="university1652",
    first_id=0,
    train=("train/{view}",),
    query=("test/query_{view}", "test/gallery_{view}"),
    distractor=("test/gallery_{view}",),
    plan_place=_plan_place,
)
