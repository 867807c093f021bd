"""Plans the launches of `preprocess.cu`: tiles, shared memory, and for every frame a table of windows and weights.

Pure NumPy, so that the proof on the CPU and the launcher on the GPU run the same plan. `plan_preprocess` depends on
sizes only, so its launch may be kept and captured; what depends on the angle by which a frame is turned lies in the
frame's table, see table.py.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dphr_infer.cuda.preprocess.resampling import Windows, resize_windows, rows_come_first
from dphr_infer.errors import ImageError
from dphr_infer.images.frame_format import FrameFormat
from dphr_infer.images.preprocess import MIN_SIDE_PX, Preprocess
from dphr_infer.images.rectify import MAX_REDUCTION, GroundSquare

ARGUMENTS = (
    "pixels",
    "chroma",
    "tables",
    "images",
    "stride",
    "frame_bytes",
    "chroma_stride",
    "chroma_bytes",
    "table_ints",
    "width",
    "height",
    "out_width",
    "out_height",
    "tile_w",
    "tile_h",
    "x_taps",
    "y_taps",
    "window_w",
    "kept_ints",
    "reduced_h",
    "reduced_pixels",
    "raw_bytes",
)
_POINTERS = 4
THREADS = 256
PASS_ROWS = 16
HEADER_INTS = 36
# Tiles in the order in which they are tried; smaller ones read more of the frame twice.
_TILES = ((32, 32), (32, 16), (16, 16), (16, 8), (8, 8), (8, 4), (4, 4), (2, 2), (1, 1))
_LARGE_TILES = 4
# Blocks an SM that a tile has to leave room for; small tiles make do with one.
_BLOCKS_AN_SM = 2
_RESERVED_BYTES = 1024
# Frame bytes that a turned tile's block brings at once.
_PART_BYTES = 16 << 10
# Reduced pixels below 16x16 that are rectified: at most two to each, seen at any angle, with their neighbours.
_GROUND_SIDE_PX, _GROUND_ROWS = 48, 96
_ALIGNMENT = 16

# What becomes of a frame before its resize: nothing, a turn by degrees clockwise, or the ground that it shows.
Pose = float | GroundSquare | None
Mode = Literal["upright", "turned", "rectified"]


def mode_of(pose: Pose) -> Mode:
    """Which kernel brings a frame to that pose."""
    if pose is None:
        return "upright"
    return "rectified" if isinstance(pose, GroundSquare) else "turned"


@dataclass(frozen=True, slots=True)
class PreprocessPlan:
    """One launch for frames of one size.

    Attributes:
        frame: what a frame's bytes mean.
        preprocess: what becomes of it.
        mode: whether each frame is turned by an angle of its own, or rectified by a view of its own, first.
        kernel: name of the function in preprocess.cu.
        tiles: across and down; the grid is (*tiles, frames).
        block: threads, (256, 1, 1).
        shared_bytes: dynamic shared memory; above 48 KiB the function attribute has to be raised first.
        table_ints: length of a frame's table.
        sizes: the kernel's int32 arguments from `width` on, by name; and `window_h` and `reduced_w`, of the same kind.
    """

    frame: FrameFormat
    preprocess: Preprocess
    mode: Mode
    kernel: str
    tiles: tuple[int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    table_ints: int
    sizes: Mapping[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class _Extent:
    """A picture that is resized: a frame, or the largest square of a turned one at one factor.

    Attributes:
        x, y: its windows.
        spread: sides of the part of a reduced frame that a turned window covers, by the window's longer side.
        factor: by which the frame is reduced before it is turned.
    """

    x: Windows
    y: Windows
    spread: float = 0.0
    factor: int = 1


@dataclass(frozen=True, slots=True)
class Part:
    """What a turned tile's block brings at once.

    Attributes:
        columns, rows: reduced pixels.
        raw_rows: frame rows that make them.
        raw_pitch: shared bytes from one of these to the next.
    """

    columns: int
    rows: int
    raw_rows: int
    raw_pitch: int


def plan_preprocess(frame: FrameFormat, preprocess: Preprocess, mode: Mode, shared_limit: int) -> PreprocessPlan:
    """The launch for frames of this format.

    Args:
        frame: the frames' format.
        preprocess: what is to become of them.
        mode: "upright" for `preprocess(image)`, "turned" for `preprocess(rotate_square(image, degrees, longer side))`,
            "rectified" for `preprocess(rectify(image, view, longer side, gsd_m).image)`.
        shared_limit: shared memory in bytes that a block may ask for (opt-in): 166,912 on sm_87, 232,448 on sm_90.

    Raises:
        ImageError: one output pixel covers so many pixels of the frame that they do not fit in shared memory, which
            needs a frame of more than 200 times the model's sides; or the frame is so small that turning it may
            leave less than 16 px per side.
    """
    if mode == "upright":
        extents = [_Extent(*picture_windows(frame.width_px, frame.height_px, preprocess))]
    elif mode == "rectified":
        extents = [_Extent(*picture_windows(*[longer_side_px(preprocess)] * 2, preprocess))]
    else:
        smallest = min(frame.width_px, frame.height_px) / math.sqrt(2.0)
        if smallest < MIN_SIDE_PX:
            raise ImageError(
                f"A frame of {frame.width_px}x{frame.height_px} px, turned by 45 degrees, leaves {smallest:.0f} px per "
                f"side, and {MIN_SIDE_PX} are needed: use a larger frame."
            )
        extents = list(_turned_extents(frame, preprocess))
    sizes, shared = _choose_tile(frame, preprocess, extents, mode, shared_limit)
    width, height = preprocess.width_px, preprocess.height_px
    spans = 2 * longer_side_px(preprocess) if mode == "rectified" else 0
    return PreprocessPlan(
        frame=frame,
        preprocess=preprocess,
        mode=mode,
        kernel=f"preprocess_{mode}_{frame.pixels}",
        tiles=(-(-width // sizes["tile_w"]), -(-height // sizes["tile_h"])),
        block=(THREADS, 1, 1),
        shared_bytes=shared,
        table_ints=HEADER_INTS + 2 * (width + height) + width * sizes["x_taps"] + height * sizes["y_taps"] + spans,
        sizes=sizes,
    )


def _turned_extents(frame: FrameFormat, preprocess: Preprocess) -> Iterator[_Extent]:
    """The largest pictures that turning may leave, whatever the angle: two for each factor."""
    side, twice = min(frame.width_px, frame.height_px), 2 * longer_side_px(preprocess)
    smallest = side / math.sqrt(2.0)
    for factor in range(max(1, int(smallest // twice)), max(1, side // twice) + 1):
        most = min(float(side), float(twice * (factor + 1)))
        least = max(smallest, float(twice * factor) if factor > 1 else 0.0)
        for square in (most, least):
            # Reducing rounds up, by less than a pixel.
            reduced = int(square / factor) + 2
            yield _Extent(*picture_windows(reduced, reduced, preprocess), side / square, factor)


def longer_side_px(preprocess: Preprocess) -> int:
    """`rotate_square`'s model side."""
    return max(preprocess.width_px, preprocess.height_px)


