"""A benchmark folder on disk: its settings, what is there already, its pictures and its metadata."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from dphr_infer.errors import DatasetError
from dphr_infer.files.atomic import atomic_file
from dphr_infer.measure.progress import Progress
from dphr_train.cities.buildings import Building
from dphr_train.cities.city import City
from dphr_train.cities.config import CitiesConfig, places_of_city
from dphr_train.cities.metadata import METADATA_FILE, MetadataRow, place_rows, write_rows
from dphr_train.cities.places import (
    PlacePlan,
    Role,
    open_city,
    open_studio,
    pick_buildings,
    render_place,
    satellite_conditions,
    shift_conditions,
)
from dphr_train.cities.workers import each_forked

SETTINGS_FILE = "cities.json"
FORMAT_VERSION = 1
_BENCHMARK_VERSION = 2  # drone photos with flight data in them

PlanPlace = Callable[[City, Building, str, int, tuple[str, ...]], PlacePlan]
"""City, building, place id, number of views, folders -> plan in mixed conditions."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What sets a benchmark apart from the others.

    Attributes:
        name: in the settings and for people.
        first_id: number of its first place.
        train, query, distractor: the folders of a training place, a test place and a distractor, as plan_place
            takes them.
        plan_place: who photographs a place from where.
    """

    name: str
    first_id: int
    train: tuple[str, ...]
    query: tuple[str, ...]
    distractor: tuple[str, ...]
    plan_place: PlanPlace


@dataclass(frozen=True, slots=True)
class CityTask:
    """One city: its role and number, and what is photographed there.

    Ids count up from `first_id`; the `leading` places go to `folders`, the rest are distractors.
    """

    role: Role
    index: int
    first_id: int
    places: int
    leading: int
    views: int
    folders: tuple[str, ...]


def list_tasks(config: CitiesConfig, layout: Layout) -> list[CityTask]:
    """The training cities and, with ids after theirs, the test city."""
    tasks, first = [], layout.first_id
    for index in range(config.train_cities):
        count = places_of_city(config, index)
        tasks.append(CityTask("train", index, first, count, count, config.train_views, layout.train))
        first += count
    count = config.test_places + config.distractors
    return [*tasks, CityTask("test", 0, first, count, config.test_places, config.test_views, layout.query)]


def plan_city(config: CitiesConfig, layout: Layout, task: CityTask, city: City) -> list[PlacePlan]:
    """The plans of a city's places, in the conditions that the configuration asks for.

    Raises:
        ConfigError: the city has no room for its places.
    """
    plans = []
    for i, building in enumerate(pick_buildings(city, task.places)):
        folders = task.folders if i < task.leading else layout.distractor
        mixed = layout.plan_place(city, building, f"{task.first_id + i:04d}", task.views, folders)
        plans.append(replace(mixed, conditions=shift_conditions(mixed.conditions, config.conditions)))
    return plans


def write_benchmark(config: CitiesConfig, root: Path, layout: Layout) -> None:
    """Build city by city, render what is missing, and end with the metadata.

    Raises:
        DatasetError: the folder holds something else, or was begun with other settings.
        ConfigError: a city has no room for its places.
        StorageError: the disk refused.
    """
    claim_folder(root, layout.name, config, {"format": _BENCHMARK_VERSION})
    if _is_complete(root):
        return
    tasks = list_tasks(config, layout)
    rows: list[MetadataRow] = []
    with Progress(layout.name, sum(task.places for task in tasks), "places") as progress:
        for task in tasks:
            city = open_city(config, task.role, task.index)
            plans = plan_city(config, layout, task, city)
            for plan in plans:
                rows += place_rows(city, plan, satellite_conditions(city))
            missing = [plan for plan in plans if not all((root / target).exists() for target in plan.targets())]
            progress.advance(len(plans) - len(missing), f"{task.role} city {task.index}")
            if missing:
                studio = open_studio(config, city, root)
                for _ in each_forked(render_place, studio, missing, config.workers):
                    progress.advance()
    write_rows(root / METADATA_FILE, rows)


def claim_folder(root: Path, layout: str, config: CitiesConfig, further: dict[str, float] | None = None) -> None:
    """Note the settings in a new folder; in one that was begun, check that they are the same.

    Args:
        further: settings that are not in the config, and what stands before it.

    Raises:
        DatasetError: other settings, or a folder with other contents.
    """
    settings = {"format": FORMAT_VERSION, "layout": layout, **asdict(config), **(further or {})}
    del settings["workers"]
    path = root / SETTINGS_FILE
    if path.exists():
        _compare(path, settings)
        for leftover in root.rglob(".*.part"):  # of a run that was killed while it wrote
            leftover.unlink(missing_ok=True)
        return
    if root.exists() and not root.is_dir():
        raise DatasetError(f"{root} is a file. Choose a folder.")
    if root.exists() and any(path.suffix != ".part" for path in root.iterdir()):
        raise DatasetError(
            f"{root} holds files but no {SETTINGS_FILE}, so it was not begun by this command. Choose an empty folder."
        )
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _compare(path: Path, settings: dict[str, object]) -> None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read ({error}). Choose an empty folder.") from error
    if not isinstance(found, dict):
        raise DatasetError(f"{path} holds no settings. Choose an empty folder.")
    found.setdefault("conditions", "mixed")  # begun before there was a choice
    names = [*settings, *(name for name in found if name not in settings)]
    other = [
        f"{name} is {found.get(name)!r} there and {settings.get(name)!r} here"
        for name in names
        if found.get(name) != settings.get(name)
    ]
    if other:
        raise DatasetError(
            f"{path.parent} was begun with other settings: {'; '.join(other)}. Pictures of both would mix: choose "
            f"another folder, or the same settings to continue."
        )


def _is_complete(root: Path) -> bool:
    path = root / METADATA_FILE
    if not path.exists():
        return False
    with path.open(encoding="utf-8", newline="") as file:
        return all((root / row["path"]).exists() for row in csv.DictReader(file))
