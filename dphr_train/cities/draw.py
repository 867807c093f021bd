"""Kernels that put one thing on the rasters of a city: a building, a box, trees. Angles run clockwise from above."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dphr_train.cities.compiled import kernel
from dphr_train.cities.layout import CAR, CELL_M, PARKING, ROAD, ROOF, TREE, WATER, Rasters
from dphr_train.cities.noise import fractal_noise, random01

FLAT, GABLE, HIP, SAWTOOTH, BARREL = range(5)

ANYWHERE = -1  # a box is drawn on every material,
OPEN_GROUND = -2  # or on everything but roofs and roads; a material's own number restricts it to that material

_CLEARANCE_M = 2.0  # a building keeps this distance from roads, roofs and water
_PARAPET_M = 0.6  # width of the raised edge of a flat roof,
_PARAPET_HEIGHT_M = 0.9  # and its height
_SAWTOOTH_M = 8.0
_SAWTOOTH_RISE_M = 2.5


@kernel
def _reach(rects: NDArray[np.float64]) -> float:
    """Radius in metres of the circle that holds every rectangle, with some room."""
    widest = 0.0
    for i in range(rects.shape[0]):
        for j in range(4):
            widest = max(widest, abs(rects[i, j]))
    return widest * 1.4143 + 3.0


@kernel
def footprint_is_free(
    rasters: Rasters, x: float, y: float, angle: float, rects: NDArray[np.float64], district: int
) -> bool:
    """Whether a building fits: inside the raster and its district, 2 m from road, roof and water.

    Args:
        rects: float64 (R, 4), u0, v0, u1, v1 in metres around (x, y), turned by `angle` (rad).
    """
    rows, columns = rasters.height.shape
    reach = _reach(rects)
    row0, row1 = int((y - reach) / CELL_M), int((y + reach) / CELL_M) + 1
    column0, column1 = int((x - reach) / CELL_M), int((x + reach) / CELL_M) + 1
    if y < reach or x < reach or row1 >= rows or column1 >= columns:
        return False
    cos, sin = math.cos(angle), math.sin(angle)
    for row in range(row0, row1):
        for column in range(column0, column1):
            dx, dy = column * CELL_M - x, row * CELL_M - y
            u, v = dx * cos + dy * sin, -dx * sin + dy * cos
            for i in range(rects.shape[0]):
                inside_u = rects[i, 0] - _CLEARANCE_M < u < rects[i, 2] + _CLEARANCE_M
                inside_v = rects[i, 1] - _CLEARANCE_M < v < rects[i, 3] + _CLEARANCE_M
                if inside_u and inside_v:
                    material = rasters.material[row, column]
                    if material == ROAD or material == ROOF or material == WATER:
                        return False
                    if rasters.district[row, column] != district:
                        return False
    return True


@kernel
def _roof_height(
    roof: int, eave_m: float, slope: float, along_m: float, edge_u: float, edge_v: float, size_u: float, size_v: float
) -> float:
    """Height of a roof at a point that lies edge_u and edge_v inside the rectangle's sides."""
    wide = size_u >= size_v
    across, width = (edge_v, size_v) if wide else (edge_u, size_u)
    if roof == GABLE:
        return eave_m + slope * across
    if roof == HIP:
        return eave_m + slope * min(edge_u, edge_v)
    if roof == SAWTOOTH:
        phase = along_m / _SAWTOOTH_M
        return eave_m + _SAWTOOTH_RISE_M * (phase - math.floor(phase))
    if roof == BARREL:
        q = across / width * 2.0 - 1.0
        return eave_m + 0.22 * width * math.sqrt(max(0.0, 1.0 - q * q))
    return eave_m


@kernel
def _roof_tone(
    roof: int, u: float, v: float, edge_m: float, along_m: float, building: int, seed: int, fine: float
) -> float:
    """Brightness of the roof's covering, about 1: stains, tile rows, parapet, glass of a sawtooth."""
    tone = 1.0 + 0.18 * (fractal_noise(u / 5 + building, v / 5, seed) - 0.5) + 0.08 * (fine - 0.5)
    if roof == FLAT:
        if edge_m < _PARAPET_M:
            tone *= 1.12
        elif fractal_noise(u / 14 + building * 3, v / 14, seed + 4) > 0.58:
            tone *= 0.86
    elif roof == GABLE or roof == HIP:
        tone *= 1.05 if int(edge_m / 0.8) & 1 else 0.95
    elif roof == SAWTOOTH:
        phase = along_m / _SAWTOOTH_M
        if phase - math.floor(phase) > 0.8:
            tone *= 0.55
    return tone


