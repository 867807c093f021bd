"""What the pictures share: colours, text, a scale bar. Pillow only."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dphr_infer.files.atomic import atomic_file

MARGIN = 12
_TEXT_PX = 15
LINE = 20
INK, PAPER, FAINT, EMPTY = (25, 25, 25), (255, 255, 255), (110, 110, 110), (230, 230, 230)
# Told apart by people with any colour vision, and on green and grey ground.
RIGHT, WRONG, ACCEPTED, REFUSED, TRUTH = (0, 158, 90), (200, 60, 40), (0, 114, 220), (230, 120, 0), (255, 255, 255)


Position = NDArray[np.float64]
"""float64 (2,), x to the right and y down, in pixels of a picture."""


def font(size_px: float = _TEXT_PX) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Pillow's own."""
    return ImageFont.load_default(size_px)


def save(picture: Image.Image, path: Path) -> None:
    """Write a PNG, whole or not at all."""
    with atomic_file(path) as temporary:
        picture.save(temporary, format="PNG")


def mark_truth(draw: ImageDraw.ImageDraw, at: Position) -> None:
    """A cross."""
    x, y = at
    for colour, reach, width in ((INK, 9, 6), (TRUTH, 8, 3)):
        draw.line((x - reach, y - reach, x + reach, y + reach), colour, width)
        draw.line((x - reach, y + reach, x + reach, y - reach), colour, width)


def round_length_m(limit_m: float) -> float:
    """The largest of 1, 2, 5, 10, 20, 50, … metres (or 0.1, 0.2, …) that is not above a limit."""
    power = 10.0 ** math.floor(math.log10(limit_m))
    return max(step * power for step in (1, 2, 5) if step * power <= limit_m)


def draw_scale_bar(draw: ImageDraw.ImageDraw, width: int, height: int, px_per_m: float) -> None:
    """A bar of a round length in the lower right corner, at most a fifth of the map's width."""
    length_m = round_length_m(width / 5 / px_per_m)
    right, bottom = width - 2 * MARGIN, height - 2 * MARGIN
    left = right - length_m * px_per_m
    draw.rectangle((left - 10, bottom - 2 * LINE, right + 10, bottom + 10), fill=PAPER)
    draw.rectangle((left, bottom - 6, right, bottom), fill=INK)
    draw.text(((left + right) / 2, bottom - 10), f"{length_m:g} m", INK, font(), anchor="mb")
