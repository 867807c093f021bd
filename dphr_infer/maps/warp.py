"""A picture interpolated once from the pixels of a map that lie in another projection.

The picture is cut into cells of at most 128 pixels; their corners are brought through the projections, and between them
positions are interpolated bilinearly, which on cells of some kilometres is good to hundredths of a pixel. Where the map
is finer than the picture, its pixels are averaged over whole blocks first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dphr_infer.errors import MapError
from dphr_infer.maps.tiling import PixelBox

Floats = NDArray[np.float64]
Places = Callable[[Floats, Floats], Floats]
"""Positions x and y in a picture, float64 (n,), 0 its outer edges -> latitude and longitude, float64 (n, 2); NaN where
there is no such place."""

_CELL_PX = 128
_MARGIN_PX = 2


class Source(Protocol):
    """A map's own pixels, with positions counted from the outer edge of its first."""

    def locate(self, points: Floats) -> Floats:
        """Latitude and longitude -> x and y in pixels, float64 (n, 2); NaN where its projection does not reach.

        Positions of neighbouring places are neighbours, also across the antimeridian.
        """
        ...

    def block_of(self, x_px: float, y_px: float) -> tuple[int, int]:
        """Over how many pixels right and down to average, where a pixel of the picture takes these."""
        ...

    def extent(self, block: tuple[int, int]) -> PixelBox:
        """The whole blocks that it has, counted in blocks."""
        ...

    def read_blocks(self, box: PixelBox, block: tuple[int, int]) -> NDArray[np.uint8]:
        """Mean colours of blocks within `extent`, uint8 (h, w, 4); the last is 255 where all of a block has data."""
        ...


def warp(places: Places, source: Source, width_px: int, height_px: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Interpolate a picture bilinearly.

    Args:
        places: where its pixels lie.
        source: the map.
        width_px, height_px: of the picture.

    Returns:
        uint8 (height, width, 3), 0 where not covered; bool (height, width), whether all that a pixel was made from has
        data.

    Raises:
        MapError: the map is damaged, or its projection is torn there.
    """
    columns, rows = _edges(width_px), _edges(height_px)
    x, y = (values.ravel() for values in np.meshgrid(columns.astype(np.float64), rows.astype(np.float64)))
    at = source.locate(places(x, y)).reshape(len(rows), len(columns), 2)
    scale = _scale(at, columns, rows)
    blank = np.zeros((height_px, width_px, 3), np.uint8), np.zeros((height_px, width_px), bool)
    if scale is None:
        return blank
    block = source.block_of(*scale)
    corners = _corners(at / block)
    extent = source.extent(block)
    kept = _cells_on(corners, extent)
    if extent.empty or not kept.any():
        return blank
    used = corners[kept].reshape(-1, 2)
    left, top = (np.floor(used.min(axis=0)) - _MARGIN_PX).tolist()
    right, bottom = (np.ceil(used.max(axis=0)) + _MARGIN_PX).tolist()
    box = PixelBox(
        int(max(left, extent.left - 1)),
        int(max(top, extent.top - 1)),
        int(min(right, extent.right + 1)),
        int(min(bottom, extent.bottom + 1)),
    )
    if (box.right - box.left) * (box.bottom - box.top) > 16 * (width_px + _CELL_PX) * (height_px + _CELL_PX):
        raise MapError("The map's projection is torn there: a view would take most of it. Ask for a place on the map.")
    picture = _read_padded(source, box, block, extent)
    meshes = [
        ((columns[c], rows[r], columns[c + 1], rows[r + 1]), (corners[r, c] - (box.left, box.top)).ravel().tolist())
        for r, c in zip(*np.nonzero(kept), strict=True)
    ]
    warped = picture.transform((width_px, height_px), Image.Transform.MESH, meshes, Image.Resampling.BILINEAR)
    values = np.asarray(warped)
    covered = values[..., 3] == 255
    return np.where(covered[..., None], values[..., :3], np.uint8(0)), covered


def _edges(side_px: int) -> NDArray[np.int64]:
    """Of the cells that a side is cut into, two at least where it has the pixels."""
    cells = max(min(2, side_px), -(-side_px // _CELL_PX))
    return np.round(np.linspace(0, side_px, cells + 1)).astype(np.int64)


def _scale(at: Floats, columns: NDArray[np.int64], rows: NDArray[np.int64]) -> tuple[float, float] | None:
    """Source pixels right and down that one pixel of the picture takes; None where it lies nowhere."""
    across = np.diff(at, axis=1)[:-1] / np.diff(columns)[None, :, None]
    down = np.diff(at, axis=0)[:, :-1] / np.diff(rows)[:, None, None]
    scales = np.hypot(across, down).reshape(-1, 2)
    scales = scales[np.isfinite(scales).all(axis=1)]
    if not len(scales):
        return None
    x_px, y_px = np.median(scales, axis=0)
    return float(x_px), float(y_px)


def _corners(at: Floats) -> Floats:
    """Of each cell, as Pillow wants them: upper left, lower left, lower right, upper right; (rows, columns, 4, 2)."""
    return np.stack([at[:-1, :-1], at[1:, :-1], at[1:, 1:], at[:-1, 1:]], axis=2)


def _cells_on(corners: Floats, extent: PixelBox) -> NDArray[np.bool_]:
    """Which cells lie at least in part on the map; those torn apart by the edge of a projection do not."""
    low, high = corners.min(axis=2), corners.max(axis=2)
    size = (high - low).max(axis=-1)
    finite: NDArray[np.bool_] = np.isfinite(size)
    if not finite.any():
        return finite
    whole = np.less_equal(size, 4 * np.median(size[finite]))
    ahead = np.greater(high, (extent.left, extent.top)).all(axis=-1)
    behind = np.less(low, (extent.right, extent.bottom)).all(axis=-1)
    on: NDArray[np.bool_] = np.logical_and(whole, np.logical_and(ahead, behind))
    return on


def _read_padded(source: Source, box: PixelBox, block: tuple[int, int], extent: PixelBox) -> Image.Image:
    """A box of blocks as four bands, 0 beyond the map."""
    inside = PixelBox(
        max(box.left, extent.left),
        max(box.top, extent.top),
        min(box.right, extent.right),
        min(box.bottom, extent.bottom),
    )
    pixels = np.zeros((box.bottom - box.top, box.right - box.left, 4), np.uint8)
    pixels[inside.top - box.top : inside.bottom - box.top, inside.left - box.left : inside.right - box.left] = (
        source.read_blocks(inside, block)
    )
    return Image.frombuffer("RGBX", (pixels.shape[1], pixels.shape[0]), pixels, "raw", "RGBX", 0, 1)
