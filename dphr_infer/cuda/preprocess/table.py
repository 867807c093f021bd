"""A frame's table for `preprocess.cu`: colours, the resize's windows and weights, and how it is turned or rectified."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dphr_infer.cuda.preprocess.plan import (
    HEADER_INTS,
    PASS_ROWS,
    Part,
    Pose,
    PreprocessPlan,
    longer_side_px,
    longest_window_px,
    mode_of,
    part_of,
    picture_windows,
    raw_pitch,
)
from dphr_infer.cuda.preprocess.resampling import Windows, mean_multiplier, rotation_matrix, rows_come_first
from dphr_infer.errors import EngineError
from dphr_infer.images.frame_format import colour_coefficients
from dphr_infer.images.rectify import GroundSquare
from dphr_infer.images.rotation import inscribed_side_px

_MATRIX_AT = 18
_FIXED_ONE = 2.0**32
# No value that the kernel makes of a perspective's integers is larger.
_LARGEST = 2.0**61

Matrix = tuple[float, float, float, float, float, float]


@dataclass(frozen=True, slots=True)
class Turn:
    """What `rotate_square` does to a frame.

    Attributes:
        factor: by which it is reduced first.
        reduced_width, reduced_height: what is left.
        side: of the square that it takes.
        matrix: a, b, c, d, e, f: the square's pixel (x, y), whole numbers at pixel centres, lies at
            (a x + b y + c, d x + e y + f) of the reduced frame.
    """

    factor: int
    reduced_width: int
    reduced_height: int
    side: int
    matrix: Matrix


def turn_of(width: int, height: int, clockwise_deg: float, model_side_px: int) -> Turn:
    """`rotate_square`'s geometry for a frame of this size; an angle that is not finite raises ImageError."""
    factor = max(1, int(inscribed_side_px(width, height, clockwise_deg) // (2 * model_side_px)))
    width, height = -(-width // factor), -(-height // factor)
    side = int(inscribed_side_px(width, height, clockwise_deg) + 1e-6)
    quarters, rest = divmod(clockwise_deg % 360.0, 90.0)
    if rest == 0.0:
        across, down = (height, width) if quarters % 2 else (width, height)
        by_quarters: tuple[Matrix, ...] = (
            (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
            (0.0, 1.0, 0.0, -1.0, 0.0, height - 1.0),
            (-1.0, 0.0, width - 1.0, 0.0, -1.0, height - 1.0),
            (0.0, -1.0, width - 1.0, 1.0, 0.0, 0.0),
        )
        a, b, c, d, e, f = by_quarters[int(quarters) % 4]
    else:
        across, down = width, height
        a, b, c, d, e, f = rotation_matrix(width, height, clockwise_deg)
        # Pillow counts from the upper left corner of a pixel, on both sides.
        c, f = c + (a + b) / 2 - 0.5, f + (d + e) / 2 - 0.5
    left, top = (across - side) // 2, (down - side) // 2
    return Turn(factor, width, height, side, (a, b, a * left + b * top + c, d, e, d * left + e * top + f))


def frame_table(plan: PreprocessPlan, pose: Pose = None) -> NDArray[np.int32]:
    """The table of one frame.

    Args:
        plan: of the launch.
        pose: None for an upright plan; by how many degrees a turned picture turns clockwise, so that a photo's yaw
            brings north up; the square of a rectified one, of the model's longer side.

    Returns:
        int32 (plan.table_ints,), as preprocess.cu describes it.

    Raises:
        ImageError: the angle is not finite, or the photo shows nothing of the square.
        EngineError: a pose of another kind than the plan's, or a square of another size than the model's.
    """
    if plan.mode != mode_of(pose):
        raise EngineError(
            f"The launch was planned for frames that are {plan.mode}, but what is given is for {mode_of(pose)} ones: "
            "plan another one."
        )
    width, height = plan.frame.width_px, plan.frame.height_px
    header = np.zeros(HEADER_INTS, np.int32)
    spans: list[NDArray[np.int32]] = []
    if pose is None:
        part = Part(0, 0, PASS_ROWS, raw_pitch(plan.frame, plan.sizes["window_w"]))
    elif isinstance(pose, GroundSquare):
        spans.append(_write_ground(header, pose, plan))
        part = part_of(plan.frame, pose.reduction(width), plan.sizes["reduced_w"])
        width = height = pose.side_px
    else:
        turn = turn_of(width, height, pose, longer_side_px(plan.preprocess))
        part = part_of(plan.frame, turn.factor, plan.sizes["reduced_w"])
        _write_reduction(header, turn.factor, plan)
        fixed = np.array([round(value * _FIXED_ONE) for value in turn.matrix], np.int64)
        header[_MATRIX_AT : _MATRIX_AT + 12] = fixed.view(np.int32)
        width = height = turn.side
    if plan.frame.pixels == "nv12":
        of = colour_coefficients(plan.frame.matrix, plan.frame.colour_range)
        header[:6] = of.zero, of.scale, of.red_v, of.green_u, of.green_v, of.blue_u
    target = (plan.preprocess.width_px, plan.preprocess.height_px)
    header[6] = rows_come_first((width, height), target)
    header[10:14] = part.raw_rows, part.raw_pitch, part.columns, part.rows
    windows = picture_windows(width, height, plan.preprocess)
    _check_fits(plan, windows)
    lists = [side for of in windows for side in (of.first, of.count)]
    weights = [_widened(of, plan.sizes[f"{side}_taps"]) for side, of in zip("xy", windows, strict=True)]
    return np.concatenate([header, *lists, *weights, *spans])


def _write_reduction(header: NDArray[np.int32], factor: int, plan: PreprocessPlan) -> tuple[int, int]:
    """Also returns the reduced frame's width and height."""
    width, height = plan.frame.width_px, plan.frame.height_px
    reduced_w, reduced_h = -(-width // factor), -(-height // factor)
    header[7:10] = factor, reduced_w, reduced_h
    last_w, last_h = width - factor * (reduced_w - 1), height - factor * (reduced_h - 1)
    blocks = (factor * factor, last_w * factor, factor * last_h, last_w * last_h)
    header[14:18] = [mean_multiplier(n) for n in blocks]
    return reduced_w, reduced_h


def _write_ground(header: NDArray[np.int32], square: GroundSquare, plan: PreprocessPlan) -> NDArray[np.int32]:
    """Also returns the spans that the frame shows, int32 (2 * side,)."""
    side = longer_side_px(plan.preprocess)
    if square.side_px != side:
        raise EngineError(
            f"A square of {square.side_px} px is to be rectified, but the model's longer side has {side}: ask for that."
        )
    width, height, factor = plan.frame.width_px, plan.frame.height_px, square.reduction(plan.frame.width_px)
    reduced = _write_reduction(header, factor, plan)
    x, y, z = square.to_photo(width, height) @ np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
    matrix = np.stack([x / factor - z / 2, y / factor - z / 2, z])  # between the middles of reduced pixels
    ends = np.array([[0, side, 0, side], [0, 0, side, side], [1, 1, 1, 1]])
    largest = np.abs(matrix @ ends).max(axis=1) * (1, 1, max(reduced) + 2)
    fixed = np.rint(matrix * (_LARGEST / largest.max())).astype(np.int64)
    header[_MATRIX_AT : _MATRIX_AT + 18] = fixed.reshape(-1).view(np.int32)
    return square.spans(width, height).reshape(-1)


def _widened(windows: Windows, taps: int) -> NDArray[np.int32]:
    """Weights with zeros behind them up to the plan's number, flat."""
    n, own = windows.weights.shape
    out = np.zeros((n, taps), np.int32)
    out[:, :own] = windows.weights
    return out.reshape(-1)


def _check_fits(plan: PreprocessPlan, windows: tuple[Windows, Windows]) -> None:
    """That no block writes beyond its shared memory: the plan's maxima hold for every angle, or it is our bug."""
    sizes = plan.sizes
    for side, of in zip(("w", "h"), windows, strict=True):
        longest, most = longest_window_px(of, sizes[f"tile_{side}"]), sizes[f"window_{side}"]
        taps = sizes["x_taps" if side == "w" else "y_taps"]
        if longest > most or of.weights.shape[1] > taps:
            raise EngineError(
                f"A tile needs {longest} pixels and {of.weights.shape[1]} weights a side, but the launch was planned "
                f"for {most} and {taps}: this is a bug, report it with the frame's size and the angle."
            )
