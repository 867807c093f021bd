import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dphr_infer.errors import ImageError
from dphr_infer.images.frame_format import (
    ColourCoefficients,
    check_frame,
    colour_coefficients,
    nv12_frames,
    rgb_frames,
    to_rgb,
)


def one_colour(y: int, u: int, v: int, **options: str) -> list[int]:
    """What a 16x16 frame of one colour becomes."""
    frame = np.full(16 * 24, y, np.uint8)
    frame[256::2], frame[257::2] = u, v
    image = to_rgb(frame, nv12_frames(16, 16, **options))
    assert (image == image[0, 0]).all()
    return image[0, 0].tolist()


@pytest.mark.parametrize(
    ("matrix", "colour_range", "yuv", "rgb"),
    [
        ("bt601", "limited", (16, 128, 128), [0, 0, 0]),
        ("bt601", "limited", (235, 128, 128), [255, 255, 255]),
        ("bt601", "limited", (81, 90, 240), [254, 0, 0]),  # red; these two are the standard's rounded colour bars
        ("bt709", "limited", (63, 102, 240), [255, 1, 0]),
        ("bt601", "limited", (0, 128, 128), [0, 0, 0]),  # blacker than black is cut off
        ("bt709", "full", (255, 128, 128), [255, 255, 255]),
        ("bt709", "full", (77, 128, 128), [77, 77, 77]),
        # 128 + 1.402 * 100; 128 - 0.344136 * 20 - 0.714136 * 100 = 49.7; 128 + 1.772 * 20
        ("bt601", "full", (128, 148, 228), [255, 50, 163]),
        # 100 + 1.5748 * 40; 100 + 0.187324 * 30 - 0.468124 * 40 = 86.9; 100 - 1.8556 * 30
        ("bt709", "full", (100, 98, 168), [163, 87, 44]),
    ],
)
def test_colours_are_those_of_the_standard(matrix: str, colour_range: str, yuv: tuple, rgb: list[int]) -> None:
    assert one_colour(*yuv, matrix=matrix, colour_range=colour_range) == rgb


def test_coefficients_have_sixteen_fractional_bits() -> None:
    assert colour_coefficients("bt601", "full") == ColourCoefficients(0, 65536, 91881, -22553, -46802, 116130)
    assert colour_coefficients("bt709", "limited") == ColourCoefficients(16, 76309, 117489, -13975, -34925, 138438)


@given(
    y=st.integers(0, 255),
    u=st.integers(0, 255),
    v=st.integers(0, 255),
    matrix=st.sampled_from(("bt601", "bt709")),
    colour_range=st.sampled_from(("limited", "full")),
)
def test_integers_are_within_a_level_of_the_real_numbers(y, u, v, matrix, colour_range) -> None:
    kr, kb = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}[matrix]
    luma, cb, cr = (y - 16) / 219, (u - 128) / 224, (v - 128) / 224
    if colour_range == "full":
        luma, cb, cr = y / 255, (u - 128) / 255, (v - 128) / 255
    red, blue = luma + 2 * (1 - kr) * cr, luma + 2 * (1 - kb) * cb
    green = (luma - kr * red - kb * blue) / (1 - kr - kb)
    real = np.clip(np.array([red, green, blue]) * 255, 0, 255)
    assert np.abs(real - one_colour(y, u, v, matrix=matrix, colour_range=colour_range)).max() < 0.51


def test_one_pair_of_chroma_serves_four_pixels_and_padding_is_passed_over() -> None:
    layout = nv12_frames(
        16,
        16,
        matrix="bt709",
        colour_range="full",
        stride_bytes=20,
        chroma_stride_bytes=18,
        chroma_offset_bytes=20 * 16 + 7,
    )
    frame = np.full(layout.frame_bytes, 255, np.uint8)
    for row in range(16):
        frame[20 * row : 20 * row + 16] = 100
    for row in range(8):
        start = 327 + 18 * row
        frame[start : start + 16] = 128
    frame[327 + 18 * 3 + 2 * 5 + 1] = 168  # V of pixels (10..11, 6..7)
    image = to_rgb(frame, layout)
    assert (image[6:8, 10:12] == [163, 81, 100]).all()
    image[6:8, 10:12] = 100
    assert (image == 100).all()


