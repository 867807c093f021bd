"""Raster -> map pack: Web Mercator tiles of a zoom level fine enough, and of the next coarser ones."""

from __future__ import annotations

import errno
import importlib.metadata
import io
import itertools
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from dphr_infer.errors import ConfigError, MapError
from dphr_infer.files.atomic import atomic_file, storage_error
from dphr_infer.maps.mercator import MAX_MERCATOR_DEG, TILE_PX, pixel_m, to_places, to_world
from dphr_infer.maps.pack import MAX_ZOOM, METADATA_KEY, PackOrigin
from dphr_infer.maps.raster import MapRaster
from dphr_infer.maps.warp import warp
from dphr_infer.measure.progress import track

QUALITY = 80
# The finest zoom level and the two above it, whose pixels take two and four of the finest.
LEVELS = 3
MAX_TILES = 50_000_000

# The middle of the scale from fast to small: beyond it hours are spent on some percent.
_EFFORT = 2
_PROBES = 33
# MBTiles' own number, by which other programs know the file.
_APPLICATION_ID = 0x4D504258
_TABLES = """
CREATE TABLE metadata (name text, value text);
CREATE TABLE tiles (zoom_level integer, tile_column integer, tile_row integer, tile_data blob);
CREATE UNIQUE INDEX tile_index ON tiles (zoom_level, tile_column, tile_row);
"""

TileRow = tuple[int, int, int, bytes]
"""Zoom level, column, row from the south, and the file."""


@dataclass(frozen=True, slots=True)
class PackPlan:
    """Which tiles a map takes.

    Attributes:
        min_zoom, max_zoom: the levels.
        columns, rows: of blocks, a block being a tile of the coarsest level; columns may lie beyond the world's edge.
        bounds_deg: west, south, east and north; west lies above east where the map crosses the antimeridian.
    """

    min_zoom: int
    max_zoom: int
    columns: range
    rows: range
    bounds_deg: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class PackReport:
    """A written pack: true metres a pixel at its middle, its tiles, and its size."""

    gsd_m: float
    tiles: int
    size_bytes: int


def plan_pack(raster: MapRaster, gsd_m: float | None = None) -> PackPlan:
    """Choose the zoom levels, and find the blocks that the map may touch.

    Args:
        raster: an opened map.
        gsd_m: metres a pixel at the map's middle that the finest level has to reach; None, and whatever is finer than
            the map, takes the map's own.

    Raises:
        ConfigError: it is not above 0 and finite.
        MapError: the map reaches beyond 85.05 degrees of latitude, or takes more than 50 million tiles.
    """
    if gsd_m is not None and not 0 < gsd_m < float("inf"):
        raise ConfigError(f"`map_gsd_m` is {gsd_m}; expected metres a pixel, above 0 and finite.")
    wanted_m, middle = max(gsd_m or 0.0, raster.gsd_m), raster.centre
    zoom = next((z for z in range(MAX_ZOOM) if max(pixel_m(middle.latitude_deg, z)) <= wanted_m), MAX_ZOOM)
    coarsest = max(0, zoom - LEVELS + 1)
    x, y = np.meshgrid(np.linspace(0, raster.width_px, _PROBES), np.linspace(0, raster.height_px, _PROBES))
    points = raster.to_points(x.ravel(), y.ravel())
    if (reach_deg := float(np.abs(points[:, 0]).max())) > MAX_MERCATOR_DEG:
        raise MapError(
            f"{raster.path} reaches latitude {reach_deg:.2f}; a map pack ends at {MAX_MERCATOR_DEG:.2f}. Cut the map "
            "off before: gdalwarp -te …"
        )
    points[:, 1] = (points[:, 1] - middle.longitude_deg + 180.0) % 360.0 - 180.0 + middle.longitude_deg
    at = to_world(points, coarsest) / TILE_PX
    # What curves beyond its sampled edges is far less than a twentieth of their distance.
    margin = np.ptp(at, axis=0) / _PROBES / 20 + 8 / (TILE_PX << (zoom - coarsest))
    (left, top), (right, bottom) = np.floor(at.min(axis=0) - margin), np.ceil(at.max(axis=0) + margin)
    columns, rows = range(int(left), int(right)), range(max(int(top), 0), min(int(bottom), 1 << coarsest))
    most = len(columns) * len(rows) * 4 ** (zoom - coarsest)
    if most > MAX_TILES:
        raise MapError(
            f"{raster.path} takes up to {most:,} tiles at {max(pixel_m(middle.latitude_deg, zoom)):.3g} m a pixel; at "
            f"most {MAX_TILES:,} are written. Raise --map-gsd-m."
        )
    (south, west), (north, east) = points.min(axis=0), points.max(axis=0)
    west, east = ((float(value) + 180.0) % 360.0 - 180.0 for value in (west, east))
    return PackPlan(coarsest, zoom, columns, rows, (west, float(south), east, float(north)))