@kernel
def draw_building(
    rasters: Rasters,
    x: float,
    y: float,
    angle: float,
    rects: NDArray[np.float64],
    roof: int,
    eave_m: float,
    slope: float,
    colour: NDArray[np.float64],
    building: int,
    seed: int,
) -> None:
    """Raise a building over the union of `rects` (see footprint_is_free) and cover it with its roof.

    Args:
        colour:   float64 (3,), roof colour 0..255.
        building: its object id, above 0.
    """
    reach = _reach(rects)
    cos, sin = math.cos(angle), math.sin(angle)
    for row in range(int((y - reach) / CELL_M), int((y + reach) / CELL_M) + 1):
        for column in range(int((x - reach) / CELL_M), int((x + reach) / CELL_M) + 1):
            dx, dy = column * CELL_M - x, row * CELL_M - y
            u, v = dx * cos + dy * sin, -dx * sin + dy * cos
            top, edge, along = -1.0, 0.0, 0.0
            for i in range(rects.shape[0]):
                u0, v0, u1, v1 = rects[i, 0], rects[i, 1], rects[i, 2], rects[i, 3]
                if u0 < u < u1 and v0 < v < v1:
                    edge_u, edge_v = min(u - u0, u1 - u), min(v - v0, v1 - v)
                    height = _roof_height(roof, eave_m, slope, u - u0, edge_u, edge_v, u1 - u0, v1 - v0)
                    if height > top:
                        top, along = height, u - u0
                    edge = max(edge, min(edge_u, edge_v))
            if top < 0.0:
                continue
            if roof == FLAT and edge < _PARAPET_M:
                top += _PARAPET_HEIGHT_M
            tone = _roof_tone(roof, u, v, edge, along, building, seed, random01(row, column, seed + 1))
            rasters.height[row, column] = max(rasters.height[row, column], top)
            for channel in range(3):
                rasters.colour[row, column, channel] = min(255.0, max(0.0, colour[channel] * tone))
            rasters.material[row, column] = ROOF
            rasters.object_id[row, column] = building


@kernel
def draw_box(
    rasters: Rasters,
    x: float,
    y: float,
    angle: float,
    half_u: float,
    half_v: float,
    top_m: float,
    stacked: bool,
    colour: NDArray[np.float64],
    material: int,
    where: int,
) -> None:
    """Draw a box of 2 half_u x 2 half_v metres.

    Args:
        top_m:    height of its top; above what is there when `stacked`, above the ground otherwise.
        colour:   float64 (3,), 0..255.
        material: what it is made of, or ANYWHERE to keep the material below.
        where:    ANYWHERE, OPEN_GROUND or the only material it may cover.
    """
    rows, columns = rasters.height.shape
    reach = math.sqrt(half_u * half_u + half_v * half_v) + 1.0
    cos, sin = math.cos(angle), math.sin(angle)
    for row in range(max(0, int((y - reach) / CELL_M)), min(rows, int((y + reach) / CELL_M) + 2)):
        for column in range(max(0, int((x - reach) / CELL_M)), min(columns, int((x + reach) / CELL_M) + 2)):
            dx, dy = column * CELL_M - x, row * CELL_M - y
            u, v = dx * cos + dy * sin, -dx * sin + dy * cos
            if abs(u) > half_u or abs(v) > half_v:
                continue
            below = rasters.material[row, column]
            if where >= 0 and below != where:
                continue
            if where == OPEN_GROUND and (below == ROOF or below == ROAD):
                continue
            height = rasters.height[row, column]
            rasters.height[row, column] = height + top_m if stacked else max(height, top_m)
            windscreen = material == CAR and -half_u * 0.1 < u < half_u * 0.35
            tone = 0.45 if windscreen else 1.0
            for channel in range(3):
                rasters.colour[row, column, channel] = min(255.0, max(0.0, colour[channel] * tone))
            if material >= 0:
                rasters.material[row, column] = material


@kernel
def _crown_height(distance: float, height_m: float, conifer: bool) -> float:
    """Height of a tree's surface at `distance` (0 trunk .. 1 rim)."""
    if conifer:
        return height_m * ((1.0 - distance) * 0.8 + 0.2)
    return height_m * (0.45 + 0.55 * math.sqrt(1.0 - distance * distance))


@kernel
def _draw_tree(rasters: Rasters, tree: NDArray[np.float64], number: int, seed: int) -> None:
    rows, columns = rasters.height.shape
    x, y, radius = tree[0], tree[1], tree[2]
    for row in range(max(0, int((y - radius) / CELL_M)), min(rows, int((y + radius) / CELL_M) + 2)):
        for column in range(max(0, int((x - radius) / CELL_M)), min(columns, int((x + radius) / CELL_M) + 2)):
            dx, dy = column * CELL_M - x, row * CELL_M - y
            leaves = fractal_noise(column * CELL_M / 1.6, row * CELL_M / 1.6, seed + 5)
            distance = math.sqrt(dx * dx + dy * dy) / (radius * (0.75 + 0.5 * leaves))
            if distance >= 1.0 or rasters.material[row, column] == ROOF:
                continue
            top = _crown_height(distance, tree[3], tree[5] > 0.5) + 1.6 * (leaves - 0.5)
            if top <= rasters.height[row, column]:
                continue
            rasters.height[row, column] = top
            light = 0.72 + 0.55 * leaves + 0.18 * (random01(row, column, seed + 11) - 0.5)
            rasters.colour[row, column, 0] = min(255.0, (52 + 34 * tree[4]) * light)
            rasters.colour[row, column, 1] = min(255.0, (80 + 22 * tree[4]) * light)
            rasters.colour[row, column, 2] = min(255.0, (40 + 8 * tree[4]) * light)
            rasters.material[row, column] = TREE
            rasters.object_id[row, column] = -1 - number


@kernel
def draw_trees(rasters: Rasters, trees: NDArray[np.float64], seed: int) -> None:
    """Grow trees; none on roads, car parks, roofs or water.

    Args:
        trees: float64 (T, 6), x, y, radius, height in metres, tone 0..1, 1 for a conifer.
    """
    rows, columns = rasters.height.shape
    for i in range(trees.shape[0]):
        row = min(rows - 1, max(0, int(trees[i, 1] / CELL_M)))
        column = min(columns - 1, max(0, int(trees[i, 0] / CELL_M)))
        ground = rasters.material[row, column]
        if ground != ROAD and ground != PARKING and ground != ROOF and ground != WATER:
            _draw_tree(rasters, trees[i], i, seed)
