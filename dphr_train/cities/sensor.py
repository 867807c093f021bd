"""From radiance to the picture a camera would give: gain, white balance, vignette, blur, tone curve, noise."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Camera = Literal["drone", "satellite"]
Range = tuple[float, float]

_JPEG_QUALITY = (80, 93)


@dataclass(frozen=True, slots=True)
class Sensor:
    """Ranges that every picture draws from: factors, black level, exponent, shares of a pixel, standard deviation."""

    gain: Range
    red: Range
    blue: Range
    haze_veil: Range
    gamma: Range
    blur: Range
    noise: Range
    vignette: Range
    saturation: Range = (0.8, 1.1)


SENSORS: dict[Camera, Sensor] = {
    "satellite": Sensor(
        (0.85, 1.1), (0.92, 1.03), (0.97, 1.12), (0.0, 0.06), (0.85, 1.05), (0.25, 0.45), (0.008, 0.008), (0.0, 0.0)
    ),
    "drone": Sensor(
        (0.9, 1.25), (0.94, 1.08), (0.9, 1.04), (0.0, 0.0), (0.8, 1.1), (0.0, 0.2), (0.004, 0.015), (0.0, 0.12)
    ),
}


def expose(radiance: NDArray[np.float32], rng: np.random.Generator, camera: Camera) -> NDArray[np.uint8]:
    """Turn radiance into a picture.

    Args:
        radiance: float32 (H, W, 3), about 0..255.

    Returns:
        uint8 (H, W, 3).
    """
    sensor = SENSORS[camera]
    light = np.clip(radiance, 0, None) / np.float32(255)
    balance = np.array((rng.uniform(*sensor.red), 1.0, rng.uniform(*sensor.blue))) * rng.uniform(*sensor.gain)
    light = light * balance.astype(np.float32)
    veil = rng.uniform(*sensor.haze_veil)
    light = np.float32(veil) + light * np.float32(1 - veil)
    light = light * _vignette(light.shape[0], light.shape[1], rng.uniform(*sensor.vignette))
    light = np.clip(_blur(light, rng.uniform(*sensor.blur)), 0, 1) ** np.float32(rng.uniform(*sensor.gamma))
    grey = light.mean(axis=2, keepdims=True)
    light = grey + (light - grey) * np.float32(rng.uniform(*sensor.saturation))
    noise = rng.standard_normal(light.shape, np.float32) * np.float32(rng.uniform(*sensor.noise))
    pixels: NDArray[np.uint8] = (np.clip(light + noise, 0, 1) * 255 + 0.5).astype(np.uint8)
    return pixels


def _vignette(height: int, width: int, strength: float) -> NDArray[np.float32]:
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None, :]
    return (1 - strength * (x**2 + y**2)).astype(np.float32)[:, :, None]


def _blur(light: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    """Give `share` of every pixel to its neighbours, rows first, then columns."""
    side, middle = np.float32(share / 2), np.float32(1 - share)
    padded = np.pad(light, ((1, 1), (1, 1), (0, 0)), "edge")
    rows = padded[:-2] * side + padded[1:-1] * middle + padded[2:] * side
    blurred: NDArray[np.float32] = rows[:, :-2] * side + rows[:, 1:-1] * middle + rows[:, 2:] * side
    return blurred


def to_jpeg(picture: NDArray[np.uint8], rng: np.random.Generator) -> bytes:
    """Compress with a quality of 80 to 92."""
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=int(rng.integers(*_JPEG_QUALITY)))
    return out.getvalue()


def to_png(picture: NDArray[np.uint8]) -> bytes:
    """Compress without loss."""
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG")
    return out.getvalue()