def write_map_pack(raster: MapRaster, plan: PackPlan, map_sha256: str, out: Path) -> PackReport:
    """Write a map's pixels as a map pack. Memory does not grow with the map.

    Args:
        raster: an opened map.
        plan: of `plan_pack`.
        map_sha256: of the map's file.
        out: the pack; one that is there is replaced at the very end.

    Raises:
        MapError: the map is damaged or has no data, or the installed Pillow writes no WebP.
        StorageError: the disk refused.
    """
    if not features.check("webp"):
        raise MapError(
            "The installed Pillow writes no WebP, which map packs hold: pip install --force-reinstall pillow"
        )
    middle = raster.centre
    origin = PackOrigin(
        raster.path.name, map_sha256, raster.crs, middle.latitude_deg, middle.longitude_deg, raster.gsd_m,
        plan.min_zoom, plan.max_zoom, QUALITY, _version(),
    )  # fmt: skip
    blocks = list(itertools.product(plan.rows, plan.columns))
    with ThreadPoolExecutor(thread_name_prefix="dphr pack") as pool, atomic_file(out) as temporary:
        try:
            with closing(sqlite3.connect(temporary, isolation_level=None)) as database:
                for pragma in ("journal_mode = OFF", "synchronous = OFF", f"application_id = {_APPLICATION_ID}"):
                    database.execute(f"PRAGMA {pragma}")
                database.executescript(_TABLES)
                database.execute("BEGIN")
                database.executemany("INSERT INTO metadata VALUES (?, ?)", _metadata(origin, plan).items())
                n_tiles = 0
                for row, column in track(blocks, "map pack", len(blocks), "blocks"):
                    tiles = _block_tiles(raster, plan, column, row, pool)
                    n_tiles += database.executemany("INSERT INTO tiles VALUES (?, ?, ?, ?)", tiles).rowcount
                database.execute("COMMIT")
        except sqlite3.Error as error:
            reason = errno.ENOSPC if "full" in str(error) else errno.EIO
            raise storage_error(out, OSError(reason, str(error))) from error
        if n_tiles == 0:
            raise MapError(f"{raster.path} has no pixel with data: a pack of it would be empty.")
    return PackReport(min(pixel_m(middle.latitude_deg, plan.max_zoom)), n_tiles, out.stat().st_size)


def _version() -> str:
    try:
        return importlib.metadata.version("dphr")
    except importlib.metadata.PackageNotFoundError:
        return "of a source tree that is not installed"


def _metadata(origin: PackOrigin, plan: PackPlan) -> dict[str, str]:
    west, south, east, north = plan.bounds_deg
    if west > east:  # MBTiles has no words for a map across the antimeridian
        west, east = -180.0, 180.0
    return {
        "name": origin.map_name,
        "format": "webp",
        "type": "baselayer",
        "version": "1",
        "description": f"Map pack of {origin.map_name}, made by dphr {origin.made_by}",
        "minzoom": str(plan.min_zoom),
        "maxzoom": str(plan.max_zoom),
        "bounds": f"{west:.7f},{south:.7f},{east:.7f},{north:.7f}",
        "center": f"{origin.longitude_deg:.7f},{origin.latitude_deg:.7f},{plan.max_zoom}",
        METADATA_KEY: origin.to_json(),
    }


def _block_tiles(raster: MapRaster, plan: PackPlan, column: int, row: int, pool: ThreadPoolExecutor) -> list[TileRow]:
    """The tiles of one block at all levels: warped once at the finest, and averaged for the coarser ones."""
    side = TILE_PX << (plan.max_zoom - plan.min_zoom)

    def places(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        return to_places(x + column * side, y + row * side, plan.max_zoom)

    image, covered = warp(places, raster, side, side)
    if not covered.any():
        return []
    cut: list[tuple[int, int, int, NDArray[np.uint8]]] = []
    for zoom in range(plan.max_zoom, plan.min_zoom - 1, -1):
        each, world = 1 << (zoom - plan.min_zoom), 1 << zoom
        for y, x in itertools.product(range(each), repeat=2):
            part = np.s_[y * TILE_PX : (y + 1) * TILE_PX, x * TILE_PX : (x + 1) * TILE_PX]
            if (there := covered[part]).any():
                tile = image[part] if there.all() else np.dstack([image[part], np.where(there, 255, 0)])
                place = (zoom, (column * each + x) % world, world - 1 - (row * each + y))
                cut.append((*place, tile.astype(np.uint8)))
        if zoom > plan.min_zoom:
            image, covered = _halved(image, covered)
    data = pool.map(_encode, [tile for *_, tile in cut])
    return [(zoom, x, y, file) for (zoom, x, y, _), file in zip(cut, data, strict=True)]


def _halved(image: NDArray[np.uint8], covered: NDArray[np.bool_]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Means of 2 x 2 pixels, where all four have data."""
    height, width = covered.shape
    sums = image.reshape(height // 2, 2, width // 2, 2, 3).sum(axis=(1, 3), dtype=np.uint16)
    whole: NDArray[np.bool_] = np.logical_and.reduce(covered.reshape(height // 2, 2, width // 2, 2), axis=(1, 3))
    return np.where(whole[..., None], (sums + 2) // 4, 0).astype(np.uint8), whole


def _encode(tile: NDArray[np.uint8]) -> bytes:
    """RGB or RGBA as WebP: colours with loss, alpha without."""
    data = io.BytesIO()
    Image.fromarray(tile).save(data, "WEBP", quality=QUALITY, method=_EFFORT, alpha_quality=100)
    return data.getvalue()