@functools.lru_cache(maxsize=128)
def picture_windows(width: int, height: int, preprocess: Preprocess) -> tuple[Windows, Windows]:
    """The passes over columns and over rows that resize a picture of this size; kept, as squares come again."""
    left, top, right, bottom = preprocess.box(width, height)
    return (
        resize_windows(width, left, right, preprocess.width_px, preprocess.interpolation),
        resize_windows(height, top, bottom, preprocess.height_px, preprocess.interpolation),
    )


def longest_window_px(windows: Windows, tile: int) -> int:
    """Pixels between the first and the last that one tile needs, at most."""
    first = windows.first[::tile]
    last = np.minimum(np.arange(len(first)) * tile + tile, len(windows.first)) - 1
    return int((windows.first[last] + windows.count[last] - first).max())


def _choose_tile(
    frame: FrameFormat, preprocess: Preprocess, extents: list[_Extent], mode: Mode, shared_limit: int
) -> tuple[dict[str, int], int]:
    """The largest tile of which two blocks, else one, fit on an SM: its sizes and shared bytes."""
    tries = [(tile, blocks) for blocks in (_BLOCKS_AN_SM, 1) for tile in _TILES[:_LARGE_TILES]]
    tries += [(tile, 1) for tile in _TILES[_LARGE_TILES:]]
    least = math.inf
    for (tile_w, tile_h), blocks in tries:
        sizes = _sizes(frame, preprocess, extents, mode, tile_w, tile_h)
        shared = _shared_bytes(sizes, mode)
        if shared <= (shared_limit + _RESERVED_BYTES) // blocks - _RESERVED_BYTES:
            return sizes, shared
        least = min(least, shared)
    raise ImageError(
        f"A frame of {frame.width_px}x{frame.height_px} px is so much larger than the model's {preprocess.width_px}x"
        f"{preprocess.height_px} px that one output pixel needs {least:,} bytes of shared memory, but a block of this "
        f"GPU has {shared_limit:,}: reduce the frame first."
    )


