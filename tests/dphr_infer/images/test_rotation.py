import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dphr_infer.errors import ImageError
from dphr_infer.images.rotation import inscribed_side_px, rotate_square


def test_the_inscribed_square_has_the_sides_found_by_hand() -> None:
    assert inscribed_side_px(160, 90, 0.0) == 90
    assert inscribed_side_px(160, 90, 90.0) == pytest.approx(90)
    assert inscribed_side_px(160, 90, 45.0) == pytest.approx(90 / math.sqrt(2))
    assert inscribed_side_px(90, 160, -45.0) == pytest.approx(90 / math.sqrt(2))


@pytest.mark.parametrize(("clockwise_deg", "quarters"), [(0, 0), (90, -1), (180, -2), (270, -3), (-90, 1), (360, 0)])
def test_quarter_turns_are_exact_and_clockwise(texture, clockwise_deg: int, quarters: int) -> None:
    image = texture(100, 100)
    np.testing.assert_array_equal(rotate_square(image, clockwise_deg, 100), np.rot90(image, quarters))


def test_a_photo_whose_top_looks_east_has_its_top_on_the_right_once_north_is_up() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[:16] = 255
    turned = rotate_square(image, 90.0, 64)
    assert turned[:, -16:].min() == 255 and turned[:, :-16].max() == 0


@pytest.mark.parametrize("clockwise_deg", [1.0, 17.0, 45.0, 133.3, 200.0, 359.0])
def test_no_empty_corner_is_left(clockwise_deg: float) -> None:
    assert rotate_square(np.full((120, 213, 3), 255, np.uint8), clockwise_deg, 200).min() == 255


def test_turning_there_and_back_gives_the_middle_of_the_picture(texture) -> None:
    image = texture(200, 200)
    there = rotate_square(image, 30.0, 200)
    back = rotate_square(there, -30.0, 200)
    top = (200 - len(back)) // 2
    difference = back.astype(int) - image[top : top + len(back), top : top + len(back)]
    assert np.abs(difference)[2:-2, 2:-2].mean() < 6


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(24, 150),
    height=st.integers(24, 150),
    clockwise_deg=st.floats(-720, 720).filter(lambda degrees: degrees % 90 != 0),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_square_is_the_middle_of_the_whole_picture_turned_by_pillow(
    width: int, height: int, clockwise_deg: float, seed: int
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    found = rotate_square(image, clockwise_deg, 150)
    side = len(found)
    assert side == int(inscribed_side_px(width, height, clockwise_deg) + 1e-6)
    whole = np.asarray(Image.fromarray(image).rotate(-clockwise_deg, Image.Resampling.BICUBIC))
    top, left = (height - side) // 2, (width - side) // 2
    expected = whole[top : top + side, left : left + side]
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_a_large_photo_is_reduced_to_no_less_than_twice_the_models_side() -> None:
    side = len(rotate_square(np.zeros((2160, 3840, 3), np.uint8), 45.0, 160))
    assert 2 * 160 <= side < 4 * 160


@pytest.mark.parametrize("clockwise_deg", [math.nan, math.inf, -math.inf])
def test_an_angle_that_is_none_is_refused(clockwise_deg: float) -> None:
    with pytest.raises(ImageError, match=f"turned by {clockwise_deg} degrees, which is no angle"):
        rotate_square(np.zeros((50, 50, 3), np.uint8), clockwise_deg, 32)


def test_a_photo_too_small_to_turn_is_refused() -> None:
    with pytest.raises(ImageError, match="14 px per side"):
        rotate_square(np.zeros((20, 20, 3), np.uint8), 45.0, 32)
