"""Training augmentation after Sample4Geo (Deuser et al., ICCV 2023), on uint8 images at model size.

Every choice comes from a generator that the caller seeds by run, epoch and pair, so it does not depend on the worker
process or on where a run was resumed.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from dphr_train.config import AugmentConfig

Pixels = NDArray[np.uint8]
_HUE_STEPS = 256


def _jpeg(image: Image.Image, random: np.random.Generator) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(random.integers(90, 101)))
    return Image.open(buffer).convert("RGB")


def _zoom(image: Image.Image, random: np.random.Generator, amount: float) -> Image.Image:
    width, height = image.size
    share = 1 - amount * random.random()
    dx, dy = width * (1 - share) / 2, height * (1 - share) / 2
    return image.resize(image.size, Image.Resampling.BILINEAR, box=(dx, dy, width - dx, height - dy))


def _colour_jitter(image: Image.Image, random: np.random.Generator, strength: float) -> Image.Image:
    enhancers = [ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color]
    for number in random.permutation(len(enhancers) + 1):
        amount = random.uniform(-strength, strength)
        if number < len(enhancers):
            image = enhancers[number](image).enhance(1 + amount)
        else:
            hsv = np.array(image.convert("HSV"))
            hsv[..., 0] += np.uint8(round(amount * _HUE_STEPS) % _HUE_STEPS)
            image = Image.fromarray(hsv, "HSV").convert("RGB")
    return image


def _blur_or_sharpen(image: Image.Image, random: np.random.Generator) -> Image.Image:
    if random.random() < 0.5:
        return image.filter(ImageFilter.GaussianBlur(random.uniform(0.3, 1.2)))
    return image.filter(ImageFilter.UnsharpMask(radius=1, percent=int(random.integers(30, 120)), threshold=0))


def _grid_dropout(pixels: Pixels, random: np.random.Generator, ratio: float) -> None:
    """Blacken a regular grid of squares, each `ratio` of its cell's side."""
    unit = int(random.integers(max(2, pixels.shape[0] // 16), max(3, pixels.shape[0] // 4)))
    hole = max(1, int(unit * ratio))
    top, left = random.integers(0, unit, 2)
    rows = (np.arange(pixels.shape[0]) + top) % unit < hole
    columns = (np.arange(pixels.shape[1]) + left) % unit < hole
    pixels[np.ix_(rows, columns)] = 0


def _coarse_dropout(pixels: Pixels, random: np.random.Generator) -> None:
    """Blacken 10 to 25 rectangles of a tenth to a fifth of the side."""
    height, width = pixels.shape[:2]
    for _ in range(int(random.integers(10, 26))):
        h, w = (int(side * random.uniform(0.1, 0.2)) for side in (height, width))
        top, left = int(random.integers(0, height - h + 1)), int(random.integers(0, width - w + 1))
        pixels[top : top + h, left : left + w] = 0


def _augment_view(pixels: Pixels, config: AugmentConfig, random: np.random.Generator) -> Pixels:
    image = Image.fromarray(pixels)
    if random.random() < config.jpeg:
        image = _jpeg(image, random)
    if config.zoom:
        image = _zoom(image, random, config.zoom)
    if random.random() < config.colour_jitter:
        image = _colour_jitter(image, random, config.colour_strength)
    if random.random() < config.blur_or_sharpen:
        image = _blur_or_sharpen(image, random)
    result = np.array(image)
    if random.random() < config.dropout:
        if random.random() < 0.5:
            _grid_dropout(result, random, ratio=0.4)
        else:
            _coarse_dropout(result, random)
    return result


def augment_pair(
    drone: Pixels, satellite: Pixels, config: AugmentConfig, random: np.random.Generator
) -> tuple[Pixels, Pixels]:
    """Augment a pair: both mirrored together, each view changed on its own, the satellite view turned.

    Args:
        drone, satellite: uint8 (H, W, 3), square.

    Returns:
        New arrays of the same shapes.
    """
    if random.random() < config.flip:
        drone, satellite = drone[:, ::-1], satellite[:, ::-1]
    drone = _augment_view(np.ascontiguousarray(drone), config, random)
    satellite = _augment_view(np.ascontiguousarray(satellite), config, random)
    if config.rotate_satellite:
        satellite = np.rot90(satellite, int(random.integers(4)))
    return drone, np.ascontiguousarray(satellite)
