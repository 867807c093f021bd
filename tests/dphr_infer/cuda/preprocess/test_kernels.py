"""preprocess.cu on this processor against Preprocess and rotate_square: sizes, crops, angles, formats, schedules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from preprocess_launches import launch, reference

from dphr_infer.images.frame_format import FrameFormat, nv12_frames, rgb_frames, to_rgb
from dphr_infer.images.preprocess import Preprocess
from dphr_infer.images.rotation import inscribed_side_px

SHARED_LIMITS = (166_912, 101_376, 20_000)  # sm_87, sm_120, and one that takes small tiles
FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def layouts(draw: st.DrawFn, least_px: int = 16) -> FrameFormat:
    width, height = draw(st.integers(least_px, 160)), draw(st.integers(least_px, 160))
    padding = draw(st.integers(0, 40))
    if draw(st.booleans()):
        return rgb_frames(width, height, 3 * width + padding)
    width, height = width // 2 * 2, height // 2 * 2
    return nv12_frames(
        width,
        height,
        matrix=draw(st.sampled_from(("bt601", "bt709"))),
        colour_range=draw(st.sampled_from(("limited", "full"))),
        stride_bytes=width + padding,
        chroma_stride_bytes=width + draw(st.integers(0, 20)),
        chroma_offset_bytes=(width + padding) * height + draw(st.integers(0, 40)),
    )


@st.composite
def preprocesses(draw: st.DrawFn) -> Preprocess:
    return Preprocess(
        draw(st.integers(16, 70)),
        draw(st.integers(16, 70)),
        draw(st.sampled_from(("box", "bilinear", "bicubic"))),
        draw(st.sampled_from(("crop", "stretch"))),
    )


def random_frame(layout: FrameFormat, seed: int) -> NDArray[np.uint8]:
    """Noise of all levels, or of the two ends, where a cubic overshoots."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, layout.frame_bytes, np.uint8)
    return noise if seed % 2 else (noise > 127).astype(np.uint8) * 255


