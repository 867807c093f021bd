"""The tables are those of the installed Pillow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dphr_infer.cuda.preprocess.plan import picture_windows
from dphr_infer.cuda.preprocess.resampling import (
    PRECISION_BITS,
    Windows,
    mean_multiplier,
    resize_windows,
    rotation_matrix,
    rows_come_first,
)
from dphr_infer.cuda.preprocess.table import turn_of
from dphr_infer.images.preprocess import Preprocess

HALF = 1 << 21


def resize_rows(pixels: np.ndarray, windows: Windows) -> np.ndarray:
    """The plain reference of one pass: over the first axis of uint8 (H, ...)."""
    out = np.empty((len(windows.first), *pixels.shape[1:]), np.uint8)
    for i, (first, count) in enumerate(zip(windows.first, windows.count, strict=True)):
        taken = pixels[first : first + count].astype(np.int64)
        total = np.tensordot(windows.weights[i, :count].astype(np.int64), taken, axes=1)
        out[i] = np.clip((total + (1 << (PRECISION_BITS - 1))) >> PRECISION_BITS, 0, 255)
    return out


def reduce_blocks(pixels: np.ndarray, factor: int) -> np.ndarray:
    """The plain reference of `Image.reduce`: uint8 (H, W, 3) -> (ceil(H / factor), ceil(W / factor), 3)."""
    height, width = (-(-side // factor) for side in pixels.shape[:2])
    out = np.empty((height, width, 3), np.uint8)
    for y in range(height):
        for x in range(width):
            block = pixels[y * factor : (y + 1) * factor, x * factor : (x + 1) * factor].astype(np.int64)
            n = block.shape[0] * block.shape[1]
            out[y, x] = (block.sum(axis=(0, 1)) + n // 2) * mean_multiplier(n) >> 24
    return out


def resized(image: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """By the tables, in their order."""
    height, width = image.shape[:2]
    columns, rows = picture_windows(width, height, preprocess)
    target = (preprocess.width_px, preprocess.height_px)
    if rows_come_first((width, height), target):
        image = resize_rows(image, rows)
    image = resize_rows(image.swapaxes(0, 1), columns).swapaxes(0, 1)
    return image if rows_come_first((width, height), target) else resize_rows(image, rows)


@settings(max_examples=150, deadline=None)
@given(
    sides=st.tuples(*[st.integers(16, 200)] * 2),
    model=st.tuples(*[st.integers(16, 100)] * 2),
    interpolation=st.sampled_from(("box", "bilinear", "bicubic")),
    fit=st.sampled_from(("crop", "stretch")),
    seed=st.integers(0, 3),
)
def test_a_resize_by_tables_is_pillows_bit_for_bit(sides, model, interpolation, fit, seed) -> None:
    image = np.random.default_rng(seed).integers(0, 2, (*sides, 3)).astype(np.uint8) * 255
    preprocess = Preprocess(*model, interpolation, fit)
    np.testing.assert_array_equal(resized(image, preprocess), preprocess(image))


def test_a_large_frame_is_resized_by_wide_windows() -> None:
    image = np.random.default_rng(0).integers(0, 256, (900, 1400, 3), np.uint8)
    preprocess = Preprocess(17, 16, "bicubic")
    np.testing.assert_array_equal(resized(image, preprocess), preprocess(image))


def test_windows_by_hand() -> None:
    of = resize_windows(8, 0.0, 8.0, 4, "box")
    assert of.first.tolist() == [0, 2, 4, 6] and of.count.tolist() == [2] * 4
    assert of.weights.tolist() == [[HALF, HALF]] * 4
    of = resize_windows(4, 0.0, 4.0, 4, "bicubic")  # nothing to do: neighbours weigh nothing
    assert of.first.tolist() == [0, 1, 2, 3] and of.weights.tolist() == [[2 * HALF]] * 4
    of = resize_windows(8, 0.0, 8.0, 4, "bilinear")  # weights 1, 3, 3, 1 of 8, cut at the ends
    assert of.first.tolist() == [0, 1, 3, 5] and of.count.tolist() == [3, 4, 4, 3]
    assert of.weights[1].tolist() == [HALF // 4, HALF // 4 * 3, HALF // 4 * 3, HALF // 4]


@given(
    source=st.integers(16, 5000),
    target=st.integers(16, 500),
    interpolation=st.sampled_from(("box", "bilinear", "bicubic")),
    cut=st.floats(0.0, 0.4),
)
def test_windows_never_fall_and_their_weights_make_one(source, target, interpolation, cut) -> None:
    of = resize_windows(source, source * cut, source * (1 - cut), target, interpolation)
    ends = of.first + of.count
    assert (np.diff(of.first) >= 0).all() and (np.diff(ends) >= 0).all()
    assert of.first[0] >= 0 and ends[-1] <= source and of.count.min() >= 1
    assert of.weights.shape == (target, of.count.max())
    assert np.abs(of.weights.sum(axis=1) - 2 * HALF).max() <= of.weights.shape[1]
    behind = np.arange(of.weights.shape[1]) >= of.count[:, None]
    assert not of.weights[behind].any()


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 5, 6, 7, 11, 16])
def test_blocks_are_averaged_as_pillow_does_and_cut_at_the_edges(factor: int) -> None:
    image = np.random.default_rng(factor).integers(0, 256, (37, 50, 3), np.uint8)
    np.testing.assert_array_equal(reduce_blocks(image, factor), np.asarray(Image.fromarray(image).reduce(factor)))
    assert [mean_multiplier(n) for n in (1, 4, 9)] == [1 << 24, 1 << 22, 1864135]


def test_rows_come_first_only_where_pillow_says_so() -> None:
    asked = rows_come_first((50, 300), (40, 100))
    image = np.random.default_rng(0).integers(0, 2, (300, 50, 3)).astype(np.uint8) * 255
    columns, rows = picture_windows(50, 300, Preprocess(100, 40, "bicubic", "stretch"))
    by_rows = resize_rows(resize_rows(image, rows).swapaxes(0, 1), columns).swapaxes(0, 1)
    assert np.array_equal(by_rows, Preprocess(100, 40, "bicubic", "stretch")(image)) == asked
    assert not rows_come_first((300, 300), (100, 100)) and not rows_come_first((50, 100), (40, 80))


def test_the_crop_is_the_centred_part_with_the_models_shape() -> None:
    assert Preprocess(20, 20).box(200, 100) == (50.0, 0.0, 150.0, 100.0)
    assert Preprocess(20, 20, fit="stretch").box(200, 100) == (0.0, 0.0, 200.0, 100.0)


def test_a_turn_by_hand() -> None:
    # Clockwise by 90: the right column of the square is the top row of the frame.
    turn = turn_of(40, 30, 90.0, 50)
    assert (turn.factor, turn.side) == (1, 30)
    a, b, c, d, e, f = turn.matrix
    assert [(a * x + b * y + c, d * x + e * y + f) for x, y in ((29, 0), (29, 29), (0, 0))] == [
        (5, 0),
        (34, 0),
        (5, 29),
    ]
    turn = turn_of(400, 300, 0.0, 40)
    assert (turn.factor, turn.reduced_width, turn.reduced_height, turn.side) == (3, 134, 100, 100)
    assert turn.matrix == (1.0, 0.0, 17.0, 0.0, 1.0, 0.0)
    a, b, c, d, e, f = rotation_matrix(30, 20, 45.0)
    assert (a * 15 + b * 10 + c, d * 15 + e * 10 + f) == pytest.approx((15, 10))
    assert a == e == pytest.approx(np.sqrt(0.5)) and b == -d == pytest.approx(np.sqrt(0.5))
