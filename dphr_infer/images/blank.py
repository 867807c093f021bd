"""Is anything to be seen in a picture at all? A lens cap, flat grey, and noise are answered before any similarity."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dphr_infer.images.photo import Photo

# The picture as squares of their mean, of so many to a side at most.
_SIDE = 64
# Standard deviation of the squares in levels of 255; of 144 photos and aerial tiles the least was 12.
FLAT_LEVELS = 4.0
# Correlation of a square with its neighbour; noise has none, and of the same pictures the least was 0.65.
NOISE_CORRELATION = 0.2


def blank_reason(photo: Photo) -> str:
    """Why a picture shows nothing, in words; empty where it may show something.

    Reads at most 4 x 64 pixels of each side, so it costs about a millisecond.
    """
    squares = _squares(photo)
    spread = float(squares.std())
    if spread < FLAT_LEVELS:
        return f"blank picture: flat, its brightness spreads by {spread:.1f} of 255 levels, {FLAT_LEVELS:g} are needed"
    centred = squares - squares.mean()
    beside = (centred[:, 1:] * centred[:, :-1]).mean(), (centred[1:] * centred[:-1]).mean()
    correlation = float(max(beside)) / spread**2
    if correlation < NOISE_CORRELATION:
        return (
            f"blank picture: noise, neighbouring parts of it correlate by {correlation:.2f}, {NOISE_CORRELATION:g} is "
            "needed"
        )
    return ""


def _squares(photo: Photo) -> NDArray[np.float64]:
    """Brightness of the picture, float64 (at most 64, at most 64), each the mean of up to 4 x 4 pixels."""
    height, width = photo.size_px
    down, across = (max(1, size // (4 * _SIDE)) for size in (height, width))
    if (layout := photo.frame_format) is None:
        picked = photo.image[::down, ::across]
    else:  # of nv12 the luma, of rgb all three
        channels = 1 if layout.pixels == "nv12" else 3
        rows, columns = np.arange(0, height, down), np.arange(0, width, across)
        at = rows[:, None, None] * layout.stride_bytes + columns[:, None] * channels + np.arange(channels)
        picked = photo.image.reshape(-1)[at]
    values = picked.astype(np.float64).mean(axis=2)
    side_y, side_x = (max(1, -(-size // _SIDE)) for size in values.shape)
    values = values[: len(values) // side_y * side_y, : values.shape[1] // side_x * side_x]
    squares: NDArray[np.float64] = values.reshape(len(values) // side_y, side_y, -1, side_x).mean(axis=(1, 3))
    return squares
