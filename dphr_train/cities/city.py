"""A city drawn from a seed: rasters at 0.5 m, buildings, and where cars may stand."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dphr_infer.geo import offset
from dphr_infer.types import GeoPoint
from dphr_train.cities.blocks import Block, fill_block
from dphr_train.cities.buildings import Building, Draft, draw_looks
from dphr_train.cities.draw import draw_trees
from dphr_train.cities.layout import (
    CELL_M,
    DISTRICT_STEP_M,
    DISTRICT_WARP_M,
    HOUSES,
    Rasters,
    empty_rasters,
    paint_ground,
    plan_districts,
)

BORDER_M = 180.0  # places keep this distance from the edge of the city
_HOUSE_WEIGHT = 0.35  # single houses are many and alike: they become places less often
_GRID_REACH = 1.1  # how far blocks are looked for around a district's centre, in district steps


@dataclass(frozen=True, slots=True, eq=False)
class City:
    """A finished city.

    Attributes:
        seed:      what it was drawn from.
        size_m:    side of the square.
        origin:    position of its centre on the globe.
        rasters:   see Rasters; (2 size_m, 2 size_m).
        facades:   float64 (buildings + 1, 10), walls by object id; columns in buildings.
        buildings: everything that was built.
        slots:     float64 (S, 4), x, y (m), direction (rad), share of the time a car stands there.
        highest_m: height of the tallest building or tree.
    """

    seed: int
    size_m: float
    origin: GeoPoint
    rasters: Rasters
    facades: NDArray[np.float64]
    buildings: tuple[Building, ...]
    slots: NDArray[np.float64]
    highest_m: float

    def point(self, x: float, y: float) -> GeoPoint:
        """Position on the globe of local metres (x east, y south of the north-west corner)."""
        return offset(self.origin, x - self.size_m / 2, self.size_m / 2 - y)


def build_city(seed: int, size_m: int, origin: GeoPoint) -> City:
    """Draw a city; takes seconds and about 15 bytes a cell."""
    rng = np.random.default_rng([seed, 1])
    noise_seed = int(rng.integers(1 << 30))
    districts = plan_districts(rng, size_m)
    rasters = empty_rasters(int(size_m / CELL_M))
    paint_ground(rasters, districts, noise_seed)
    draft = Draft(rng, rasters, districts, size_m, noise_seed, draw_looks(rng))
    for district in range(len(districts)):
        for block in _blocks(draft, district):
            fill_block(draft, block)
    draw_trees(rasters, np.array(draft.trees, np.float64).reshape(-1, 6), noise_seed + 3)
    slots = np.array([(s.x, s.y, s.angle, s.share) for s in draft.slots], np.float64).reshape(-1, 4)
    facades = np.array(draft.facades, np.float64)
    highest_m = float(rasters.height.max())
    return City(seed, float(size_m), origin, rasters, facades, tuple(draft.buildings), slots, highest_m)


def _blocks(draft: Draft, district: int) -> list[Block]:
    """The blocks of a district whose centres lie in the city and in the district."""
    centre_x, centre_y, angle, pitch_u, pitch_v, road_m = draft.districts[district, :DISTRICT_WARP_M].tolist()
    found = []
    cos, sin = math.cos(angle), math.sin(angle)
    reach = int(DISTRICT_STEP_M * _GRID_REACH / min(pitch_u, pitch_v)) + 1
    for i in range(-reach, reach):
        for j in range(-reach, reach):
            u, v = (i + 0.5) * pitch_u, (j + 0.5) * pitch_v
            x, y = centre_x + u * cos - v * sin, centre_y + u * sin + v * cos
            inside = 0 < x < draft.size_m and 0 < y < draft.size_m
            if inside and draft.rasters.district[int(y / CELL_M), int(x / CELL_M)] == district:
                found.append(Block(district, x, y, angle, pitch_u, pitch_v, road_m))
    return found


def choose_places(city: City, count: int, spacing_m: float, rng: np.random.Generator) -> list[Building]:
    """Up to `count` buildings at least `spacing_m` apart and away from the edge, in random order."""
    high = city.size_m - BORDER_M
    candidates = [b for b in city.buildings if BORDER_M < b.x < high and BORDER_M < b.y < high]
    weights = np.array([_HOUSE_WEIGHT if b.district_kind == HOUSES else 1.0 for b in candidates])
    order = np.argsort(-weights * np.sqrt(rng.random(len(candidates))), kind="stable")
    chosen: list[Building] = []
    for i in order.tolist():
        here = candidates[i]
        if len(chosen) == count:
            break
        if all((here.x - b.x) ** 2 + (here.y - b.y) ** 2 > spacing_m**2 for b in chosen):
            chosen.append(here)
    return chosen
