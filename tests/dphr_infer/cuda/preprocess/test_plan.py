"""What the plan of a preprocessing launch promises for every angle, and what a table holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from preprocess_launches import ORIN_SHARED_BYTES

from dphr_infer.cuda.preprocess.plan import ARGUMENTS, arguments, part_of, picture_windows, plan_preprocess
from dphr_infer.cuda.preprocess.table import frame_table, turn_of
from dphr_infer.errors import EngineError, ImageError
from dphr_infer.images.frame_format import nv12_frames, rgb_frames
from dphr_infer.images.preprocess import Preprocess
from dphr_infer.images.rectify import GroundSquare
from dphr_infer.types import CameraView

SHARED_LIMITS = (ORIN_SHARED_BYTES, 101_376, 232_448)  # sm_87, sm_120, sm_90
MODES = ("upright", "turned", "rectified")
SQUARE = GroundSquare(CameraView(50.0, -70.0, 60.0), 16, 1.0)
FORMATS = {
    "rgb": rgb_frames,
    "nv12": lambda w, h: nv12_frames(w // 2 * 2, h // 2 * 2, matrix="bt709", colour_range="limited"),
}


@settings(max_examples=150, deadline=None)
@given(
    width=st.integers(24, 6000),
    height=st.integers(24, 6000),
    model=st.tuples(*[st.integers(16, 400)] * 2),
    interpolation=st.sampled_from(("box", "bilinear", "bicubic")),
    pixels=st.sampled_from(tuple(FORMATS)),
    mode=st.sampled_from(MODES),
    limit=st.sampled_from(SHARED_LIMITS),
)
@example(4000, 4000, (20, 20), "bicubic", "rgb", "upright", 101_376)
@example(4576, 4576, (23, 23), "box", "nv12", "turned", 101_376)
def test_a_plan_covers_the_image_and_fits_in_shared_memory(
    width, height, model, interpolation, pixels, mode, limit
) -> None:
    assume(max(width, height) <= 200 * min(model))
    plan = plan_preprocess(FORMATS[pixels](width, height), Preprocess(*model, interpolation), mode, limit)
    for tiles, side, tile in zip(plan.tiles, model[::-1], ("tile_w", "tile_h"), strict=True):
        assert (tiles - 1) * plan.sizes[tile] < side <= tiles * plan.sizes[tile]
    assert plan.shared_bytes <= limit
    assert plan.kernel == f"preprocess_{mode}_{pixels}"


def needed_pixels(plan, degrees: float) -> tuple[int, int, int]:
    """Columns, rows and pixels of the reduced frame that a tile needs at most: by every pixel's own neighbours."""
    width, height = plan.frame.width_px, plan.frame.height_px
    turn = turn_of(width, height, degrees, max(plan.preprocess.width_px, plan.preprocess.height_px))
    x, y = picture_windows(turn.side, turn.side, plan.preprocess)
    a, b, c, d, e, f = turn.matrix
    most = [0, 0, 0]
    for of_y in range(0, len(y.first), plan.sizes["tile_h"]):
        last_y = min(of_y + plan.sizes["tile_h"], len(y.first)) - 1
        down = np.arange(y.first[of_y], y.first[last_y] + y.count[last_y])[:, None]
        for of_x in range(0, len(x.first), plan.sizes["tile_w"]):
            last_x = min(of_x + plan.sizes["tile_w"], len(x.first)) - 1
            across = np.arange(x.first[of_x], x.first[last_x] + x.count[last_x])
            columns = np.floor(a * across + b * down + c).astype(int)
            rows = np.floor(d * across + e * down + f).astype(int)
            begins, ends = np.full(turn.reduced_height + 8, 1 << 30), np.full(turn.reduced_height + 8, -1)
            for reach in range(-1, 3):
                np.minimum.at(begins, rows + reach + 4, np.maximum(columns - 1, 0))
                np.maximum.at(ends, rows + reach + 4, np.minimum(columns + 3, turn.reduced_width))
            begins, ends = begins[4:-4], ends[4:-4]
            used = np.nonzero(ends > 0)[0]
            left, right = begins[used].min(), ends[used].max()
            # A hundredth of a pixel more on every side may be one more on either end, but none outside the whole.
            spans = np.minimum(ends[used] + 1, right) - np.maximum(begins[used] - 1, left)
            reached = (int(right - left), int(used[-1] - used[0] + 1), int(spans.sum()))
            most = [max(pair) for pair in zip(most, reached, strict=True)]
    return most[0], most[1], most[2]


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(24, 500),
    height=st.integers(24, 500),
    model=st.tuples(*[st.integers(16, 80)] * 2),
    interpolation=st.sampled_from(("box", "bilinear", "bicubic")),
    degrees=st.floats(0.0, 360.0),
    limit=st.sampled_from((ORIN_SHARED_BYTES, 30_000)),
)
@example(width=480, height=339, model=(40, 40), interpolation="bilinear", degrees=45.0, limit=ORIN_SHARED_BYTES)
@example(width=320, height=320, model=(40, 40), interpolation="bicubic", degrees=44.9, limit=ORIN_SHARED_BYTES)
@example(width=240, height=240, model=(40, 79), interpolation="box", degrees=2.0, limit=30_000)
def test_no_angle_needs_more_of_the_frame_than_the_plan_has_room_for(
    width, height, model, interpolation, degrees, limit
) -> None:
    plan = plan_preprocess(rgb_frames(width, height), Preprocess(*model, interpolation), "turned", limit)
    columns, rows, pixels = needed_pixels(plan, degrees)
    assert columns <= plan.sizes["reduced_w"] and rows <= plan.sizes["reduced_h"]
    assert pixels <= plan.sizes["reduced_pixels"]
    assert len(frame_table(plan, degrees)) == plan.table_ints


