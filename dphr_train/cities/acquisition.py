"""One moment over one window of a city: sun, season, haze, clouds and cars, each drawn from the acquisition's seed.

Shadows and ambient light are swept once over the window; every picture of the acquisition reads them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dphr_train.cities.buildings import CAR_COLOURS
from dphr_train.cities.city import City
from dphr_train.cities.compiled import kernel
from dphr_train.cities.draw import draw_box
from dphr_train.cities.layout import CAR, CELL_M, PARKING, PAVED, ROAD, Rasters

BLOCK_CELLS = 16  # cells per side of a block of the coarse height raster

_AMBIENT_CELLS = 14  # radius of the mean height that dims ambient light, in cells
_CAR_HALF_M = (2.2, 0.95)
_CAR_HEIGHT_M = 1.4
_CAR_COLOURS = np.array(CAR_COLOURS, np.float64)
_SKY = (0.42, 0.46, 0.53)
_HAZE = (186.0, 196.0, 208.0)
_SUN_STRENGTH = 1.05


@dataclass(frozen=True, slots=True)
class Conditions:
    """What makes two acquisitions of one place differ.

    Attributes:
        seed:              of the cars and, with the view, of the sensor.
        sun_azimuth_deg:   clockwise from north.
        sun_elevation_deg: above the horizon.
        autumn:            0 green trees .. 1 autumn leaves.
        dryness:           0 lush grass .. 1 dry grass.
        cloudiness:        0 clear .. 1 overcast: less direct and more diffuse light.
        haze_m:            distance at which haze hides 63 % of the light.
        car_share:         how full streets and car parks are, about 1.
    """

    seed: int
    sun_azimuth_deg: float
    sun_elevation_deg: float
    autumn: float = 0.0
    dryness: float = 0.0
    cloudiness: float = 0.0
    haze_m: float = 4000.0
    car_share: float = 1.0


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a city in cells: rows row0..row1 and columns column0..column1, ends excluded."""

    row0: int
    row1: int
    column0: int
    column1: int


class Scene(NamedTuple):
    """What the ray caster reads: the rasters of a window with its cars, and what was swept over them.

    height, colour, material, object_id: see Rasters; facades: see City; shadow_m float32 (R, C): below this height a
    point lies in shadow; ambient_m float32 (R, C): mean height around; coarse_m float32 (R/16, C/16): greatest height
    in a block. Few flat arrays, because every array handed to a kernel's function costs an atomic count.
    """

    height: NDArray[np.float32]
    colour: NDArray[np.uint8]
    material: NDArray[np.uint8]
    object_id: NDArray[np.int32]
    facades: NDArray[np.float64]
    shadow_m: NDArray[np.float32]
    ambient_m: NDArray[np.float32]
    coarse_m: NDArray[np.float32]


class Light(NamedTuple):
    """Sun direction (x east, y south, z up), strengths, colours, season, and where the window begins (m)."""

    sun_x: float
    sun_y: float
    sun_z: float
    sun_strength: float
    sky_red: float
    sky_green: float
    sky_blue: float
    sun_red: float
    sun_green: float
    sun_blue: float
    haze_red: float
    haze_green: float
    haze_blue: float
    haze_m: float
    autumn: float
    dryness: float
    origin_x: float
    origin_y: float
    highest_m: float


@dataclass(frozen=True, slots=True, eq=False)
class Acquisition:
    """A window of a city at one moment, ready to be photographed."""

    conditions: Conditions
    scene: Scene
    light: Light


def whole_city(city: City) -> Window:
    """The window that holds all of a city."""
    rows, columns = city.rasters.height.shape
    return Window(0, rows, 0, columns)


def window_around(city: City, x0: float, y0: float, x1: float, y1: float) -> Window:
    """The window from (x0, y0) to (x1, y1) in local metres, cut off at the edge of the city."""

    def cell(metres: float, limit: int) -> int:
        return min(max(round(metres / CELL_M), 0), limit)

    rows, columns = city.rasters.height.shape
    return Window(cell(y0, rows), cell(y1, rows), cell(x0, columns), cell(x1, columns))


