"""The generated benchmark in the prepared folder layout of SUES-200: circles at four heights."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dphr_infer.errors import ConfigError
from dphr_train.cities.buildings import Building
from dphr_train.cities.camera import pose_over
from dphr_train.cities.city import City
from dphr_train.cities.config import SUES_VIEWS, CitiesConfig
from dphr_train.cities.places import PlacePlan, Shot, drone_conditions, satellite_shot
from dphr_train.cities.writer import Layout, write_benchmark

HEIGHTS_M = (150, 200, 250, 300)

_PITCH_DEG = (-48.0, -42.0)
_FOV_DEG = (36.0, 46.0)


def write_sues200(config: CitiesConfig, root: Path) -> None:
    """Write `Training/<h>/{drone,satellite}/<id>` and `Testing/<h>/{query,gallery}_{drone,satellite}/<id>`.

    Ids begin with 0001; drone pictures are `0.jpg` and on, satellite pictures `0.png`, the same at every height. The
    galleries hold every place: queries, distractors and, as in the original, the training places. Resumes like
    write_university1652.

    Raises:
        ConfigError: more than the 50 views of a circle are asked for, or the cities have no room for the places.
        DatasetError: `root` holds something else or was begun with other settings.
        StorageError: the disk refused.
    """
    views = max(config.train_views, config.test_views)
    if views > SUES_VIEWS:
        raise ConfigError(
            f"{views} views are asked for, but a circle of SUES-200 has {SUES_VIEWS}. Ask for {SUES_VIEWS} or fewer."
        )
    write_benchmark(config, root, _LAYOUT)


def _plan_place(city: City, building: Building, place_id: str, views: int, folders: tuple[str, ...]) -> PlacePlan:
    rng = np.random.default_rng([city.seed, building.object_id, 13])
    tile = satellite_shot(
        building,
        rng,
        tuple(
            f"{folder.format(height=height, view='satellite')}/{place_id}/0.png"
            for height in HEIGHTS_M
            for folder in folders
        ),
    )
    conditions = drone_conditions(building, rng)
    shots = []
    for level, height in enumerate(HEIGHTS_M):
        start = rng.uniform(0, 360)
        for k in range(views):
            step = int(rng.integers(k * SUES_VIEWS // views, (k + 1) * SUES_VIEWS // views))
            heading = start + 360 * step / SUES_VIEWS
            pitch, fov = rng.uniform(*_PITCH_DEG), rng.uniform(*_FOV_DEG)
            pose = pose_over(building.x, building.y, float(height), heading, pitch, fov)
            targets = (f"{folder.format(height=height, view='drone')}/{place_id}/{k}.jpg" for folder in folders)
            shots.append(Shot(level * SUES_VIEWS + k + 1, pose, tuple(targets)))
    return PlacePlan(place_id, building, tile, conditions, tuple(shots))


_LAYOUT = Layout(
    name="sues200",
    first_id=1,
    train=("Training/{height}/{view}", "Testing/{height}/gallery_{view}"),
    query=("Testing/{height}/query_{view}", "Testing/{height}/gallery_{view}"),
    distractor=("Testing/{height}/gallery_{view}",),
    plan_place=_plan_place,
)
