"""What colour a ray brings back from the point it hits: facade or ground colour, season, sun, shadow, sky and haze."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dphr_train.cities.acquisition import Light
from dphr_train.cities.buildings import (
    BANDS,
    CURTAIN,
    FACADE_ANGLE,
    FACADE_BLUE,
    FACADE_EAVE_M,
    FACADE_GREEN,
    FACADE_RED,
    FACADE_SEED,
    FACADE_STOREY_M,
    FACADE_STYLE,
    FACADE_WINDOW_M,
    FACADE_WINDOW_SHARE,
    HOLES,
    SMALL_HOLES,
)
from dphr_train.cities.compiled import kernel
from dphr_train.cities.layout import CAR, CELL_M, GRASS, PARKING, ROAD, ROOF, TREE, WATER
from dphr_train.cities.noise import fractal_noise, random01

_OUTSIDE_M = 1.1  # how far in front of a wall has to be free for it to be a wall,
_SHADOW_STEP_M = 0.8  # and where in front of it the shadow is read
_FACET_LIMIT = 1.25  # height differences above this are edges, not slopes (metres over two cells)
_TREE_LIMIT = 3.0
_DETAIL_M = 0.9  # windows fade to their mean where a pixel covers more


class Hit(NamedTuple):
    """Where a ray ended: cell, point (m), whether it came through the cell's side, direction, length, pixel (m)."""

    row: int
    column: int
    x: float
    y: float
    z: float
    side: bool
    dx: float
    dy: float
    distance_m: float
    pixel_m: float


class Tone(NamedTuple):
    """Reflected colour 0..255, unit normal, and share of mirrored sky."""

    red: float
    green: float
    blue: float
    nx: float
    ny: float
    nz: float
    gloss: float


class Wall(NamedTuple):
    """Outward normal of a wall and its number 0..3 around the building."""

    nx: float
    ny: float
    number: int


class Rgb(NamedTuple):
    """A colour, 0..255 and above where bright."""

    red: float
    green: float
    blue: float


@kernel
def _wall(height: NDArray[np.float32], hit: Hit, angle: float) -> Wall:
    """The wall of a building that faces the ray and has free space in front."""
    cos, sin = math.cos(angle), math.sin(angle)
    best, nx, ny, number = -2.0, cos, sin, 0
    for k in range(4):
        ux, uy = cos, sin
        if k == 1:
            ux, uy = -cos, -sin
        elif k == 2:
            ux, uy = -sin, cos
        elif k == 3:
            ux, uy = sin, -cos
        facing = -(hit.dx * ux + hit.dy * uy)
        row, column = int((hit.y + uy * _OUTSIDE_M) / CELL_M), int((hit.x + ux * _OUTSIDE_M) / CELL_M)
        inside = 0 <= row < height.shape[0] and 0 <= column < height.shape[1]
        if inside and height[row, column] >= hit.z:
            facing -= 1.5
        if facing > best:
            best, nx, ny, number = facing, ux, uy, k
    return Wall(nx, ny, number)


@kernel
def _glass_share(style: int, in_storey: float, in_bay: float, window_share: float, pixel_m: float) -> float:
    """1 on a window, 0 beside; fades to the facade's mean where the pixel is too large for the pattern."""
    glass, mean = 0.0, 0.0
    if style == HOLES:
        mean = 0.5 * window_share
        glass = 1.0 if 0.28 < in_storey < 0.78 and abs(in_bay - 0.5) < window_share * 0.5 else 0.0
    elif style == BANDS:
        mean = 0.45
        glass = 1.0 if 0.35 < in_storey < 0.8 else 0.0
    elif style == CURTAIN:
        mean = 0.83
        glass = 1.0 if in_storey > 0.1 and in_bay > 0.07 else 0.0
    elif style == SMALL_HOLES:
        mean = 0.18
        glass = 1.0 if 0.3 < in_storey < 0.75 and abs(in_bay - 0.5) < 0.2 else 0.0
    far = min(1.0, max(0.0, pixel_m / _DETAIL_M - 0.6))
    return glass * (1.0 - far) + mean * far


@kernel
def _shed_tone(along: float, bay: float, in_bay: float, z: float, pixel_m: float) -> float:
    """Brightness of a corrugated wall, with gates at the bottom."""
    ribs = 1.0 if pixel_m > 0.45 else 0.92 + 0.16 * (int(along / 0.8) & 1)
    gate = z < 4.0 and bay % 3 == 0 and in_bay > 0.15
    return ribs * 0.55 if gate else ribs