def texture_frame(texture: Any, layout: FrameFormat) -> NDArray[np.uint8]:
    """A picture without repetition; its bytes are taken as they come."""
    rows = -(-layout.frame_bytes // (3 * layout.width_px))
    return np.ascontiguousarray(texture(rows, layout.width_px).reshape(-1)[: layout.frame_bytes])


@FEW
@given(layout=layouts(), preprocess=preprocesses(), seed=st.integers(0, 5), limit=st.sampled_from(SHARED_LIMITS))
@example(
    layout=rgb_frames(57, 160), preprocess=Preprocess(16, 70, "bicubic", "stretch"), seed=2, limit=20_000
)  # rows first, in small tiles
@example(layout=rgb_frames(16, 16), preprocess=Preprocess(70, 70, "bicubic"), seed=1, limit=20_000)
def test_an_upright_frame_becomes_bit_for_bit_what_the_cpu_makes_of_it(
    layout: FrameFormat, preprocess: Preprocess, seed: int, limit: int, preprocess_device: Any
) -> None:
    frame = random_frame(layout, seed)
    made = launch(preprocess_device, [frame], layout, preprocess, seed=seed, shared_limit=limit)
    np.testing.assert_array_equal(made.images[0], reference(frame, layout, preprocess, None))


@FEW
@given(
    layout=layouts(24),
    preprocess=preprocesses(),
    degrees=st.sampled_from((0.0, 90.0, 180.0, -90.0, 720.0)),
    seed=st.integers(0, 5),
    limit=st.sampled_from(SHARED_LIMITS),
)
@example(
    layout=nv12_frames(134, 150, matrix="bt601", colour_range="full"),
    preprocess=Preprocess(18, 20),
    degrees=90.0,
    seed=1,
    limit=166_912,
)
def test_multiples_of_90_degrees_are_bit_for_bit_too(
    layout: FrameFormat, preprocess: Preprocess, degrees: float, seed: int, limit: int, preprocess_device: Any
) -> None:
    frame = random_frame(layout, seed)
    made = launch(preprocess_device, [frame], layout, preprocess, [degrees], seed=seed, shared_limit=limit)
    np.testing.assert_array_equal(made.images[0], reference(frame, layout, preprocess, degrees))


@settings(FEW, max_examples=120)
@given(
    layout=layouts(24),
    preprocess=preprocesses(),
    degrees=st.floats(-400.0, 400.0) | st.integers(-360, 360).map(float),
    seed=st.integers(0, 5),
    limit=st.sampled_from(SHARED_LIMITS),
)
@example(layout=rgb_frames(83, 51), preprocess=Preprocess(17, 16, "bicubic"), degrees=1e-3, seed=2, limit=20_000)
@example(
    layout=nv12_frames(154, 150, matrix="bt709", colour_range="limited"),
    preprocess=Preprocess(16, 16),
    degrees=1.5,
    seed=3,
    limit=166_912,
)
@example(
    layout=nv12_frames(154, 150, matrix="bt709", colour_range="limited"),
    preprocess=Preprocess(16, 16),
    degrees=89.999,
    seed=3,
    limit=166_912,
)
@example(
    layout=nv12_frames(24, 24, matrix="bt601", colour_range="limited"),
    preprocess=Preprocess(16, 16, "bicubic"),
    degrees=5.411771358760512e-11,  # Pillow truncates what the kernel gets exactly: nearly all pixels differ by one
    seed=0,
    limit=166_912,
)
def test_a_frame_turned_by_any_angle_differs_by_one_level_or_two_after_bicubic(
    layout: FrameFormat, preprocess: Preprocess, degrees: float, seed: int, limit: int, preprocess_device: Any
) -> None:
    frame = random_frame(layout, seed)
    made = launch(preprocess_device, [frame], layout, preprocess, [degrees], seed=seed, shared_limit=limit)
    expected = reference(frame, layout, preprocess, degrees).astype(int)
    # One level in the turned frame; a bicubic resize has weights beyond 1, which can make two of it.
    assert np.abs(made.images[0] - expected).max() <= (2 if preprocess.interpolation == "bicubic" else 1)


@pytest.mark.parametrize("interpolation", ["box", "bilinear", "bicubic"])
def test_turned_frames_hardly_ever_differ(texture: Any, interpolation: Any, preprocess_device: Any) -> None:
    layout, preprocess = rgb_frames(320, 240), Preprocess(64, 64, interpolation)
    frame = texture_frame(texture, layout)
    angles = [3.0, 17.0, 45.0, 111.1, 200.0, 299.9]
    made = launch(preprocess_device, [frame] * len(angles), layout, preprocess, angles)
    expected = np.stack([reference(frame, layout, preprocess, degrees) for degrees in angles])
    assert (made.images != expected).mean() < 1e-4


@pytest.mark.parametrize("pixels", ["rgb", "nv12"])
def test_frames_of_one_launch_are_turned_by_angles_of_their_own(pixels: str, preprocess_device: Any) -> None:
    # Angles that reduce the frame by 3, by 2 and by 3 again.
    layout = rgb_frames(210, 150) if pixels == "rgb" else nv12_frames(210, 150, matrix="bt601", colour_range="full")
    preprocess = Preprocess(20, 22, "bilinear")
    frames = [random_frame(layout, 2 * seed + 1) for seed in range(3)]
    made = launch(preprocess_device, frames, layout, preprocess, [0.0, 44.0, 180.0], seed=4)
    for image, frame, degrees in zip(made.images, frames, (0.0, 44.0, 180.0), strict=True):
        difference = np.abs(image - reference(frame, layout, preprocess, degrees).astype(int))
        assert difference.max() <= (1 if degrees == 44.0 else 0)


@pytest.mark.parametrize("seed", range(1, 7))
@pytest.mark.parametrize("angles", [None, [33.0, 33.0]])
def test_the_schedule_does_not_matter(seed: int, angles: Any, preprocess_device: Any) -> None:
    layout, preprocess = nv12_frames(130, 98, matrix="bt709", colour_range="full"), Preprocess(33, 40, "bicubic")
    frames = [random_frame(layout, 1), random_frame(layout, 2)]
    first = launch(preprocess_device, frames, layout, preprocess, angles)
    again = launch(preprocess_device, frames, layout, preprocess, angles, seed=seed, preempt_every=4)
    np.testing.assert_array_equal(first.images, again.images)


@pytest.mark.parametrize(
    ("interpolation", "pixels", "degrees", "side_px", "most"),
    [
        # Windows of neighbouring tiles overlap, and rows are read from one 16-byte boundary to another.
        ("bilinear", "rgb", None, 192, 1.10),
        ("bicubic", "rgb", None, 192, 1.22),
        ("bilinear", "nv12", None, 192, 1.14),
        ("bilinear", "rgb", 90.0, 192, 1.17),
        ("bilinear", "rgb", 20.0, 192, 1.25),
        ("bilinear", "rgb", 45.0, 192, 1.25),
        ("bilinear", "nv12", 45.0, 192, 1.31),
        ("bilinear", "nv12", 45.0, 170, 1.40),  # reduced by three: a row of chroma serves two rows of blocks
    ],
)
def test_each_pixel_that_counts_is_read_about_once(
    interpolation: Any, pixels: str, degrees: float | None, side_px: int, most: float, preprocess_device: Any
) -> None:
    # As 4000 x 3000 at 384, in half of both.
    width, height, preprocess = 2000, 1500, Preprocess(side_px, side_px, interpolation)
    layout = rgb_frames(width, height)
    if pixels == "nv12":
        layout = nv12_frames(width, height, matrix="bt709", colour_range="limited")
    frame = random_frame(layout, 1)
    made = launch(preprocess_device, [frame], layout, preprocess, None if degrees is None else [degrees])
    side = height if degrees is None else inscribed_side_px(width, height, degrees)
    needed = side * side * (3 if pixels == "rgb" else 1.5)
    assert needed * 0.98 < made.bytes_read <= most * needed
    expected = reference(frame, layout, preprocess, degrees).astype(int)
    assert np.abs(made.images[0] - expected).max() <= 1


def test_channels_stay_in_their_order_and_north_comes_up(preprocess_device: Any) -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[:16] = (200, 100, 50)  # the photo's top looks east: it comes to the right
    layout = rgb_frames(64, 64)
    made = launch(preprocess_device, [image], layout, Preprocess(32, 32, "box"), [90.0])
    assert (made.images[0][:, -8:] == (200, 100, 50)).all() and made.images[0][:, :-8].max() == 0
    grey = np.full(64 * 96, 128, np.uint8)
    layout = nv12_frames(64, 64, matrix="bt601", colour_range="limited")
    grey[64 * 64 + 1 :: 2] = 240  # V at its end: red
    made = launch(preprocess_device, [grey], layout, Preprocess(32, 32, "box"))
    assert (made.images[0] == to_rgb(grey, layout)[0, 0]).all()
    assert made.images[0][0, 0].tolist() == [255, 39, 130]
