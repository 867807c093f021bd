"""Training augmentation after Sample4Geo (Deuser et al., ICCV 2023), on uint8 images at model size.

Sample4Geo's order: mirror both views together; then each view on its own: JPEG, resize, colour jitter, one of blur and
sharpen, one of grid and coarse dropout; then turn. Here the resize comes first of all, because images are kept at
model size: the JPEG artefacts of 8 x 8 blocks are those of the small image, where the original has them before it
shrinks the image, so the same quality shows a little more. The blur is an isotropic Gaussian and the sharpening an
unsharp mask, where the original takes albumentations' AdvancedBlur and Sharpen. `zoom` and `jittered` are ours.

Every choice comes from a generator that the caller seeds by run, epoch and pair, so it does not depend on the worker
process or on where a run was resumed.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from dphr_infer.errors import ConfigError
from dphr_infer.types import CameraView
from dphr_train.config import AugmentConfig
from dphr_train.types import QueryView

Pixels = NDArray[np.uint8]
_GRID_DROPOUT, _GRID_DROPOUT_GROUND = 0.4, 0.5
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
    """Blacken a regular grid of squares, each `ratio` of its cell's side; cells take 1/16 to 1/4 of the height."""
    unit = int(random.integers(max(2, pixels.shape[0] // 16), max(3, pixels.shape[0] // 4)))
    hole = max(1, int(unit * ratio))
    top, left = random.integers(0, unit, 2)
    rows = (np.arange(pixels.shape[0]) + top) % unit < hole
    columns = (np.arange(pixels.shape[1]) + left) % unit < hole
    pixels[np.ix_(rows, columns)] = 0


def _coarse_dropout(pixels: Pixels, random: np.random.Generator) -> None:
    """Blacken 10 to 25 rectangles whose sides are a tenth to a fifth of the image's shorter side."""
    height, width = pixels.shape[:2]
    for _ in range(int(random.integers(10, 26))):
        h, w = (int(min(height, width) * random.uniform(0.1, 0.2)) for _ in range(2))
        top, left = int(random.integers(0, height - h + 1)), int(random.integers(0, width - w + 1))
        pixels[top : top + h, left : left + w] = 0


def _augment_view(pixels: Pixels, config: AugmentConfig, random: np.random.Generator, grid_ratio: float) -> Pixels:
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
            _grid_dropout(result, random, grid_ratio)
        else:
            _coarse_dropout(result, random)
    return result


def _turn_pair(panorama: Pixels, satellite: Pixels, quarters: int) -> tuple[Pixels, Pixels]:
    """Turn the satellite view counter-clockwise by quarters, and roll the panorama so that both face the same way.

    North at the panorama's centre lies at the satellite view's top. A counter-clockwise quarter brings east to the
    top; east stands a quarter of the panorama's width right of its centre, so the panorama rolls as much to the left.
    A width that is no multiple of 4 is rolled by `quarters` times its floored quarter, as in Sample4Geo.
    """
    width = panorama.shape[1]
    return np.roll(panorama, -(width // 4) * quarters, axis=1), np.rot90(satellite, quarters)


def require_fitting(config: AugmentConfig, query_view: QueryView) -> None:
    """Refuse settings that have no meaning for what the query shows.

    Raises:
        ConfigError: `rotate_pair` with a drone image, which has no columns to roll; with a panorama `zoom`, for a part
            of it is no full circle, or `rotate_satellite`, after which the views face different ways.
    """
    if query_view == "drone" and config.rotate_pair:
        raise ConfigError(
            f"augment.rotate-pair is {config.rotate_pair}, but it rolls a panorama and the queries are drone images: "
            "set it to 0; augment.rotate-satellite turns the satellite view."
        )
    if query_view == "ground" and config.rotate_satellite:
        raise ConfigError(
            "augment.rotate-satellite turns the satellite view alone, but the queries are panoramas, whose heading it "
            "has to keep: use --augment.no-rotate-satellite and --augment.rotate-pair 0.75."
        )
    if query_view == "ground" and config.zoom:
        raise ConfigError(
            f"augment.zoom is {config.zoom}, but the queries are panoramas, and a part of one is no full circle: "
            "set it to 0."
        )


def jittered(view: CameraView, config: AugmentConfig, random: np.random.Generator) -> CameraView:
    """A camera's view with a normal error on pitch, roll, yaw and height; one that no view may have is drawn again."""
    while True:
        pitch, roll, yaw, height = random.standard_normal(4)
        try:
            return CameraView(
                height_m=view.height_m * (1 + config.height_sigma * height),
                pitch_deg=view.pitch_deg + config.pitch_sigma_deg * pitch,
                fov_deg=view.fov_deg,
                yaw_deg=(view.yaw_deg + config.yaw_sigma_deg * yaw) % 360,
                roll_deg=view.roll_deg + config.roll_sigma_deg * roll,
            )
        except ConfigError:
            continue


def augment_pair(
    query: Pixels,
    reference: Pixels,
    config: AugmentConfig,
    random: np.random.Generator,
    query_view: QueryView = "drone",
    north_up: bool = False,
) -> tuple[Pixels, Pixels]:
    """Augment a pair: both mirrored together, each view changed on its own, then turned.

    With ground panoramas `rotate_pair` turns both views together by 90, 180 or 270 degrees; `rotate_satellite` turns
    the satellite view by 0 to 270 degrees, and a query whose top is north with it.

    Args:
        query: uint8 (H, W, 3); a drone image is square, a panorama spans the full circle with north at its centre.
        reference: uint8 (h, h, 3), a satellite view, north up; its size may differ from the query's.
        config: what is done, and how often.
        random: decides everything; equal states give equal pixels.
        query_view: what the query shows.
        north_up: whether the query's top is north, as that of a rectified photo is.

    Returns:
        New arrays of the same shapes, C-contiguous; the arguments are left alone.

    Raises:
        ConfigError: the settings do not fit the query view, see `require_fitting`.
    """
    require_fitting(config, query_view)
    if random.random() < config.flip:
        query, reference = query[:, ::-1], reference[:, ::-1]
    grid_ratio = _GRID_DROPOUT if query_view == "drone" else _GRID_DROPOUT_GROUND
    query = _augment_view(np.ascontiguousarray(query), config, random, grid_ratio)
    reference = _augment_view(np.ascontiguousarray(reference), config, random, _GRID_DROPOUT)
    if query_view == "ground" and random.random() < config.rotate_pair:
        query, reference = _turn_pair(query, reference, int(random.integers(1, 4)))
    if config.rotate_satellite:
        quarters = int(random.integers(4))
        reference = np.rot90(reference, quarters)
        query = np.rot90(query, quarters if north_up else 0)
    return np.ascontiguousarray(query), np.ascontiguousarray(reference)