@kernel
def _facade(height: NDArray[np.float32], facades: NDArray[np.float64], light: Light, hit: Hit, building: int) -> Tone:
    wall = _wall(height, hit, facades[building, FACADE_ANGLE])
    along = -(hit.x + light.origin_x) * wall.ny + (hit.y + light.origin_y) * wall.nx
    storey_at, bay_at = hit.z / facades[building, FACADE_STOREY_M], along / facades[building, FACADE_WINDOW_M]
    storey, bay = int(math.floor(storey_at)), int(math.floor(bay_at))
    in_storey, in_bay = storey_at - storey, bay_at - bay
    seed, style = int(facades[building, FACADE_SEED]), int(facades[building, FACADE_STYLE])
    tone = 1.0 + 0.12 * (fractal_noise(along / 3, hit.z / 3, seed & 1023) - 0.5)
    glass = _glass_share(style, in_storey, in_bay, facades[building, FACADE_WINDOW_SHARE], hit.pixel_m)
    if style > CURTAIN and style != SMALL_HOLES:
        tone *= _shed_tone(along, bay, in_bay, hit.z, hit.pixel_m)
    if style == HOLES and in_storey > 0.93:  # string course
        tone *= 0.88
    red, green = facades[building, FACADE_RED] * tone, facades[building, FACADE_GREEN] * tone
    blue = facades[building, FACADE_BLUE] * tone
    if glass > 0.0:
        lit = random01(storey, bay + wall.number * 977, seed)
        pane = 60 + 30 * lit if style == CURTAIN else 34 + 46 * lit
        red, green, blue = (
            red * (1 - glass) + glass * pane * 0.8,
            green * (1 - glass) + glass * pane * 0.95,
            blue * (1 - glass) + glass * pane * 1.12,
        )
        if lit > 0.93:
            red, green, blue = red + 40 * glass, green + 38 * glass, blue + 32 * glass
    return Tone(red, green, blue, wall.nx, wall.ny, 0.0, 0.12 * glass)


@kernel
def _slope(difference: float, limit: float, keep: bool) -> float:
    """Height difference over two cells; beyond the limit an edge: flattened, or kept at the limit for trees."""
    if abs(difference) <= limit:
        return difference
    return math.copysign(limit, difference) if keep else 0.0


@kernel
def _season(red: float, green: float, blue: float, material: int, tree: int, light: Light) -> Rgb:
    """Autumn leaves, tree by tree, and dry grass."""
    mean = (red + green + blue) / 3.0
    if material == TREE:
        share = min(1.0, light.autumn * (0.35 + 1.3 * random01(tree, 7, 3)))
        hue = random01(tree, 9, 4)
        to_red, to_green, to_blue = 1.55 - 0.15 * hue, 1.05 - 0.3 * hue, 0.5
    else:
        share = light.dryness
        to_red, to_green, to_blue = 1.32, 1.14, 0.74
    return Rgb(
        red * (1 - share) + share * mean * to_red,
        green * (1 - share) + share * mean * to_green,
        blue * (1 - share) + share * mean * to_blue,
    )


@kernel
def _side_dimming(material: int, side: bool, below_top_m: float) -> float:
    """How much darker the sides of trees, cars and roof objects are than their tops."""
    if material == TREE:
        return max(0.35, 1.0 - below_top_m * 0.09)
    if side and below_top_m > 0.8:
        return 0.6 if material == CAR else 0.8
    return 0.75 if side and material == CAR and below_top_m > 0.3 else 1.0


