"""What stands on one city block, by the kind of its district."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from dphr_train.cities.buildings import (
    CAR_COLOURS,
    CURTAIN,
    SHED,
    CarSlot,
    Draft,
    Plan,
    add_building,
    add_parking,
    footprint,
    varied,
)
from dphr_train.cities.draw import BARREL, FLAT, GABLE, HIP, OPEN_GROUND, SAWTOOTH
from dphr_train.cities.layout import (
    CAMPUS,
    CAR,
    DISTRICT_KIND,
    DOWNTOWN,
    ESTATE,
    GRASS,
    GREEN,
    HOUSES,
    INDUSTRY,
    PARKING,
    PAVED,
    WATER,
)
from dphr_train.cities.noise import fractal_noise

_QUARTER = math.pi / 2
_KERB_M = 6.0  # what the pavements take of a block
_FIELD_COLOURS = ((60, 120, 62), (150, 84, 60), (70, 100, 140))
_LINE = (225, 225, 225)


@dataclass(frozen=True, slots=True)
class Block:
    """A block of a street grid: centre (m), street direction (rad), pitch of the grid and inner size (m)."""

    district: int
    x: float
    y: float
    angle: float
    pitch_u: float
    pitch_v: float
    road_m: float

    @property
    def width(self) -> float:
        """Of the block along u, in metres, without road and kerb."""
        return self.pitch_u - self.road_m - _KERB_M

    @property
    def depth(self) -> float:
        """Of the block along v, in metres, without road and kerb."""
        return self.pitch_v - self.road_m - _KERB_M

    def at(self, u: float, v: float) -> tuple[float, float]:
        """City coordinates of a point of the block."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return self.x + u * cos - v * sin, self.y + u * sin + v * cos


def fill_block(draft: Draft, block: Block) -> None:
    """Build on a block, plant it, and line its streets with trees and parked cars."""
    kind = int(draft.districts[block.district, DISTRICT_KIND])
    _FILL[kind](draft, block)
    if kind != GREEN:
        _line_streets(draft, block)


def _scatter_trees(
    draft: Draft, block: Block, count: int, radius: tuple[float, float], height: tuple[float, float]
) -> None:
    rng, half_u, half_v = draft.rng, block.width / 2, block.depth / 2
    for _ in range(count):
        place = block.at(rng.uniform(-half_u, half_u), rng.uniform(-half_v, half_v))
        _plant(draft, place, rng.uniform(*radius), rng.uniform(*height))


def _plant(draft: Draft, place: tuple[float, float], radius_m: float, height_m: float) -> None:
    tone, conifer = draft.rng.random(), float(draft.rng.random() < 0.15)
    draft.trees.append((*place, radius_m, height_m, tone, conifer))


def _line_streets(draft: Draft, block: Block) -> None:
    rng = draft.rng
    spacing = rng.uniform(9, 15)
    if rng.random() < 0.6:
        for u in np.arange(-block.width / 2, block.width / 2, spacing).tolist():
            for side in (-1, 1):
                edge = side * (block.pitch_v / 2 - block.road_m / 2 - 2.6)
                _plant(draft, block.at(u + rng.uniform(-1, 1), edge), rng.uniform(1.5, 3.2), rng.uniform(5, 9))
    for u in np.arange(-block.pitch_u / 2, block.pitch_u / 2, 7.0).tolist():
        for side in (-1, 1):
            driving = block.at(u + rng.uniform(-1, 1), -block.pitch_v / 2 + side * block.road_m * 0.22)
            parked = block.at(u, -block.pitch_v / 2 + side * (block.road_m * 0.5 - 1.1))
            draft.slots.append(CarSlot(*driving, block.angle, 0.1))
            draft.slots.append(CarSlot(*parked, block.angle, 0.3))


