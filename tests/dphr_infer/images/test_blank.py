"""Lens cap, grey, and noise are told from pictures that show something."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dphr_infer.images.blank import blank_reason
from dphr_infer.images.frame_format import FrameFormat, nv12_frames
from dphr_infer.images.photo import Photo, read_photo
from dphr_infer.images.preprocess import list_images

SAMPLES = Path(__file__).resolve().parents[3] / "samples"
SIZES = [(64, 64), (97, 131), (480, 640), (1500, 2000)]


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_noise_and_even_pictures_are_blank_at_any_size(height: int, width: int) -> None:
    assert blank_reason(Photo(noise(height, width))).startswith("blank picture: noise, neighbouring parts")
    dark = np.clip(np.random.default_rng(1).normal(8, 4, (height, width, 3)), 0, 255).astype(np.uint8)
    for picture in (np.zeros_like(dark), np.full_like(dark, 128), np.full_like(dark, 255), dark):
        assert blank_reason(Photo(picture)).startswith("blank picture: flat, its brightness spreads by ")


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_picture_with_shapes_is_not_blank(height: int, width: int, texture) -> None:
    shapes = Image.fromarray(texture(96, 128, 2)).resize((width, height), Image.Resampling.BICUBIC)
    assert blank_reason(Photo(np.asarray(shapes))) == ""
    slope = np.linspace(100, 120, width)[None, :, None] + np.zeros((height, 1, 3))  # a spread of 5.8 levels
    assert blank_reason(Photo(slope.astype(np.uint8))) == ""


def test_the_sample_photos_are_not_blank() -> None:
    for path in list_images(SAMPLES / "brighton_beach/photos")[::6]:
        assert blank_reason(read_photo(path)) == ""


def test_frames_are_judged_by_their_own_bytes(texture) -> None:
    layout = nv12_frames(128, 96, matrix="bt709", colour_range="limited")
    rows = 96 * 3 // 2
    for grey, reason in (
        (texture(96, 128)[..., 0], ""),
        (noise(96, 128)[..., 0], "noise"),
        (np.full((96, 128), 9), "flat"),
    ):
        frame = np.full((rows, 128), 128, np.uint8)
        frame[:96] = grey
        assert reason in blank_reason(Photo(frame, frame_format=layout))
        assert bool(reason) == bool(blank_reason(Photo(frame, frame_format=layout)))
    # Rows of RGB with 16 bytes between them that are no pixels.
    padded = np.random.default_rng(0).integers(0, 256, (96, 128 * 3 + 16), np.uint8)
    padded[:, : 128 * 3] = 77
    frame_format = FrameFormat("rgb", 128, 96, 128 * 3 + 16)
    assert "flat" in blank_reason(Photo(padded, frame_format=frame_format))
