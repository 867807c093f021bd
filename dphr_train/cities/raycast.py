"""The ray caster: rays through a height field, block by block where nothing is high enough, cell by cell elsewhere."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dphr_train.cities.acquisition import BLOCK_CELLS, Acquisition, Light, Scene
from dphr_train.cities.camera import Rays
from dphr_train.cities.compiled import kernel
from dphr_train.cities.layout import CELL_M
from dphr_train.cities.noise import fractal_noise
from dphr_train.cities.shading import Hit, Rgb, shade, through_haze

_NUDGE_M = 1e-4  # past a cell's border, so that the next step is in the next cell
_MAX_STEPS = 4000
_HORIZON = -0.02  # rays flatter than this see haze only
_PARALLEL_HAZE = 0.12  # haze of a satellite picture, in haze lengths


class Basis(NamedTuple):
    """The vectors of camera.Rays as numbers: start (m, in the window), forward, right, down."""

    start_x: float
    start_y: float
    start_z: float
    forward_x: float
    forward_y: float
    forward_z: float
    right_x: float
    right_y: float
    right_z: float
    down_x: float
    down_y: float
    down_z: float


class Ray(NamedTuple):
    """Start (m), unit direction, and what its horizontal parts divide by."""

    x: float
    y: float
    z: float
    dx: float
    dy: float
    dz: float
    inverse_dx: float
    inverse_dy: float


class Contact(NamedTuple):
    """Where a ray met the city: whether it did, after how many metres, in which cell, through its side or its top."""

    hit: bool
    t: float
    row: int
    column: int
    side: bool


@kernel
def _exit(start: float, inverse: float, border_low: float, border_high: float) -> float:
    """Ray length at which a coordinate leaves [border_low, border_high]; `inverse` is 1 / its direction."""
    return ((border_high if inverse > 0 else border_low) - start) * inverse


@kernel
def _march(height: NDArray[np.float32], coarse: NDArray[np.float32], ray: Ray, highest_m: float) -> Contact:
    """Follow a ray that points down until it meets the height field or leaves it."""
    if ray.dz > _HORIZON:
        return Contact(False, 0.0, 0, 0, False)
    rows, columns = height.shape
    ground = -ray.z / ray.dz
    t = (highest_m - ray.z) / ray.dz if ray.z > highest_m else 0.0
    side = False
    block_m = BLOCK_CELLS * CELL_M
    for _ in range(_MAX_STEPS):
        column, row = int(math.floor((ray.x + ray.dx * t) / CELL_M)), int(math.floor((ray.y + ray.dy * t) / CELL_M))
        if column < 0 or row < 0 or column >= columns or row >= rows:
            break
        block_row, block_column = row // BLOCK_CELLS, column // BLOCK_CELLS
        leave = min(
            _exit(ray.x, ray.inverse_dx, block_column * block_m, (block_column + 1) * block_m),
            _exit(ray.y, ray.inverse_dy, block_row * block_m, (block_row + 1) * block_m),
        )
        if leave < ground and ray.z + ray.dz * leave > coarse[block_row, block_column]:
            t, side = leave + _NUDGE_M, True
            continue
        top = height[row, column]
        if ray.z + ray.dz * t <= top:
            return Contact(True, t, row, column, side)
        leave = min(
            _exit(ray.x, ray.inverse_dx, column * CELL_M, (column + 1) * CELL_M),
            _exit(ray.y, ray.inverse_dy, row * CELL_M, (row + 1) * CELL_M),
        )
        if ray.z + ray.dz * leave <= top:
            return Contact(True, (top - ray.z) / ray.dz, row, column, False)
        t, side = leave + _NUDGE_M, True
    return Contact(False, ground, 0, 0, False)


@kernel
def _background(ray: Ray, t: float, light: Light) -> Rgb:
    """What lies outside the city: haze above the horizon, fields below."""
    if ray.dz > _HORIZON:
        return Rgb(light.haze_red, light.haze_green, light.haze_blue)
    x, y = ray.x + ray.dx * t + light.origin_x, ray.y + ray.dy * t + light.origin_y
    tone = 0.55 + 0.5 * fractal_noise(x / 30, y / 30, 5)
    return through_haze(100 * tone, 106 * tone, 88 * tone, t, light)


@kernel
def _inverse(value: float) -> float:
    """1 / value; for a ray that runs along an axis a large positive number, so that it never ends at its start."""
    return 1e7 if abs(value) < 1e-7 else 1.0 / value


@kernel
def _ray(basis: Basis, u: float, v: float, perspective: bool) -> Ray:
    aside_x, aside_y = u * basis.right_x + v * basis.down_x, u * basis.right_y + v * basis.down_y
    aside_z = u * basis.right_z + v * basis.down_z
    x, y, z = basis.start_x, basis.start_y, basis.start_z
    dx, dy, dz = basis.forward_x, basis.forward_y, basis.forward_z
    if perspective:
        dx, dy, dz = dx + aside_x, dy + aside_y, dz + aside_z
        length = math.sqrt(dx * dx + dy * dy + dz * dz)
        dx, dy, dz = dx / length, dy / length, dz / length
    else:
        x, y, z = x + aside_x, y + aside_y, z + aside_z
    return Ray(x, y, z, dx, dy, dz, _inverse(dx), _inverse(dy))


@kernel
def _hit(contact: Contact, ray: Ray, perspective: bool, pixel: float, light: Light) -> Hit:
    """A contact for shading; `pixel` is its size in metres, per metre of distance for a perspective camera."""
    t = contact.t
    distance_m, pixel_m = (t, t * pixel) if perspective else (light.haze_m * _PARALLEL_HAZE, pixel)
    x, y, z = ray.x + ray.dx * t, ray.y + ray.dy * t, ray.z + ray.dz * t
    return Hit(contact.row, contact.column, x, y, z, contact.side, ray.dx, ray.dy, distance_m, pixel_m)


@kernel
def _cast(
    scene: Scene, light: Light, basis: Basis, scale: float, perspective: bool, samples: int, image: NDArray[np.float32]
) -> None:
    """Fill image float32 (H, W, 3) with the mean of samples x samples rays per pixel."""
    height, colour, material, object_id = scene.height, scene.colour, scene.material, scene.object_id
    facades, shadow_m, ambient_m, coarse_m = scene.facades, scene.shadow_m, scene.ambient_m, scene.coarse_m
    rows, columns = image.shape[0], image.shape[1]
    pixel, share = scale * 2.0 / columns / samples, 1.0 / (samples * samples)
    for row in range(rows):
        for column in range(columns):
            red, green, blue = 0.0, 0.0, 0.0
            for k in range(samples * samples):
                u = ((column + (k % samples + 0.5) / samples) / columns * 2.0 - 1.0) * scale
                v = ((row + (k // samples + 0.5) / samples) / rows * 2.0 - 1.0) * scale * rows / columns
                ray = _ray(basis, u, v, perspective)
                contact = _march(height, coarse_m, ray, light.highest_m)
                if contact.hit:
                    hit = _hit(contact, ray, perspective, pixel, light)
                    rgb = shade(height, colour, material, object_id, facades, shadow_m, ambient_m, light, hit)
                else:
                    rgb = _background(ray, contact.t, light)
                red, green, blue = red + rgb.red, green + rgb.green, blue + rgb.blue
            image[row, column, 0] = red * share
            image[row, column, 1] = green * share
            image[row, column, 2] = blue * share


def render(
    acquisition: Acquisition, rays: Rays, width_px: int, height_px: int, supersampling: int
) -> NDArray[np.float32]:
    """Radiance float32 (height_px, width_px, 3), about 0..255, of the rays through an acquisition."""
    light = acquisition.light
    start = rays.start - np.array((light.origin_x, light.origin_y, 0.0))
    basis = Basis(*np.concatenate((start, rays.forward, rays.right, rays.down)).tolist())
    image = np.zeros((height_px, width_px, 3), np.float32)
    _cast(acquisition.scene, light, basis, float(rays.scale), rays.perspective, supersampling, image)
    return image