def _sizes(
    frame: FrameFormat, preprocess: Preprocess, extents: list[_Extent], mode: Mode, tile_w: int, tile_h: int
) -> dict[str, int]:
    """The kernel's sizes for one tile, and `window_h` and `reduced_w`, large enough for every extent."""
    # The same square one pixel smaller, or beginning elsewhere, may need a pixel or two more.
    spare = 2 if mode == "turned" else 0
    windows = [(longest_window_px(of.x, tile_w) + spare, longest_window_px(of.y, tile_h) + spare) for of in extents]
    window_w, window_h = (max(sides) for sides in zip(*windows, strict=True))
    columns_first, rows_first = window_h * (tile_w + 1), 3 * tile_h * window_w
    found = {
        "width": frame.width_px,
        "height": frame.height_px,
        "out_width": preprocess.width_px,
        "out_height": preprocess.height_px,
        "tile_w": tile_w,
        "tile_h": tile_h,
        "x_taps": max(of.x.weights.shape[1] for of in extents) + spare,
        "y_taps": max(of.y.weights.shape[1] for of in extents) + spare,
        "window_w": window_w,
        "window_h": window_h,
        "kept_ints": max(columns_first, rows_first),
    }
    if mode == "turned":
        # A square shrinks in height by more than in width only where the model is wider than high.
        if preprocess.width_px <= preprocess.height_px:
            found["kept_ints"] = columns_first
        return found | _reduced_sizes(frame, extents, windows)
    target = (preprocess.width_px, preprocess.height_px)
    source = (frame.width_px, frame.height_px) if mode == "upright" else (longer_side_px(preprocess),) * 2
    found["kept_ints"] = rows_first if rows_come_first(source, target) else columns_first
    if mode == "rectified":
        parts = (part_of(frame, factor, _GROUND_SIDE_PX) for factor in range(1, MAX_REDUCTION + 1))
        raw_bytes = max(_planes(frame) * part.raw_rows * part.raw_pitch for part in parts)
        most = {"reduced_w": _GROUND_SIDE_PX, "reduced_h": _GROUND_ROWS, "reduced_pixels": _GROUND_SIDE_PX**2}
        return found | most | {"raw_bytes": raw_bytes}
    raw_bytes = _planes(frame) * PASS_ROWS * raw_pitch(frame, window_w)
    return found | {"reduced_w": 0, "reduced_h": 0, "reduced_pixels": 0, "raw_bytes": raw_bytes}


