"""preprocess.cu rectifies on this processor as `rectify` does: views, frames, formats, schedules, what is not seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from preprocess_launches import ORIN_SHARED_BYTES, launch, reference

from dphr_infer.cuda.preprocess.plan import longer_side_px
from dphr_infer.errors import ImageError
from dphr_infer.images.frame_format import FrameFormat, nv12_frames, rgb_frames
from dphr_infer.images.preprocess import Preprocess
from dphr_infer.images.rectify import MAX_REDUCTION, GroundSquare
from dphr_infer.types import CameraView

# 90 degrees across 64 pixels: from 32 m a pixel is a metre.
DOWN = CameraView(32.0, -90.0, 90.0)


def formats(pixels: str, width: int, height: int, padding: int = 0) -> FrameFormat:
    if pixels == "rgb":
        return rgb_frames(width, height, 3 * width + padding)
    even = width // 2 * 2, height // 2 * 2
    return nv12_frames(*even, matrix="bt601", colour_range="limited", stride_bytes=even[0] + padding)


def noise(layout: FrameFormat, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, layout.frame_bytes, np.uint8)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pixels=st.sampled_from(("rgb", "nv12")),
    size=st.tuples(st.integers(16, 160), st.integers(16, 160), st.integers(0, 40)),
    model=st.tuples(st.integers(16, 70), st.integers(16, 70)),
    how=st.tuples(st.sampled_from(("box", "bilinear", "bicubic")), st.sampled_from(("crop", "stretch"))),
    view=st.builds(
        CameraView,
        height_m=st.floats(5, 500),
        pitch_deg=st.floats(-150, -26),
        fov_deg=st.floats(10, 140),
        yaw_deg=st.floats(-360, 360),
        roll_deg=st.floats(-90, 90),
    ),
    zoom=st.floats(0.2, 8.0),
    seed=st.integers(0, 5),
    limit=st.sampled_from((ORIN_SHARED_BYTES, 101_376, 60_000)),
)
@example("rgb", (160, 160, 0), (40, 40), ("bilinear", "crop"), CameraView(9.0, -27.0, 120.0, 40.0), 0.5, 1, 60_000)
@example("nv12", (160, 150, 3), (50, 20), ("box", "stretch"), CameraView(9.0, -30.0, 140.0, 1.0, 80.0), 3.5, 2, 60_000)
@example("nv12", (150, 160, 0), (16, 16), ("bilinear", "crop"), CameraView(90.0, -89.0, 10.0, 1.0), 90.0, 3, 101_376)
def test_a_frame_is_rectified_within_a_level_of_the_cpu_or_two_after_bicubic(
    preprocess_device: Any,
    pixels: str,
    size: Any,
    model: Any,
    how: Any,
    view: CameraView,
    zoom: float,
    seed: int,
    limit: int,
) -> None:
    layout, preprocess = formats(pixels, *size), Preprocess(*model, *how)
    square = GroundSquare(view, longer_side_px(preprocess), zoom * view.gsd_m(layout.width_px))
    frame = noise(layout, seed)
    try:
        expected = reference(frame, layout, preprocess, square).astype(int)
    except ImageError:
        assume(False)
    made = launch(preprocess_device, [frame], layout, preprocess, [square], seed=seed, shared_limit=limit)
    # A level in the square; a bicubic resize, of a model that is none, has weights beyond 1, which can make two of it.
    most = 2 if how[0] == "bicubic" and model[0] != model[1] else 1
    assert np.abs(made.images[0] - expected).max() <= most


def test_straight_down_at_its_own_resolution_the_square_is_a_part_of_the_frame(preprocess_device: Any) -> None:
    layout, preprocess = rgb_frames(64, 48), Preprocess(16, 16)
    image = noise(layout, 0).reshape(48, 64, 3)

    def made(gsd_m: float, yaw_deg: float = 0.0) -> np.ndarray:
        square = GroundSquare(CameraView(32.0, -90.0, 90.0, yaw_deg), 16, gsd_m)
        return launch(preprocess_device, [image], layout, preprocess, [square]).images[0]

    np.testing.assert_array_equal(made(1.0), image[16:32, 24:40])
    # Of a picture whose top looks east, north is at the left.
    assert np.abs(made(1.0, 90.0) - np.rot90(image[16:32, 24:40], -1).astype(int)).max() <= 1
    # Two metres a pixel: means of 2x2. In the middle of its rows lies the frame's own, 24 of them in 16.
    blocks = image[8:40, 16:48].reshape(16, 2, 16, 2, 3).astype(int).sum(axis=(1, 3))
    np.testing.assert_array_equal(made(2.0), (blocks + 2) // 4)


def test_what_the_frame_does_not_show_is_black(preprocess_device: Any) -> None:
    layout, preprocess = rgb_frames(64, 48), Preprocess(64, 64)
    white = np.full((48, 64, 3), 255, np.uint8)
    made = launch(preprocess_device, [white], layout, preprocess, [GroundSquare(DOWN, 64, 1.0)])
    assert (made.images[0][8:56] == 255).all() and not made.images[0][:8].any() and not made.images[0][56:].any()
    # 26 degrees below the horizon: part of the square lies beside the picture, part behind the camera.
    square = GroundSquare(CameraView(50.0, -26.0, 60.0), 64, 8.0)
    made = launch(preprocess_device, [white], layout, preprocess, [square])
    spans = square.spans(64, 48)
    seen = (np.arange(64) >= spans[:, :1]) & (np.arange(64) < spans[:, 1:])
    assert 0.05 < seen.mean() < 0.5
    assert (made.images[0][seen] >= 254).all() and not made.images[0][~seen].any()


def test_a_frame_that_shows_nothing_of_the_square_is_refused(preprocess_device: Any) -> None:
    layout = rgb_frames(64, 48)
    with pytest.raises(ImageError, match=r"shows nothing of the 50 m around its middle from a height of 0\.05 m"):
        square = GroundSquare(CameraView(0.05, -90.0, 60.0), 16, 50 / 16)
        launch(preprocess_device, [noise(layout, 0)], layout, Preprocess(16, 16), [square])


def test_a_frame_is_averaged_over_64_pixels_at_most(preprocess_device: Any) -> None:
    # From 2 m above the ground a frame of 3000 px shows 18 of 64 pixels of a 12 m tile, and 200 of its own to one.
    view, layout = CameraView(2.0, -90.0, 80.0), rgb_frames(3000, 400)
    square = GroundSquare(view, 64, 160 * view.gsd_m(3000))
    assert square.reduction(3000) == MAX_REDUCTION == 64
    frame = noise(layout, 1)
    made = launch(preprocess_device, [frame], layout, Preprocess(64, 64), [square])
    expected = reference(frame, layout, Preprocess(64, 64), square).astype(int)
    assert expected.any() and np.abs(made.images[0] - expected).max() <= 1


@pytest.mark.parametrize("pixels", ["rgb", "nv12"])
def test_frames_of_one_launch_are_rectified_by_views_of_their_own(pixels: str, preprocess_device: Any) -> None:
    layout, preprocess = formats(pixels, 210, 150), Preprocess(20, 22)
    views = [CameraView(80.0, -90.0, 70.0, 33.0), CameraView(60.0, -50.0, 70.0, 200.0, 8.0), DOWN]
    squares = [
        GroundSquare(view, 22, zoom * view.gsd_m(210)) for view, zoom in zip(views, (6.0, 1.5, 3.0), strict=True)
    ]
    frames = [noise(layout, seed) for seed in range(3)]
    made = launch(preprocess_device, frames, layout, preprocess, squares, seed=4)
    for image, frame, square in zip(made.images, frames, squares, strict=True):
        assert np.abs(image - reference(frame, layout, preprocess, square).astype(int)).max() <= 1


@pytest.mark.parametrize("seed", range(1, 5))
def test_the_schedule_does_not_matter(seed: int, preprocess_device: Any) -> None:
    layout, preprocess = formats("nv12", 130, 98), Preprocess(33, 40, "bicubic")
    square = GroundSquare(CameraView(30.0, -40.0, 80.0, 70.0), 40, 0.6)
    first, again = (
        launch(preprocess_device, [noise(layout, 1)], layout, preprocess, [square], **schedule)
        for schedule in ({}, {"seed": seed, "preempt_every": 4})
    )
    np.testing.assert_array_equal(first.images, again.images)


@pytest.mark.parametrize(
    ("pixels", "pitch_deg", "side_px", "most"),
    [
        # Squares of 16 pixels read their neighbours' edges once more, and from one 16-byte boundary to another.
        ("rgb", -90.0, 192, 1.25),
        ("nv12", -90.0, 192, 1.40),
        ("rgb", -60.0, 192, 1.25),
        ("nv12", -45.0, 170, 1.50),
    ],
)
def test_each_pixel_that_counts_is_read_about_once(
    pixels: str, pitch_deg: float, side_px: int, most: float, preprocess_device: Any
) -> None:
    layout, preprocess = formats(pixels, 2000, 1500), Preprocess(side_px, side_px)
    view = CameraView(100.0, pitch_deg, 60.0, 20.0)
    square = GroundSquare(view, side_px, view.gsd_m(2000) * 900 / side_px)
    frame = noise(layout, 1)
    made = launch(preprocess_device, [frame], layout, preprocess, [square])
    x, y, z = square.to_photo(2000, 1500) @ [[0, side_px, side_px, 0], [0, 0, side_px, side_px], [1] * 4]
    x, y = x / z, y / z
    area = abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2  # of the square in the frame
    assert x.min() > 0 and y.min() > 0 and x.max() < 2000 and y.max() < 1500
    needed = area * (3 if pixels == "rgb" else 1.5)
    assert needed * 0.98 < made.bytes_read <= most * needed
    assert np.abs(made.images[0] - reference(frame, layout, preprocess, square).astype(int)).max() <= 1