@kernel
def _surface(
    height: NDArray[np.float32],
    colour: NDArray[np.uint8],
    material: int,
    tree: int,
    light: Light,
    hit: Hit,
) -> Tone:
    """Ground, roofs, trees and cars: everything that is not a wall."""
    row, column = hit.row, hit.column
    red, green = float(colour[row, column, 0]), float(colour[row, column, 1])
    blue = float(colour[row, column, 2])
    nx, ny, nz = 0.0, 0.0, 1.0
    inside = 0 < row < height.shape[0] - 1 and 0 < column < height.shape[1] - 1
    if inside and material != ROAD and material != PARKING:
        limit = _TREE_LIMIT if material == TREE else _FACET_LIMIT
        east = _slope(float(height[row, column + 1] - height[row, column - 1]), limit, material == TREE)
        south = _slope(float(height[row + 1, column] - height[row - 1, column]), limit, material == TREE)
        length = math.sqrt(east * east + south * south + 1.0)
        nx, ny, nz = -east / length, -south / length, 1.0 / length
    dim = _side_dimming(material, hit.side, height[row, column] - hit.z)
    red, green, blue = red * dim, green * dim, blue * dim
    if material == TREE or material == GRASS:
        season = _season(red, green, blue, material, tree, light)
        red, green, blue = season.red, season.green, season.blue
    return Tone(red, green, blue, nx, ny, nz, 0.35 if material == WATER else 0.0)


@kernel
def _sunlit(shadow_m: NDArray[np.float32], hit: Hit, tone: Tone) -> float:
    """Share of direct sun at the point, 0 in shadow .. 1, soft over 0.6 m."""
    row, column = hit.row, hit.column
    if hit.side and tone.nz == 0.0:  # in front of the wall, not inside it
        front = int((hit.y + tone.ny * _SHADOW_STEP_M) / CELL_M)
        beside = int((hit.x + tone.nx * _SHADOW_STEP_M) / CELL_M)
        if 0 <= front < shadow_m.shape[0] and 0 <= beside < shadow_m.shape[1]:
            row, column = front, beside
    return min(1.0, max(0.0, (hit.z + 0.25 - float(shadow_m[row, column])) / 0.6))


@kernel
def through_haze(red: float, green: float, blue: float, distance_m: float, light: Light) -> Rgb:
    """A colour seen through `distance_m` of haze."""
    haze = 1.0 - math.exp(-distance_m / light.haze_m)
    return Rgb(
        red * (1 - haze) + light.haze_red * haze,
        green * (1 - haze) + light.haze_green * haze,
        blue * (1 - haze) + light.haze_blue * haze,
    )


@kernel
def shade(
    height: NDArray[np.float32],
    colour: NDArray[np.uint8],
    material: NDArray[np.uint8],
    object_id: NDArray[np.int32],
    facades: NDArray[np.float64],
    shadow_m: NDArray[np.float32],
    ambient_m: NDArray[np.float32],
    light: Light,
    hit: Hit,
) -> Rgb:
    """Radiance of a hit as Rgb: material lit by sun and sky, mirrored sky on glass and water, haze on the way.

    The arrays are those of a Scene. They come one by one, because a tuple of arrays costs an atomic count per array
    and ray.
    """
    ground, thing = material[hit.row, hit.column], object_id[hit.row, hit.column]
    if hit.side and ground == ROOF and thing > 0 and hit.z < facades[thing, FACADE_EAVE_M] + 0.1:
        tone = _facade(height, facades, light, hit, thing)
    else:
        tone = _surface(height, colour, ground, thing, light, hit)
    sunlit = _sunlit(shadow_m, hit, tone)
    open_sky = min(1.0, max(0.45, 1.0 - (ambient_m[hit.row, hit.column] - hit.z) / 22.0))
    return _lit(tone, light, sunlit, open_sky, hit.distance_m)


@kernel
def _lit(tone: Tone, light: Light, sunlit: float, open_sky: float, distance_m: float) -> Rgb:
    """A surface in the light of sun and sky, as seen from `distance_m` away."""
    facing = max(0.0, tone.nx * light.sun_x + tone.ny * light.sun_y + tone.nz * light.sun_z)
    direct = facing * sunlit * light.sun_strength
    diffuse = open_sky * (0.62 + 0.38 * tone.nz)
    red = tone.red * (direct * light.sun_red + diffuse * light.sky_red)
    green = tone.green * (direct * light.sun_green + diffuse * light.sky_green)
    blue = tone.blue * (direct * light.sun_blue + diffuse * light.sky_blue)
    if tone.gloss > 0.0:
        matt, mirror = 1.0 - tone.gloss, tone.gloss * 1.6
        red = red * matt + mirror * 170 * light.sky_red
        green = green * matt + mirror * 178 * light.sky_green
        blue = blue * matt + mirror * 186 * light.sky_blue
    return through_haze(red, green, blue, distance_m, light)
