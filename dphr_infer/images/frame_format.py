"""Frames as cameras and decoders give them: RGB or NV12 in one buffer. The plain reference of what their bytes mean.

NV12 is a plane of luma Y (H, W) and a plane of chroma (H / 2, W / 2) pairs U V, one for each 2x2 pixels; the pair is
taken for all four. With integers of 16 fractional bits, `>>` rounding down and clipping to 0..255:

    luma = scale * (Y - zero) + 2^15
    R = (luma + red_v * (V - 128)) >> 16
    G = (luma + green_u * (U - 128) + green_v * (V - 128)) >> 16
    B = (luma + blue_u * (U - 128)) >> 16

Coefficients follow from Kr and Kb of ITU-R BT.601 (0.299, 0.114) or BT.709 (0.2126, 0.0722), for Y in 16..235 and U, V
in 16..240 (limited) or all in 0..255 (full).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import ImageError
from dphr_infer.images.preprocess import check_image_size
from dphr_infer.types import ColourMatrix, ColourRange, PixelFormat

_KR_KB: dict[ColourMatrix, tuple[float, float]] = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}
_ONE = 1 << 16
# Converted at a time, so that what lies between bytes and bytes stays in the processor's cache.
_ROWS_OF_PAIRS = 16


@dataclass(frozen=True, slots=True)
class FrameFormat:
    """What the bytes of one frame mean. `rgb_frames` and `nv12_frames` make one.

    Attributes:
        pixels: "rgb", triplets; or "nv12".
        width_px, height_px: even for nv12.
        stride_bytes: from one row, of luma for nv12, to the next.
        chroma_offset_bytes, chroma_stride_bytes: where chroma begins and from row to row; 0 for rgb.
        matrix, colour_range: of nv12.
    """

    pixels: PixelFormat
    width_px: int
    height_px: int
    stride_bytes: int
    chroma_offset_bytes: int = 0
    chroma_stride_bytes: int = 0
    matrix: ColourMatrix = "bt709"
    colour_range: ColourRange = "limited"

    def __post_init__(self) -> None:
        if self.pixels not in (known := get_args(PixelFormat)):
            raise ImageError(f"Pixel format {self.pixels!r} is unknown; choose one of {', '.join(known)}.")
        check_image_size(self.width_px, self.height_px, "The frame")
        needed = self.width_px * (3 if self.pixels == "rgb" else 1)
        _check_stride(self.stride_bytes, needed, self.pixels)
        if self.pixels == "nv12":
            self._check_chroma()

    def _check_chroma(self) -> None:
        if self.width_px % 2 or self.height_px % 2:
            raise ImageError(
                f"An nv12 frame of {self.width_px}x{self.height_px} px has an odd side, but one chroma pair serves 2x2 "
                "pixels: announce the even size that the camera or decoder really gives."
            )
        if self.matrix not in _KR_KB:
            raise ImageError(f"Colour matrix {self.matrix!r} is unknown; choose bt601 or bt709.")
        if self.colour_range not in ("limited", "full"):
            raise ImageError(f"Colour range {self.colour_range!r} is unknown; choose limited or full.")
        _check_stride(self.chroma_stride_bytes, self.width_px, "nv12 chroma")
        if self.chroma_offset_bytes < self._luma_bytes:
            raise ImageError(
                f"Chroma begins at byte {self.chroma_offset_bytes}, inside the luma plane of {self._luma_bytes} bytes: "
                "check the frame's strides and height."
            )

    @property
    def _luma_bytes(self) -> int:
        return self.stride_bytes * (self.height_px - 1) + self.width_px

    @property
    def frame_bytes(self) -> int:
        """From the first byte to behind the last pixel; padding behind the last row may be missing."""
        if self.pixels == "rgb":
            return self.stride_bytes * (self.height_px - 1) + 3 * self.width_px
        return self.chroma_offset_bytes + self.chroma_stride_bytes * (self.height_px // 2 - 1) + self.width_px

    @property
    def padded_bytes(self) -> int:
        """The same with the padding behind the last row: the most that one frame may have."""
        if self.pixels == "rgb":
            return self.stride_bytes * self.height_px
        return self.chroma_offset_bytes + self.chroma_stride_bytes * (self.height_px // 2)


def rgb_frames(width_px: int, height_px: int, stride_bytes: int | None = None) -> FrameFormat:
    """RGB triplets; without a stride rows follow each other.

    Raises:
        ImageError: a size out of range, or a stride shorter than a row.
    """
    return FrameFormat("rgb", width_px, height_px, 3 * width_px if stride_bytes is None else stride_bytes)


def nv12_frames(
    width_px: int,
    height_px: int,
    *,
    matrix: ColourMatrix,
    colour_range: ColourRange,
    stride_bytes: int | None = None,
    chroma_stride_bytes: int | None = None,
    chroma_offset_bytes: int | None = None,
) -> FrameFormat:
    """NV12; without strides rows follow each other, chroma has luma's stride and begins behind luma's last row.

    Raises:
        ImageError: an odd or impossible size, a stride shorter than a row, planes that overlap, an unknown matrix or
            range.
    """
    stride = width_px if stride_bytes is None else stride_bytes
    return FrameFormat(
        "nv12",
        width_px,
        height_px,
        stride,
        stride * height_px if chroma_offset_bytes is None else chroma_offset_bytes,
        stride if chroma_stride_bytes is None else chroma_stride_bytes,
        matrix,
        colour_range,
    )


@dataclass(frozen=True, slots=True)
class ColourCoefficients:
    """Integers of the formula above, with 16 fractional bits all but `zero`."""

    zero: int
    scale: int
    red_v: int
    green_u: int
    green_v: int
    blue_u: int


def colour_coefficients(matrix: ColourMatrix, colour_range: ColourRange) -> ColourCoefficients:
    """The integers for one matrix and range."""
    kr, kb = _KR_KB[matrix]
    kg = 1.0 - kr - kb
    limited = colour_range == "limited"
    chroma = 255.0 / 224.0 if limited else 1.0
    red, blue = 2.0 * (1.0 - kr) * chroma, 2.0 * (1.0 - kb) * chroma
    return ColourCoefficients(
        zero=16 if limited else 0,
        scale=round((255.0 / 219.0 if limited else 1.0) * _ONE),
        red_v=round(red * _ONE),
        green_u=-round(blue * kb / kg * _ONE),
        green_v=-round(red * kr / kg * _ONE),
        blue_u=round(blue * _ONE),
    )


def check_frame(frame: NDArray[np.uint8], layout: FrameFormat) -> NDArray[np.uint8]:
    """The bytes of one frame, uint8 (n,), C-contiguous; a picture (H, W, 3) is looked at as such.

    Raises:
        ImageError: not uint8 or not contiguous; a picture of another size than announced; more or fewer bytes than the
            layout says.
    """
    if frame.dtype != np.uint8 or not frame.flags.c_contiguous:
        raise ImageError(f"A frame is contiguous uint8, but this one is {frame.dtype} of shape {frame.shape}.")
    announced = (layout.height_px, layout.width_px, 3)
    if frame.ndim == 3 and frame.shape != announced:
        raise ImageError(
            f"The frame is {frame.shape[1]}x{frame.shape[0]} px with {frame.shape[2]} channels, but "
            f"{layout.width_px}x{layout.height_px} px {layout.pixels} were announced: open the source again."
        )
    size = f"{layout.width_px}x{layout.height_px} px {layout.pixels}"
    if frame.size < layout.frame_bytes:
        raise ImageError(
            f"The frame has {frame.size} bytes, but {size} needs {layout.frame_bytes}: it is truncated, or of another "
            "size or format than announced."
        )
    if frame.size > layout.padded_bytes:
        raise ImageError(
            f"The frame has {frame.size} bytes, but {size} has at most {layout.padded_bytes}: it is of another size or "
            "format than announced."
        )
    return frame.reshape(-1)


def to_rgb(frame: NDArray[np.uint8], layout: FrameFormat) -> NDArray[np.uint8]:
    """One frame -> uint8 (H, W, 3), C-contiguous, a copy; errors as in `check_frame`."""
    flat, (height, width) = check_frame(frame, layout), (layout.height_px, layout.width_px)
    if layout.pixels == "rgb":
        return np.array(_plane(flat, 0, layout.stride_bytes, height, 3 * width)).reshape(height, width, 3)
    luma = _plane(flat, 0, layout.stride_bytes, height, width)
    chroma = _plane(flat, layout.chroma_offset_bytes, layout.chroma_stride_bytes, height // 2, width)
    rgb = np.empty((height, width, 3), np.uint8)
    of = colour_coefficients(layout.matrix, layout.colour_range)
    for top in range(0, height // 2, _ROWS_OF_PAIRS):
        pairs = chroma[top : top + _ROWS_OF_PAIRS].astype(np.int32) - 128
        rows, u, v = slice(2 * top, 2 * (top + len(pairs))), pairs[:, ::2], pairs[:, 1::2]
        base = (of.scale * (luma[rows].astype(np.int32) - of.zero) + _ONE // 2).reshape(-1, 2, width)
        wide, out = np.empty((len(pairs), 1, width), np.int32), rgb[rows].reshape(-1, 2, width, 3)
        for channel, part in enumerate((of.red_v * v, of.green_u * u + of.green_v * v, of.blue_u * u)):
            wide[:, 0, ::2] = wide[:, 0, 1::2] = part  # for two columns; the sum repeats it for two rows
            out[..., channel] = np.clip((base + wide) >> 16, 0, 255)
    return rgb


def _plane(flat: NDArray[np.uint8], start: int, stride: int, n_rows: int, n_bytes: int) -> NDArray[np.uint8]:
    """Rows as they lie, uint8 (n_rows, n_bytes); read-only. The last row's padding may be missing."""
    return np.lib.stride_tricks.as_strided(flat[start:], (n_rows, n_bytes), (stride, 1), writeable=False)


def _check_stride(stride: int, needed: int, what: str) -> None:
    if stride < needed:
        raise ImageError(
            f"A row of {what} takes {needed} bytes, but rows begin {stride} bytes apart: check the stride."
        )