def _reduced_sizes(frame: FrameFormat, extents: list[_Extent], windows: list[tuple[int, int]]) -> dict[str, int]:
    """The part of a reduced frame under a turned window: a rectangle with a margin for the cubic, row by row."""
    found = {"reduced_w": 0, "reduced_h": 0, "reduced_pixels": 0, "raw_bytes": 0}
    for extent, (width, height) in zip(extents, windows, strict=True):
        # Four more for the cubic's pixels and an even first row, two for rounding.
        reach = int(max(width, height) * extent.spread) + 6
        reduced_w = min(reach, -(-frame.width_px // extent.factor))
        reduced_h = min(reach, -(-frame.height_px // extent.factor))
        ragged = int(width * height + 6 * extent.spread * (width + height)) + 64 + 2 * reduced_w
        found["reduced_w"] = max(found["reduced_w"], reduced_w)
        found["reduced_h"] = max(found["reduced_h"], reduced_h)
        found["reduced_pixels"] = max(found["reduced_pixels"], min(ragged, reduced_w * reduced_h))
    for extent in extents:
        part = part_of(frame, extent.factor, found["reduced_w"])
        found["raw_bytes"] = max(found["raw_bytes"], _planes(frame) * part.raw_rows * part.raw_pitch)
    return found


def _planes(frame: FrameFormat) -> int:
    return 1 if frame.pixels == "rgb" else 2


def raw_pitch(frame: FrameFormat, n_pixels: int) -> int:
    """Shared bytes from one row of n frame pixels to the next: any alignment, and 8 bytes that are read with the last.

    A row of chroma may begin and end a pixel further out.
    """
    n_bytes = 3 * n_pixels if frame.pixels == "rgb" else n_pixels + 2
    return _aligned(n_bytes + _ALIGNMENT - 1 + 8)


def part_of(frame: FrameFormat, factor: int, reduced_w: int) -> Part:
    """As many rows of `reduced_w` reduced pixels as fit, at least one; of these, as many columns as fit, at least one.

    Where a row of chroma would serve two rows of reduced pixels, rows come in pairs.
    """
    together = 2 if frame.pixels == "nv12" and factor % 2 else 1
    row_bytes = together * factor * raw_pitch(frame, reduced_w * factor) * _planes(frame)
    rows = together * max(1, min(PASS_ROWS // (factor * together), _PART_BYTES // row_bytes))
    columns = reduced_w
    while columns > 1 and rows * factor * raw_pitch(frame, columns * factor) * _planes(frame) > _PART_BYTES:
        columns -= 1
    return Part(columns, rows, rows * factor, raw_pitch(frame, columns * factor))


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // _ALIGNMENT) * _ALIGNMENT


def _shared_bytes(sizes: Mapping[str, int], mode: Mode) -> int:
    """As preprocess.cu lays it out: frame rows, window rows, what the first pass keeps, the reduced part."""
    raw, words = sizes["raw_bytes"], 4 * PASS_ROWS * (sizes["window_w"] | 1)
    brought = max(raw, words) if mode == "turned" else raw + words
    return brought + 4 * (sizes["kept_ints"] + 3 * sizes["reduced_h"] + sizes["reduced_pixels"])


def arguments(plan: PreprocessPlan, values: Mapping[str, Any]) -> tuple[Any, ...]:
    """The kernel's arguments in its order: pointers as they are, sizes as int32.

    Args:
        plan: whose sizes and strides are taken.
        values: `pixels`, `chroma`, `tables`, `images`, and `frame_bytes`, `chroma_bytes`, `table_ints` as steps from
            frame to frame.
    """
    strides = {"stride": plan.frame.stride_bytes, "chroma_stride": plan.frame.chroma_stride_bytes}
    found = {**values, **strides, **plan.sizes}
    return tuple(found[name] if i < _POINTERS else np.int32(found[name]) for i, name in enumerate(ARGUMENTS))
