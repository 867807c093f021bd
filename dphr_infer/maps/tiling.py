"""Where the tiles of a map lie, and how pixels become a tile. Knows a raster only by its size and its scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dphr_infer.errors import MapError
from dphr_infer.images.preprocess import MIN_SIDE_PX
from dphr_infer.types import GeoPoint

MAX_TILES = 50_000_000

MetresPerPx = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
"""Pixel positions x and y, float64 (n,) -> true metres a pixel takes to the right and down, float64 (n, 2)."""


@dataclass(frozen=True, slots=True)
class TileSpot:
    """Where a tile lies in the raster: centre in pixels (x right, y down) and degrees, size in pixels."""

    x_px: float
    y_px: float
    width_px: float
    height_px: float
    point: GeoPoint


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """A tile's picture: uint8 (S, S, 3), square on the ground, and the share of it that the raster does not cover."""

    image: NDArray[np.uint8]
    nodata_share: float


@dataclass(frozen=True, slots=True)
class GridRow:
    """One row of tile centres, all at the height y_px: the first at x_px, `count` of them, step_px apart."""

    y_px: float
    x_px: float
    step_px: float
    count: int


@dataclass(frozen=True, slots=True)
class PixelBox:
    """Whole pixels of a raster, half-open; it may reach beyond the raster."""

    left: int
    top: int
    right: int
    bottom: int

    def clipped(self, width_px: int, height_px: int) -> PixelBox:
        """The part inside a raster of this size; empty where right <= left or bottom <= top."""
        return PixelBox(max(self.left, 0), max(self.top, 0), min(self.right, width_px), min(self.bottom, height_px))

    @property
    def empty(self) -> bool:
        """Whether it holds no pixel."""
        return self.right <= self.left or self.bottom <= self.top


def plan_rows(
    width_px: int, height_px: int, metres_per_px: MetresPerPx, tile_m: float, stride_m: float, row_bytes: int = 0
) -> list[GridRow]:
    """The grid of tiles that lie wholly within a raster, from top to bottom.

    Rows and columns are a stride apart in true metres, measured at the middle of each row; what is left over lies as
    equal margins on opposite sides.

    Args:
        width_px, height_px: of the raster.
        metres_per_px: its scale.
        tile_m, stride_m: side of a tile, and distance between tile centres.
        row_bytes: of a tile in the gallery, for the error's words.

    Raises:
        MapError: tile or stride is not positive, the raster is smaller than one tile, a tile has fewer than 16 pixels a
            side, or there would be more than 50 million.
    """
    if not (0 < tile_m < math.inf and 0 < stride_m < math.inf):
        raise MapError(f"The tile is {tile_m} m and the stride {stride_m} m; both must be finite and above 0.")

    def scale(y_px: float) -> tuple[float, float]:
        across, down = metres_per_px(np.array([width_px / 2]), np.array([min(y_px, height_px)]))[0]
        return float(across), float(down)

    across, down = scale(height_px / 2)
    if tile_m > min(width_px * across, height_px * down):
        raise MapError(
            f"The map covers {width_px * across:.1f} x {height_px * down:.1f} m, less than one tile of "
            f"{tile_m:g} x {tile_m:g} m. Choose a smaller tile or a larger map."
        )
    _check_detail(tile_m, scales := [scale(y) for y in (0.0, height_px / 2, float(height_px))])
    _check_number(
        width_px * max(across for across, _ in scales), height_px * max(down for _, down in scales), stride_m, row_bytes
    )
    centres = _row_centres(height_px, scale, tile_m, stride_m)
    return [_grid_row(y, width_px, scale(y)[0], tile_m, stride_m) for y in centres]


def _check_detail(tile_m: float, scales: Sequence[tuple[float, float]]) -> None:
    coarsest_m = max(min(pair) for pair in scales)
    if tile_m < MIN_SIDE_PX * coarsest_m:
        raise MapError(
            f"A tile of {tile_m:g} m has fewer than {MIN_SIDE_PX} pixels per side on this map of {coarsest_m:.3g} m "
            f"per pixel. Choose a tile of at least {MIN_SIDE_PX * coarsest_m:.4g} m, or a map of more detail."
        )


def _check_number(width_m: float, height_m: float, stride_m: float, row_bytes: int) -> None:
    n_tiles = (width_m / stride_m + 1) * (height_m / stride_m + 1)
    if n_tiles > MAX_TILES:
        raise MapError(
            f"A stride of {stride_m:g} m asks for about {n_tiles:.3g} tiles of this map of {width_m:.0f} x "
            f"{height_m:.0f} m, a gallery of about {n_tiles * row_bytes / 1e9:.3g} GB; at most {MAX_TILES:,} tiles are "
            "indexed. Raise the stride."
        )


def _row_centres(
    height_px: int, scale: Callable[[float], tuple[float, float]], tile_m: float, stride_m: float
) -> list[float]:
    half_px = tile_m / 2 / scale(0.0)[1]
    y_px = tile_m / 2 / scale(half_px)[1]
    centres: list[float] = []
    bottom_px = 0.0
    while (edge_px := y_px + tile_m / 2 / scale(y_px)[1]) <= height_px + 1e-6:
        centres.append(y_px)
        bottom_px = edge_px
        # A step at the scale halfway, so that rows stay a stride apart where the scale changes.
        y_px += stride_m / scale(y_px + stride_m / 2 / scale(y_px)[1])[1]
    return [y + (height_px - bottom_px) / 2 for y in centres]


def _grid_row(y_px: float, width_px: int, across: float, tile_m: float, stride_m: float) -> GridRow:
    length_m = width_px * across
    count = max(0, math.floor((length_m - tile_m) / stride_m + 1e-9) + 1)
    first_m = (length_m - (count - 1) * stride_m) / 2
    return GridRow(y_px, first_m / across, stride_m / across, count)


def pixel_box(spot: TileSpot) -> PixelBox:
    """The whole pixels nearest to a tile's edges, at least one each way."""
    left, top = round(spot.x_px - spot.width_px / 2), round(spot.y_px - spot.height_px / 2)
    right, bottom = round(spot.x_px + spot.width_px / 2), round(spot.y_px + spot.height_px / 2)
    return PixelBox(left, top, max(right, left + 1), max(bottom, top + 1))


def compose_tile(box: PixelBox, inside: PixelBox, pixels: NDArray[np.uint8], has_data: NDArray[np.bool_]) -> Tile:
    """Put what the raster has of a box into a square picture.

    Pixels without data, and those beyond the raster, get the mean colour of the others; a tile without any data is
    black. Where a pixel is wider than high on the ground or the other way round, the coarser direction is interpolated.

    Args:
        box: the tile's pixels.
        inside: the part of it that was read; may be empty.
        pixels: uint8 (h, w, 3) of `inside`.
        has_data: bool (h, w) of `inside`.
    """
    width, height = box.right - box.left, box.bottom - box.top
    image, valid = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), bool)
    if not inside.empty:
        part = np.s_[inside.top - box.top : inside.bottom - box.top, inside.left - box.left : inside.right - box.left]
        image[part], valid[part] = pixels, has_data
    if not valid.all():
        mean = image[valid].mean(axis=0) if valid.any() else np.zeros(3)
        image[~valid] = np.round(mean).astype(np.uint8)
    side = max(width, height)
    if (width, height) != (side, side):
        image = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))
    return Tile(image, float(1 - valid.mean()))