def test_rgb_rows_may_lie_apart() -> None:
    layout = rgb_frames(16, 16, 50)
    frame = np.arange(layout.frame_bytes, dtype=np.uint32).astype(np.uint8)
    image = to_rgb(frame, layout)
    assert layout.frame_bytes == 15 * 50 + 48 and layout.padded_bytes == 800
    assert image[3, 2].tolist() == [156, 157, 158]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width_px": 33}, "33x24 px has an odd side"),
        ({"height_px": 23}, "32x23 px has an odd side"),
        ({"width_px": 8}, "8x24 px; at least 16 px"),
        ({"width_px": 20_000, "height_px": 10_000}, "above the limit of 120"),
        ({"matrix": "bt2020"}, "'bt2020' is unknown; choose bt601 or bt709"),
        ({"colour_range": "video"}, "'video' is unknown; choose limited or full"),
        ({"stride_bytes": 31}, "takes 32 bytes, but rows begin 31 bytes apart"),
        ({"chroma_stride_bytes": 30}, "nv12 chroma takes 32 bytes, but rows begin 30 bytes apart"),
        ({"chroma_offset_bytes": 767}, "begins at byte 767, inside the luma plane of 768 bytes"),
    ],
)
def test_impossible_nv12_formats_are_refused(options: dict, message: str) -> None:
    whole = {"width_px": 32, "height_px": 24, "matrix": "bt601", "colour_range": "full", **options}
    with pytest.raises(ImageError, match=message):
        nv12_frames(whole.pop("width_px"), whole.pop("height_px"), **whole)


def test_impossible_rgb_formats_are_refused() -> None:
    with pytest.raises(ImageError, match="takes 96 bytes, but rows begin 95 bytes apart"):
        rgb_frames(32, 24, 95)
    with pytest.raises(ImageError, match="'yuyv' is unknown; choose one of rgb, nv12"):
        type(rgb_frames(32, 24))("yuyv", 32, 24, 64)


NV12 = nv12_frames(32, 24, matrix="bt601", colour_range="full", stride_bytes=40)


@pytest.mark.parametrize(
    ("frame", "layout", "message"),
    [
        (np.zeros(1431, np.uint8), NV12, "has 1431 bytes, but 32x24 px nv12 needs 1432: it is truncated"),
        (np.zeros(0, np.uint8), NV12, "has 0 bytes, but 32x24 px nv12 needs 1432"),
        (np.zeros(1441, np.uint8), NV12, "has 1441 bytes, but 32x24 px nv12 has at most 1440"),
        (np.zeros((24, 32, 3), np.uint8), NV12, "has 2304 bytes, but 32x24 px nv12 has at most 1440"),
        (np.zeros((32, 24, 3), np.uint8), rgb_frames(32, 24), "24x32 px with 3 channels, but 32x24 px rgb were"),
        (np.zeros((24, 32, 4), np.uint8), rgb_frames(32, 24), "with 4 channels"),
        (np.zeros((24, 32, 3), np.float32), rgb_frames(32, 24), "is contiguous uint8, but this one is float32"),
        (np.zeros((24, 64, 3), np.uint8)[:, ::2], rgb_frames(32, 24), "contiguous"),
    ],
)
def test_frames_of_another_size_or_format_are_refused_with_both_sizes(frame, layout, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        check_frame(frame, layout)


@pytest.mark.parametrize("n_bytes", [1432, 1440])
def test_padding_behind_the_last_row_may_be_missing(n_bytes: int) -> None:
    assert to_rgb(np.full(n_bytes, 128, np.uint8), NV12).shape == (24, 32, 3)


def test_every_pixel_is_the_formulas_whatever_piece_of_the_frame_it_lies_in() -> None:
    layout = nv12_frames(18, 70, matrix="bt601", colour_range="limited", stride_bytes=24)
    frame = np.random.default_rng(7).integers(0, 256, layout.frame_bytes, np.uint8)
    image, of = to_rgb(frame, layout), colour_coefficients("bt601", "limited")
    for y, x in np.ndindex(70, 18):
        pair = layout.chroma_offset_bytes + 24 * (y // 2) + 2 * (x // 2)
        u, v = int(frame[pair]) - 128, int(frame[pair + 1]) - 128
        luma = of.scale * (int(frame[24 * y + x]) - of.zero) + 2**15
        parts = (of.red_v * v, of.green_u * u + of.green_v * v, of.blue_u * u)
        assert image[y, x].tolist() == [min(255, max(0, (luma + part) >> 16)) for part in parts], (y, x)
