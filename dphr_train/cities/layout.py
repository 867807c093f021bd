"""Where districts, streets and ground materials lie, and how the bare ground looks from above.

A city is a Voronoi diagram of districts around a jittered grid. Wide main roads run along the borders of the
districts; inside, every district has its own street grid with its own direction, block size and waviness.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dphr_train.cities.compiled import kernel
from dphr_train.cities.noise import fractal_noise, random01

CELL_M = 0.5  # side of a raster cell

# PARKING is all paved ground on which no tree grows: car parks, driveways, sports fields.
ROAD, WALK, PAVED, GRASS, WATER, SOIL, ROOF, TREE, CAR, PARKING = range(10)
DOWNTOWN, HOUSES, ESTATE, INDUSTRY, CAMPUS, GREEN = range(6)
DISTRICT_KINDS = 6

DISTRICT_STEP_M = 330.0
_DISTRICT_JITTER = 0.35
_KIND_SHARE = (0.2, 0.22, 0.2, 0.12, 0.18, 0.08)
_BLOCK_M = ((78, 66), (120, 62), (120, 96), (130, 100), (120, 105), (200, 200))
_WARP_M = (14, 70, 30, 8, 40, 30)

# Columns of the district table, float64 (D, 8): centre (m), street direction (rad), block size, road width and waviness
# (m), kind.
(
    DISTRICT_X,
    DISTRICT_Y,
    DISTRICT_ANGLE,
    DISTRICT_BLOCK_U,
    DISTRICT_BLOCK_V,
    DISTRICT_ROAD_M,
    DISTRICT_WARP_M,
    DISTRICT_KIND,
) = range(8)

_MAIN_ROAD_M = 9.0  # half width
_MAIN_WALK_M = 12.5
_WALK_M = 2.2
_NO_STREET_M = 1e3
_MISSING_STREETS = 0.22


class Rasters(NamedTuple):
    """A city seen from above, (rows, columns) with row 0 in the north and cells of CELL_M.

    height float32, metres; colour uint8 (.., 3), RGB under white light; material uint8, one of the constants above;
    object_id int32, a building above 0, a tree below 0, otherwise 0; district int16, row of the district table.
    """

    height: NDArray[np.float32]
    colour: NDArray[np.uint8]
    material: NDArray[np.uint8]
    object_id: NDArray[np.int32]
    district: NDArray[np.int16]


class Nearest(NamedTuple):
    """The district of a point and the distance to its border in metres."""

    district: int
    border_m: float


class Street(NamedTuple):
    """A point in the street grid of its district.

    u, v: grid coordinates (m); block_u, block_v: number of the block; across_u, across_v: distance to the nearest
    street of either direction (m); line_u, line_v: number of that street.
    """

    u: float
    v: float
    block_u: int
    block_v: int
    across_u: float
    across_v: float
    line_u: int
    line_v: int


class Texture(NamedTuple):
    """Noise at a point, all in [0, 1): coarse over 60 m, medium over 7 m, and per cell."""

    coarse: float
    medium: float
    fine: float


class Surface(NamedTuple):
    """Material and colour (0..255) of a point of the ground."""

    material: int
    red: float
    green: float
    blue: float


def empty_rasters(side: int) -> Rasters:
    """Rasters of side x side cells without anything on them."""
    return Rasters(
        np.zeros((side, side), np.float32),
        np.zeros((side, side, 3), np.uint8),
        np.zeros((side, side), np.uint8),
        np.zeros((side, side), np.int32),
        np.zeros((side, side), np.int16),
    )


def plan_districts(rng: np.random.Generator, size_m: float) -> NDArray[np.float64]:
    """Draw the districts of a city of size_m x size_m metres: float64 (D, 8), see DISTRICT_X and on."""
    steps = math.ceil(size_m / DISTRICT_STEP_M) + 1
    rows = []
    for i in range(steps):
        for j in range(steps):
            x = (i + rng.uniform(-_DISTRICT_JITTER, _DISTRICT_JITTER)) * DISTRICT_STEP_M
            y = (j + rng.uniform(-_DISTRICT_JITTER, _DISTRICT_JITTER)) * DISTRICT_STEP_M
            kind = int(rng.choice(DISTRICT_KINDS, p=_KIND_SHARE))
            block_u = _BLOCK_M[kind][0] * rng.uniform(0.85, 1.2)
            block_v = _BLOCK_M[kind][1] * rng.uniform(0.9, 1.15)
            rows.append((x, y, rng.uniform(0, math.pi), block_u, block_v, rng.uniform(7, 11), _WARP_M[kind], kind))
    return np.array(rows, np.float64)


@kernel
def _nearest_district(x: float, y: float, districts: NDArray[np.float64], seed: int) -> Nearest:
    wavy_x = x + 60.0 * (fractal_noise(x / 260, y / 260, seed) - 0.5)
    wavy_y = y + 60.0 * (fractal_noise(x / 260, y / 260, seed + 9) - 0.5)
    first, second, index = 1e9, 1e9, 0
    for i in range(districts.shape[0]):
        distance = math.sqrt((wavy_x - districts[i, DISTRICT_X]) ** 2 + (wavy_y - districts[i, DISTRICT_Y]) ** 2)
        if distance < first:
            first, second, index = distance, first, i
        elif distance < second:
            second = distance
    return Nearest(index, (second - first) * 0.5)


@kernel
def _street(x: float, y: float, district: int, districts: NDArray[np.float64], seed: int) -> Street:
    warp = districts[district, DISTRICT_WARP_M]
    dx = x - districts[district, DISTRICT_X] + warp * (fractal_noise(x / 200, y / 200, seed + 31) - 0.5)
    dy = y - districts[district, DISTRICT_Y] + warp * (fractal_noise(x / 200, y / 200, seed + 47) - 0.5)
    cos, sin = math.cos(districts[district, DISTRICT_ANGLE]), math.sin(districts[district, DISTRICT_ANGLE])
    u, v = dx * cos + dy * sin, -dx * sin + dy * cos
    size_u, size_v = districts[district, DISTRICT_BLOCK_U], districts[district, DISTRICT_BLOCK_V]
    block_u, block_v = int(math.floor(u / size_u)), int(math.floor(v / size_v))
    line_u, line_v = int(math.floor(u / size_u + 0.5)), int(math.floor(v / size_v + 0.5))
    across_u, across_v = abs(u - line_u * size_u), abs(v - line_v * size_v)
    no_streets = districts[district, DISTRICT_KIND] == GREEN
    if no_streets or random01(line_u, block_v, seed + 100 + district) < _MISSING_STREETS:
        across_u = _NO_STREET_M
    if no_streets or random01(block_u, line_v, seed + 200 + district) < _MISSING_STREETS:
        across_v = _NO_STREET_M
    return Street(u, v, block_u, block_v, across_u, across_v, line_u, line_v)


@kernel
def _main_road(x: float, y: float, border_m: float, texture: Texture) -> Surface:
    if border_m < 1.0:  # planted strip in the middle
        return Surface(ROAD, 92.0, 104.0, 70.0)
    if abs(border_m - 4.8) < 0.3 and (int((x + y) / 4) & 1):  # lane marks
        return Surface(ROAD, 190.0, 190.0, 190.0)
    grey = 78 + 16 * texture.medium + 10 * (texture.fine - 0.5) + 8 * texture.coarse
    return Surface(ROAD, grey, grey, grey + 2)


@kernel
def _side_street(street: Street, road_m: float, district: int, seed: int, texture: Texture) -> Surface:
    near, far = min(street.across_u, street.across_v), max(street.across_u, street.across_v)
    along = street.v if street.across_u < street.across_v else street.u
    if road_m * 0.5 + 1 < far < road_m * 0.5 + 4 and (int(near / 0.9) & 1):  # zebra crossing
        return Surface(ROAD, 200.0, 200.0, 200.0)
    if near < 0.3 and (int(along / 4) & 1) and far > road_m:  # centre line
        return Surface(ROAD, 185.0, 185.0, 185.0)
    tone = random01(street.line_u, street.line_v, seed + 77 + district)
    grey = 84 + 22 * tone + 14 * texture.medium + 10 * (texture.fine - 0.5)
    return Surface(ROAD, grey, grey, grey + 1)


@kernel
def _kerb(base: float, blue_shift: float, texture: Texture) -> Surface:
    grey = base + 20 * texture.medium + 14 * (texture.fine - 0.5)
    return Surface(WALK, grey, grey - 3, grey - blue_shift)


@kernel
def _park_material(x: float, y: float, border_m: float, seed: int) -> int:
    lake = fractal_noise(x / 110, y / 110, seed + 61)
    if border_m > 25 and lake > 0.62:
        return WATER
    if border_m > 25 and lake > 0.605:
        return SOIL
    if abs(fractal_noise(x / 90, y / 90, seed + 66) - 0.5) < 0.011:
        return WALK
    return GRASS


@kernel
def _block_material(x: float, y: float, border_m: float, kind: int, street: Street, district: int, seed: int) -> int:
    if kind == GREEN:
        return _park_material(x, y, border_m, seed)
    if kind == INDUSTRY:
        return PAVED
    if kind == DOWNTOWN:
        return GRASS if random01(street.block_u, street.block_v, seed + 300 + district) < 0.12 else PAVED
    if kind == CAMPUS and abs(fractal_noise(x / 70, y / 70, seed + 71) - 0.5) < 0.014:
        return WALK
    return GRASS


@kernel
def _grass(street: Street, districts: NDArray[np.float64], district: int, seed: int, texture: Texture) -> Surface:
    lot_u = street.block_u * 3 + int((street.u - street.block_u * districts[district, DISTRICT_BLOCK_U]) / 20)
    lot_v = street.block_v * 3 + int((street.v - street.block_v * districts[district, DISTRICT_BLOCK_V]) / 24)
    dry = 0.35 * texture.coarse + 0.4 * random01(lot_u, lot_v, seed + 302 + district)
    medium, fine = texture.medium - 0.5, texture.fine - 0.5
    return Surface(
        GRASS,
        70 + 60 * dry + 30 * medium + 14 * fine,
        98 + 26 * dry + 30 * medium + 14 * fine,
        48 + 18 * dry + 16 * medium,
    )


@kernel
def _block_interior(
    material: int, street: Street, districts: NDArray[np.float64], district: int, seed: int, texture: Texture
) -> Surface:
    if material == GRASS:
        return _grass(street, districts, district, seed, texture)
    if material == WATER:
        wave = 8 * (texture.medium - 0.5)
        return Surface(WATER, 44 + wave, 74 + wave + 12 * texture.coarse, 82 + wave)
    if material == SOIL:
        grain = 20 * texture.medium
        return Surface(SOIL, 165 + grain, 148 + grain, 112 + grain)
    if material == WALK:
        grey = 160 + 18 * texture.medium + 12 * (texture.fine - 0.5)
        return Surface(WALK, grey, grey - 6, grey - 20)
    tone = random01(street.block_u, street.block_v, seed + 301 + district)
    grey = 118 + 36 * tone + 22 * texture.medium + 14 * (texture.fine - 0.5) + 14 * (texture.coarse - 0.5)
    return Surface(PAVED, grey, grey - 2, grey - 8)


@kernel
def _surface(x: float, y: float, near: Nearest, districts: NDArray[np.float64], seed: int, texture: Texture) -> Surface:
    if near.border_m < _MAIN_ROAD_M:
        return _main_road(x, y, near.border_m, texture)
    if near.border_m < _MAIN_WALK_M:
        return _kerb(150.0, 9.0, texture)
    district = near.district
    street = _street(x, y, district, districts, seed)
    half_road = districts[district, DISTRICT_ROAD_M] * 0.5
    distance = min(street.across_u, street.across_v)
    if distance < half_road:
        return _side_street(street, districts[district, DISTRICT_ROAD_M], district, seed, texture)
    if distance < half_road + _WALK_M:
        return _kerb(148.0, 8.0, texture)
    material = _block_material(x, y, near.border_m, districts[district, DISTRICT_KIND], street, district, seed)
    return _block_interior(material, street, districts, district, seed, texture)


@kernel
def paint_ground(rasters: Rasters, districts: NDArray[np.float64], seed: int) -> None:
    """Fill colour, material and district of every cell with the bare ground of the city."""
    colour, material, district = rasters.colour, rasters.material, rasters.district
    rows, columns = material.shape
    for row in range(rows):
        for column in range(columns):
            x, y = column * CELL_M, row * CELL_M
            texture = Texture(
                fractal_noise(x / 60, y / 60, seed + 8),
                fractal_noise(x / 7, y / 7, seed + 3),
                random01(row, column, seed + 5),
            )
            near = _nearest_district(x, y, districts, seed)
            surface = _surface(x, y, near, districts, seed, texture)
            colour[row, column, 0] = min(255.0, max(0.0, surface.red))
            colour[row, column, 1] = min(255.0, max(0.0, surface.green))
            colour[row, column, 2] = min(255.0, max(0.0, surface.blue))
            material[row, column] = surface.material
            district[row, column] = near.district
