"""Repeatable randomness by position: an integer hash and smooth noise made of it. The same on every machine."""

from __future__ import annotations

import math

from dphr_train.cities.compiled import kernel, small_kernel, uint32

_MIX_A, _MIX_B, _MIX_C = 374761393, 668265263, 2246822519
_STIR_1, _STIR_2 = 1274126177, 2654435761
_UNIT = 1.0 / 16777216.0


@small_kernel
def random01(a: int, b: int, c: int) -> float:
    """A number in [0, 1) with 24 random bits that depends on the integers a, b and c alone."""
    x = uint32(uint32(a) * uint32(_MIX_A) + uint32(b) * uint32(_MIX_B) + uint32(c) * uint32(_MIX_C))
    x = uint32((x ^ (x >> uint32(13))) * uint32(_STIR_1))
    x = uint32((x ^ (x >> uint32(16))) * uint32(_STIR_2))
    x = x ^ (x >> uint32(15))
    return float((x & uint32(0xFFFFFF)) * _UNIT)


@kernel
def value_noise(x: float, y: float, seed: int) -> float:
    """Smooth noise in [0, 1) with a grid of size 1: random values at the corners, blended by 3t^2 - 2t^3."""
    column, row = math.floor(x), math.floor(y)
    tx, ty = x - column, y - row
    tx, ty = tx * tx * (3.0 - 2.0 * tx), ty * ty * (3.0 - 2.0 * ty)
    left, top = int(column), int(row)
    a, b = random01(left, top, seed), random01(left + 1, top, seed)
    c, d = random01(left, top + 1, seed), random01(left + 1, top + 1, seed)
    return (a + (b - a) * tx) * (1.0 - ty) + (c + (d - c) * tx) * ty


@kernel
def fractal_noise(x: float, y: float, seed: int) -> float:
    """Three octaves of value noise with weights 0.5, 0.3 and 0.2; in [0, 1), mean 0.5."""
    return (
        0.5 * value_noise(x, y, seed)
        + 0.3 * value_noise(x * 2.1, y * 2.1, seed + 1)
        + 0.2 * value_noise(x * 4.3, y * 4.3, seed + 2)
    )
