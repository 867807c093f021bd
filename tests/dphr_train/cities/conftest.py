"""Cities that several tests look at, made once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dphr_infer.types import GeoPoint
from dphr_train.cities.buildings import FACADE_COLUMNS, FACADE_EAVE_M, FACADE_STOREY_M, FACADE_WINDOW_M
from dphr_train.cities.city import City, build_city
from dphr_train.cities.config import CitiesConfig
from dphr_train.cities.layout import CELL_M, GRASS, ROOF, empty_rasters
from dphr_train.cities.university import write_university1652

ORIGIN = GeoPoint(47.0, 9.0)
GREY = 100


@pytest.fixture(scope="session")
def tiny() -> CitiesConfig:
    return CitiesConfig(
        seed=5, train_cities=2, train_places=3, test_places=2, distractors=1, train_views=2, test_views=2,
        image_px=32, supersampling=1, workers=1, city_m=600,
    )  # fmt: skip


@pytest.fixture(scope="session")
def university(tiny: CitiesConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny benchmark; read only."""
    root = tmp_path_factory.mktemp("university")
    write_university1652(tiny, root)
    return root


@pytest.fixture(scope="session")
def drawn_city() -> City:
    return build_city(11, 600, ORIGIN)


@pytest.fixture
def flat_city() -> Callable[..., City]:
    """Makes a city of 400 m with even grey ground, and boxes (x, y, half width m, height m, colour) on it."""

    def make(*boxes: tuple[float, float, float, float, tuple[int, int, int]]) -> City:
        rasters = empty_rasters(int(400 / CELL_M))
        rasters.colour[:] = GREY
        rasters.material[:] = GRASS
        facades = np.zeros((len(boxes) + 1, FACADE_COLUMNS))
        facades[:, FACADE_STOREY_M] = facades[:, FACADE_WINDOW_M] = 3.0
        for number, (x, y, half_m, height_m, colour) in enumerate(boxes, start=1):
            rows = slice(round((y - half_m) / CELL_M), round((y + half_m) / CELL_M))
            columns = slice(round((x - half_m) / CELL_M), round((x + half_m) / CELL_M))
            rasters.height[rows, columns] = height_m
            rasters.colour[rows, columns] = colour
            rasters.material[rows, columns] = ROOF
            rasters.object_id[rows, columns] = number
            facades[number, FACADE_EAVE_M] = height_m
        highest = float(rasters.height.max())
        return City(1, 400.0, ORIGIN, rasters, facades, (), np.zeros((0, 4)), highest)

    return make


def digests(root: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by relative path."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="session")
def digests_of() -> Callable[[Path], dict[str, str]]:
    return digests