def acquire(city: City, window: Window, conditions: Conditions) -> Acquisition:
    """Put cars on a window of the city and light it."""
    rasters = _copy_window(city.rasters, window)
    origin_x, origin_y = window.column0 * CELL_M, window.row0 * CELL_M
    _park_cars(city, rasters, origin_x, origin_y, conditions)
    azimuth, elevation = math.radians(conditions.sun_azimuth_deg), math.radians(conditions.sun_elevation_deg)
    shadow = np.zeros_like(rasters.height)
    sweep_shadow(rasters.height, math.sin(azimuth), -math.cos(azimuth), math.tan(elevation), shadow)
    ambient = np.zeros_like(rasters.height)
    mean_height(rasters.height, _AMBIENT_CELLS, ambient)
    rows, columns = rasters.height.shape
    coarse = np.zeros((-(-rows // BLOCK_CELLS), -(-columns // BLOCK_CELLS)), np.float32)
    greatest_height(rasters.height, coarse)
    scene = Scene(
        rasters.height, rasters.colour, rasters.material, rasters.object_id, city.facades, shadow, ambient, coarse
    )
    return Acquisition(conditions, scene, _light(conditions, origin_x, origin_y, float(rasters.height.max())))


def _copy_window(rasters: Rasters, window: Window) -> Rasters:
    """The window's rasters; copied where cars change them."""
    rows, columns = slice(window.row0, window.row1), slice(window.column0, window.column1)
    return Rasters(
        rasters.height[rows, columns].copy(),
        rasters.colour[rows, columns].copy(),
        rasters.material[rows, columns].copy(),
        np.ascontiguousarray(rasters.object_id[rows, columns]),
        np.zeros((1, 1), np.int16),  # districts matter to building only
    )


def _light(conditions: Conditions, origin_x: float, origin_y: float, highest_m: float) -> Light:
    azimuth, elevation = math.radians(conditions.sun_azimuth_deg), math.radians(conditions.sun_elevation_deg)
    warmth = (elevation - 0.3) * 0.25  # a low sun is redder
    sky_red, sky_green, sky_blue = (value * (1 + 0.5 * conditions.cloudiness) for value in _SKY)
    haze_red, haze_green, haze_blue = (value * (0.8 + 0.2 * math.sin(elevation)) for value in _HAZE)
    return Light(
        math.sin(azimuth) * math.cos(elevation),
        -math.cos(azimuth) * math.cos(elevation),
        math.sin(elevation),
        _SUN_STRENGTH * (1 - 0.85 * conditions.cloudiness),
        sky_red,
        sky_green,
        sky_blue,
        1.06 - warmth * 0.1,
        1.0,
        0.90 + warmth * 0.2,
        haze_red,
        haze_green,
        haze_blue,
        float(conditions.haze_m),
        float(conditions.autumn),
        float(conditions.dryness),
        origin_x,
        origin_y,
        highest_m + 0.1,
    )


def _park_cars(city: City, rasters: Rasters, origin_x: float, origin_y: float, conditions: Conditions) -> None:
    """Draw for every slot of the city whether a car stands there, so that windows of one acquisition agree."""
    rng = np.random.default_rng([city.seed, conditions.seed, 99])
    slots = city.slots
    draw, which = rng.random(len(slots)), rng.integers(len(_CAR_COLOURS), size=len(slots))
    turned, fullness = rng.integers(2, size=len(slots)), rng.uniform(0.3, 1.1) * conditions.car_share
    rows, columns = rasters.height.shape
    inside = (slots[:, 0] > origin_x) & (slots[:, 0] < origin_x + columns * CELL_M)
    inside &= (slots[:, 1] > origin_y) & (slots[:, 1] < origin_y + rows * CELL_M)
    taken = np.nonzero((draw < slots[:, 3] * fullness) & inside)[0]
    cars = np.stack(
        (slots[taken, 0] - origin_x, slots[taken, 1] - origin_y, slots[taken, 2] + math.pi * turned[taken]), axis=1
    )
    draw_cars(rasters, np.ascontiguousarray(cars), _CAR_COLOURS[which[taken]])


@kernel
def draw_cars(rasters: Rasters, cars: NDArray[np.float64], colours: NDArray[np.float64]) -> None:
    """Draw cars on roads and car parks.

    Args:
        cars:    float64 (K, 3), x, y (m) and direction (rad).
        colours: float64 (K, 3), 0..255.
    """
    rows, columns = rasters.height.shape
    for i in range(cars.shape[0]):
        row, column = int(cars[i, 1] / CELL_M), int(cars[i, 0] / CELL_M)
        if row >= rows or column >= columns:
            continue
        below = rasters.material[row, column]
        if below == ROAD or below == PARKING or below == PAVED:
            x, y, angle = cars[i, 0], cars[i, 1], cars[i, 2]
            draw_box(
                rasters, x, y, angle, _CAR_HALF_M[0], _CAR_HALF_M[1], _CAR_HEIGHT_M, True, colours[i], CAR, int(below)
            )


@kernel
def sweep_shadow(
    height: NDArray[np.float32], sun_x: float, sun_y: float, slope: float, shadow: NDArray[np.float32]
) -> None:
    """Height below which each cell lies in shadow, in one sweep that walks away from the sun.

    A cell is shaded up to the top (or the shadow) of its neighbour toward the sun, less the sun's descent on the way.

    Args:
        height: float32 (R, C), metres.
        sun_x, sun_y: horizontal unit vector toward the sun (east, south).
        slope:  tangent of the sun's elevation.
        shadow: float32 (R, C), zeros; filled in.
    """
    rows, columns = height.shape
    by_column = abs(sun_x) >= abs(sun_y)
    major = abs(sun_x) if by_column else abs(sun_y)
    drop = CELL_M / major * slope
    slant = (sun_y if by_column else sun_x) / major
    steps, width = (columns, rows) if by_column else (rows, columns)
    step = 1 if (sun_x if by_column else sun_y) > 0 else -1
    first = steps - 1 if step > 0 else 0
    shift = int(math.floor(slant))
    share = slant - shift
    for k in range(1, steps):
        here = first - step * k
        toward = here + step
        for j in range(width):
            a = min(max(j + shift, 0), width - 1)
            b = min(max(j + shift + 1, 0), width - 1)
            if by_column:
                near = max(height[a, toward], shadow[a, toward])
                far = max(height[b, toward], shadow[b, toward])
                shadow[j, here] = near * (1 - share) + far * share - drop
            else:
                near = max(height[toward, a], shadow[toward, a])
                far = max(height[toward, b], shadow[toward, b])
                shadow[here, j] = near * (1 - share) + far * share - drop


@kernel
def mean_height(height: NDArray[np.float32], radius: int, out: NDArray[np.float32]) -> None:
    """Mean over a square of 2 radius + 1 cells; what lies outside the raster counts as 0. Fills `out`."""
    rows, columns = height.shape
    across = np.empty_like(height)
    for row in range(rows):
        total = 0.0
        for column in range(-radius, columns):
            if column + radius < columns:
                total += height[row, column + radius]
            if column - radius - 1 >= 0:
                total -= height[row, column - radius - 1]
            if column >= 0:
                across[row, column] = total
    area = (2 * radius + 1) ** 2
    total_of = np.zeros(columns)
    for row in range(-radius, rows):
        for column in range(columns):
            if row + radius < rows:
                total_of[column] += across[row + radius, column]
            if row - radius - 1 >= 0:
                total_of[column] -= across[row - radius - 1, column]
            if row >= 0:
                out[row, column] = total_of[column] / area


@kernel
def greatest_height(height: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Greatest height in every block of BLOCK_CELLS x BLOCK_CELLS cells; out starts as zeros."""
    rows, columns = height.shape
    for row in range(rows):
        for column in range(columns):
            block_row, block_column = row // BLOCK_CELLS, column // BLOCK_CELLS
            if height[row, column] > out[block_row, block_column]:
                out[block_row, block_column] = height[row, column]