def _houses(draft: Draft, block: Block) -> None:
    rng = draft.rng
    lot_m = rng.uniform(15, 21)
    for side in (-1, 1):
        look = draft.look(HOUSES)
        first, last = -block.width / 2 + lot_m / 2, block.width / 2 - lot_m / 2
        for u in np.arange(first, last + 0.1, lot_m).tolist():
            if rng.random() < 0.1:
                continue
            width, depth = rng.uniform(8.5, lot_m - 4), rng.uniform(8, 13)
            place = block.at(u + rng.uniform(-1, 1), side * (block.depth / 2 - 9 + rng.uniform(-2, 2)))
            shape = footprint("L" if rng.random() < 0.35 else "R", width, depth, depth * 0.6)
            roof = GABLE if rng.random() < 0.55 else HIP
            storeys, slope = int(rng.integers(1, 3)), rng.uniform(0.45, 0.85)
            plan = Plan(roof, storeys, varied(rng, look), slope=slope, storey_m=2.8)
            angle = block.angle + (0.0 if rng.random() < 0.9 else 0.12)
            if add_building(draft, block.district, *place, angle, shape, plan):
                _front_yard(draft, block, u, side, lot_m)
            for _ in range(rng.integers(0, 4)):
                tree = block.at(u + rng.uniform(-lot_m / 2, lot_m / 2), side * rng.uniform(0, block.depth / 2 - 2))
                _plant(draft, tree, rng.uniform(1.6, 4.2), rng.uniform(4, 10))


def _front_yard(draft: Draft, block: Block, u: float, side: int, lot_m: float) -> None:
    """A driveway with a car slot, sometimes a pool behind the house."""
    rng = draft.rng
    x, y = block.at(u + lot_m * 0.38, side * (block.depth / 2 - 3))
    draft.box(x, y, block.angle, (1.5, 6.0), (150, 146, 140), PARKING, GRASS)
    draft.slots.append(CarSlot(x, y, block.angle + _QUARTER, 0.6))
    if rng.random() < 0.12:
        pool_x, pool_y = block.at(u, side * 7)
        draft.box(pool_x, pool_y, block.angle, (rng.uniform(2, 4), 1.8), (70, 165, 190), WATER, GRASS)


def _estate(draft: Draft, block: Block) -> None:
    rng, width, depth = draft.rng, block.width, block.depth
    if rng.random() < 0.12:
        add_parking(draft, block.x, block.y, block.angle, width / 2 - 3, min(depth / 2 - 3, 20))
    else:
        look = draft.look(ESTATE)
        storeys = look.storeys + int(rng.integers(0, 2))
        kind = ("I", "I", "L", "U", "towers")[rng.integers(5)]
        if kind == "I":
            roof = GABLE if look.facade == 1 else FLAT
            _slabs(draft, block, Plan(roof, storeys, look, slope=0.35, clutter=0.35))
        elif kind == "towers":
            plan = Plan(FLAT, storeys + 5, look, clutter=0.8)
            for u in np.arange(-width / 2 + 14, width / 2 - 12, 34).tolist():
                for v in np.arange(-depth / 2 + 14, depth / 2 - 12, 34).tolist():
                    shape = footprint("R", 19, 19, 0)
                    add_building(draft, block.district, *block.at(u, v), block.angle, shape, plan)
        else:
            turn = int(rng.integers(4)) * _QUARTER if abs(width - depth) < 20 else 0.0
            shape = footprint(kind, width * 0.8, depth * 0.8, 13)
            plan = Plan(FLAT, storeys, look, clutter=0.4)
            add_building(draft, block.district, block.x, block.y, block.angle + turn, shape, plan)
    _scatter_trees(draft, block, int(width * depth / 300), (1.8, 4.8), (5, 13))