@given(factor=st.integers(1, 60), reduced_w=st.integers(1, 400), pixels=st.sampled_from(tuple(FORMATS)))
def test_a_part_of_the_frame_is_whole_blocks_and_pairs_of_rows_that_share_chroma(factor, reduced_w, pixels) -> None:
    frame = FORMATS[pixels](4000, 3000)
    part = part_of(frame, factor, reduced_w)
    assert part.raw_rows == part.rows * factor and 1 <= part.columns <= reduced_w
    assert part.raw_pitch % 16 == 0 and part.raw_pitch >= part.columns * factor * (3 if pixels == "rgb" else 1) + 15
    if pixels == "nv12":
        assert part.raw_rows % 2 == 0
    if part.columns > 1:
        assert part.raw_rows * part.raw_pitch * (2 if pixels == "nv12" else 1) <= 16 << 10


def test_the_tile_of_a_twelve_megapixel_frame_on_orin_leaves_room_for_two_blocks() -> None:
    for mode in MODES:
        plan = plan_preprocess(rgb_frames(4000, 3000), Preprocess(384, 384), mode, ORIN_SHARED_BYTES)
        assert (plan.sizes["tile_w"], plan.sizes["tile_h"]) == (32, 32) and plan.tiles == (12, 12)
        assert 2 * (plan.shared_bytes + 1024) <= ORIN_SHARED_BYTES + 1024


def test_a_frame_far_too_large_for_the_model_is_refused_with_both_sizes() -> None:
    with pytest.raises(ImageError, match=r"400000x16 px .*one output pixel needs [\d,]+ bytes .* has 166,912: reduce"):
        plan_preprocess(rgb_frames(400_000, 16), Preprocess(16, 16, fit="stretch"), "upright", ORIN_SHARED_BYTES)


def test_a_frame_too_small_to_be_turned_is_refused() -> None:
    plan_preprocess(rgb_frames(20, 300), Preprocess(16, 16), "upright", ORIN_SHARED_BYTES)
    with pytest.raises(ImageError, match="20x300 px, turned by 45 degrees, leaves 14 px per side, and 16 are needed"):
        plan_preprocess(rgb_frames(20, 300), Preprocess(16, 16), "turned", ORIN_SHARED_BYTES)


@pytest.mark.parametrize("mode", MODES)
def test_a_table_needs_an_angle_or_a_view_where_frames_are_turned_or_rectified_and_only_there(mode: Any) -> None:
    plan = plan_preprocess(rgb_frames(64, 64), Preprocess(16, 16), mode, ORIN_SHARED_BYTES)
    for pose, of in ((None, "upright"), (3.0, "turned"), (SQUARE, "rectified")):
        if of == mode:
            assert len(frame_table(plan, pose)) == plan.table_ints
        else:
            with pytest.raises(EngineError, match=f"planned for frames that are {mode}, but .* is for {of} ones"):
                frame_table(plan, pose)


def test_a_square_of_another_size_than_the_models_is_refused() -> None:
    plan = plan_preprocess(rgb_frames(64, 64), Preprocess(16, 18), "rectified", ORIN_SHARED_BYTES)
    with pytest.raises(EngineError, match=r"A square of 16 px .* longer side has 18"):
        frame_table(plan, SQUARE)


def test_arguments_stand_in_the_order_of_the_kernel(preprocess_device) -> None:
    plan = plan_preprocess(rgb_frames(64, 48, 200), Preprocess(16, 18), "upright", ORIN_SHARED_BYTES)
    pointers = {name: f"pointer {name}" for name in ARGUMENTS[:4]}
    found = arguments(plan, {**pointers, "frame_bytes": 1, "chroma_bytes": 2, "table_ints": 3})
    assert found[:4] == tuple(pointers.values())
    assert found[4:13] == (200, 1, 0, 2, 3, 64, 48, 18, 16)
    assert all(isinstance(value, np.int32) for value in found[4:])
    assert len(found) == len(preprocess_device.kernels[plan.kernel])