def _slabs(draft: Draft, block: Block, plan: Plan) -> None:
    """Parallel slabs, with car parks between them where they lie along the block."""
    rng = draft.rng
    across = rng.random() < 0.5
    long, wide = (block.depth, block.width) if across else (block.width, block.depth)
    spacing = rng.uniform(28, 36)
    for s in np.arange(-wide / 2 + 10, wide / 2 - 8, spacing).tolist():
        shape = footprint("I", long * rng.uniform(0.7, 0.92), 0, 12.5)
        place = block.at(s, 0) if across else block.at(0, s)
        angle = block.angle + (_QUARTER if across else 0.0)
        add_building(draft, block.district, *place, angle, shape, plan)
        if not across and s + spacing < wide / 2 and rng.random() < 0.6:
            between = block.at(rng.uniform(-10, 10), s + spacing / 2)
            add_parking(draft, *between, block.angle, rng.uniform(12, block.width * 0.38), 2.8)


def _downtown(draft: Draft, block: Block) -> None:
    rng, width, depth = draft.rng, block.width, block.depth
    which = rng.random()
    if which < 0.08:
        add_parking(draft, block.x, block.y, block.angle, width / 2 - 2, depth / 2 - 2)
    elif which < 0.16:
        _scatter_trees(draft, block, 14, (2, 5), (6, 14))
    elif which < 0.55:
        kind, wing = "OULO"[rng.integers(4)], rng.uniform(12, 16)
        roof = (FLAT, FLAT, HIP)[rng.integers(3)]
        plan = Plan(roof, int(rng.integers(4, 8)), draft.look(DOWNTOWN), slope=0.55, clutter=0.7)
        angle = block.angle + (math.pi if rng.random() < 0.5 else 0.0)
        shape = footprint(kind, width - 2, depth - 2, wing)
        add_building(draft, block.district, block.x, block.y, angle, shape, plan)
    else:
        across, down = int(rng.integers(1, 4)), int(rng.integers(1, 3))
        for i in range(across):
            for j in range(down):
                u, v = -width / 2 + width / across * (i + 0.5), -depth / 2 + depth / down * (j + 0.5)
                _city_lot(draft, block, u, v, width / across, depth / down)


def _city_lot(draft: Draft, block: Block, u: float, v: float, width: float, depth: float) -> None:
    """One lot of a downtown block: a tower of up to 23 storeys, or a lower house."""
    rng, look, place = draft.rng, draft.look(DOWNTOWN), block.at(u, v)
    if rng.random() < 0.22:
        if rng.random() < 0.5:
            look = replace(look, facade=CURTAIN)
        plan = Plan(FLAT, int(rng.integers(11, 24)), look, storey_m=3.4, clutter=0.9)
        shape = footprint("R", min(width * 0.75, 34), min(depth * 0.75, 30), 0)
        add_building(draft, block.district, *place, block.angle, shape, plan)
        return
    roof = (FLAT, FLAT, FLAT, GABLE, HIP)[rng.integers(5)]
    plan = Plan(roof, int(rng.integers(3, 9)), look, slope=0.4, clutter=0.7)
    shape = footprint("RRLUT"[rng.integers(5)], width * 0.9, depth * 0.88, min(width, depth) * 0.42)
    add_building(draft, block.district, *place, block.angle + int(rng.integers(2)) * math.pi, shape, plan)


def _industry(draft: Draft, block: Block) -> None:
    rng, width, depth = draft.rng, block.width, block.depth
    if rng.random() < 0.1:
        add_parking(draft, block.x, block.y, block.angle, width / 2 - 4, depth / 2 - 4)
        return
    halls = int(rng.integers(1, 3))
    lot = width / halls
    for i in range(halls):
        u = -width / 2 + lot * (i + 0.5)
        look = replace(draft.look(INDUSTRY), facade=SHED)
        roof = (FLAT, SAWTOOTH, BARREL, GABLE)[rng.integers(4)]
        size = lot * rng.uniform(0.6, 0.85), depth * rng.uniform(0.45, 0.72)
        shape = footprint("RRL"[rng.integers(3)], *size, depth * 0.35)
        plan = Plan(roof, 3, look, slope=0.15, clutter=0.35, eave_m=rng.uniform(6, 12))
        add_building(draft, block.district, *block.at(u, rng.uniform(-4, 4)), block.angle, shape, plan)
        if rng.random() < 0.7:
            add_parking(draft, *block.at(u, depth / 2 - 5), block.angle, lot * 0.4, 2.8)
        for _ in range(rng.integers(0, 9)):
            r, g, b = CAR_COLOURS[rng.integers(len(CAR_COLOURS))]
            x, y = block.at(rng.uniform(-width / 2, width / 2), -depth / 2 + rng.uniform(1, 8))
            container = (r * 0.8, g * 0.8, b * 0.8)
            draft.box(x, y, block.angle, (6.0, 1.3), container, CAR, PAVED, 2.6)


def _campus(draft: Draft, block: Block) -> None:
    rng, width, depth = draft.rng, block.width, block.depth
    if rng.random() < 0.14:
        _sports_field(draft, block)
    else:
        side = min(width, depth)
        turns = _QUARTER * int(rng.integers(4)) if width < depth * 1.25 else math.pi * int(rng.integers(2))
        size = side * rng.uniform(0.6, 0.85), side * rng.uniform(0.55, 0.8)
        shape = footprint("HUELTO"[rng.integers(6)], *size, rng.uniform(12, 17))
        roof = (FLAT, FLAT, FLAT, HIP)[rng.integers(4)]
        look = draft.look(CAMPUS)
        plan = Plan(roof, int(rng.integers(3, 7)), look, slope=0.45, clutter=0.6)
        place = block.at(rng.uniform(-6, 6), rng.uniform(-4, 4))
        add_building(draft, block.district, *place, block.angle + turns, shape, plan)
        if rng.random() < 0.6:
            corner = block.at(rng.choice((-1, 1)) * width * 0.36, rng.choice((-1, 1)) * depth * 0.36)
            small = footprint("RRL"[rng.integers(3)], rng.uniform(16, 30), rng.uniform(12, 22), 8)
            annex = Plan((FLAT, HIP)[rng.integers(2)], int(rng.integers(1, 4)), look, slope=0.5, clutter=0.5)
            add_building(draft, block.district, *corner, block.angle, small, annex)
        if rng.random() < 0.4:
            add_parking(draft, *block.at(width / 2 - 14, rng.uniform(-8, 8)), block.angle + _QUARTER, depth * 0.3, 7)
    _scatter_trees(draft, block, int(width * depth / 330), (1.8, 5), (5, 14))


def _sports_field(draft: Draft, block: Block) -> None:
    colour = _FIELD_COLOURS[draft.rng.integers(len(_FIELD_COLOURS))]
    half_u, half_v = min(46, block.width / 2 - 4), min(30, block.depth / 2 - 4)
    draft.box(block.x, block.y, block.angle, (half_u + 3, half_v + 3), (160, 84, 62), PARKING, OPEN_GROUND)
    draft.box(block.x, block.y, block.angle, (half_u, half_v), colour, PARKING, PARKING)
    for s in (-1, 0, 1):
        x, y = block.at(s * half_u * 0.96, 0)
        draft.box(x, y, block.angle, (0.25, half_v * 0.94), _LINE, PARKING, PARKING)
    for s in (-1, 1):
        x, y = block.at(0, s * half_v * 0.94)
        draft.box(x, y, block.angle, (half_u * 0.96, 0.25), _LINE, PARKING, PARKING)


def _green(draft: Draft, block: Block) -> None:
    """Woods that thin out into meadows."""
    rng = draft.rng
    for _ in range(110):
        x, y = block.at(
            rng.uniform(-block.pitch_u / 2, block.pitch_u / 2), rng.uniform(-block.pitch_v / 2, block.pitch_v / 2)
        )
        if fractal_noise(x / 50, y / 50, draft.noise_seed + 88) > 0.46:
            _plant(draft, (x, y), rng.uniform(2.2, 5.5), rng.uniform(6, 17))


_FILL: dict[int, Callable[[Draft, Block], None]] = {
    DOWNTOWN: _downtown,
    HOUSES: _houses,
    ESTATE: _estate,
    INDUSTRY: _industry,
    CAMPUS: _campus,
    GREEN: _green,
}
