"""A map pack: a map's pixels in one file for the drone, which reads it by SQLite and Pillow and needs no rasterio.

It is an MBTiles 1.3 file, which GDAL and QGIS open too: WebP tiles of 256 x 256 pixels in Web Mercator at a few zoom
levels, rows counted from the south. Where the map has no data a tile has an alpha channel, kept without loss; tiles
without any data are absent. Beside MBTiles' own rows its metadata hold

    dphr    JSON, the fields of `PackOrigin` with "format": "dphr-map-pack" and "version": 1

whose digest binds it to its map, and so to the galleries that were made from that map. What is in the file is a
stranger's input: sizes are checked before anything is decoded.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import sqlite3
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from dphr_infer.errors import MapError
from dphr_infer.files.gallery import Gallery
from dphr_infer.maps.mercator import TILE_PX, pixel_m, to_world, world_px
from dphr_infer.maps.tiling import PixelBox
from dphr_infer.maps.view import MapView, view_of
from dphr_infer.types import GeoPoint

FORMAT = "dphr-map-pack"
VERSION = 1
METADATA_KEY = "dphr"
MAX_ZOOM = 26
CACHE_BYTES = 64 << 20

_SQLITE = b"SQLite format 3\0"
_MAX_TILE_BYTES = 1 << 20
_MAX_METADATA_CHARS = 1 << 16
# Beyond the coarsest stored level: a tile of it becomes one pixel.
_LAST_HALVING = int(math.log2(TILE_PX))
_ABSENT = np.zeros((0, 0, 4), np.uint8)
_MAKE_ONE = "Make one with: dphr-infer index BUNDLE MAP --out GALLERY --with-map PACK"

Tile = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class PackOrigin:
    """How a pack came to be.

    Attributes:
        map_name, map_sha256, crs: of the map that it was made from; the digest in hex, the others for people.
        latitude_deg, longitude_deg: of the map's middle, WGS84.
        map_gsd_m: metres a pixel of the map at its middle, for people.
        min_zoom, max_zoom: the levels that are stored, coarsest and finest.
        quality: of the WebP tiles, 0 to 100, for people.
        made_by: version of this program, for people.
    """

    map_name: str
    map_sha256: str
    crs: str
    latitude_deg: float
    longitude_deg: float
    map_gsd_m: float
    min_zoom: int
    max_zoom: int
    quality: int
    made_by: str

    def to_json(self) -> str:
        """The JSON of the file's metadata."""
        return json.dumps({"format": FORMAT, "version": VERSION, **dataclasses.asdict(self)}, sort_keys=True)


def is_map_pack(path: Path) -> bool:
    """Whether this is a file that begins as an SQLite file does, as packs do and galleries do not."""
    try:
        with path.open("rb") as file:
            return file.read(len(_SQLITE)) == _SQLITE
    except (OSError, ValueError):
        return False


def parse_origin(text: str) -> PackOrigin:
    """The metadata of a pack.

    Raises:
        ValueError, TypeError, KeyError, RecursionError: it is not what `PackOrigin.to_json` writes; says what differs.
    """
    raw: Any = json.loads(text)
    if not isinstance(raw, dict):
        raise TypeError(f"its metadata is {type(raw).__name__}, not an object")
    if (raw.pop("format"), raw.pop("version")) != (FORMAT, VERSION):
        raise ValueError(f"it is of another format or version than {FORMAT} {VERSION}")
    origin = PackOrigin(**raw)
    for field in dataclasses.fields(PackOrigin):
        value = getattr(origin, field.name)
        kinds: tuple[type, ...] = {"str": (str,), "int": (int,), "float": (int, float)}[str(field.type)]
        if type(value) not in kinds:
            raise TypeError(f"its {field.name} is {value!r}")
    if len(origin.map_sha256) != 64 or not set(origin.map_sha256) <= set("0123456789abcdef"):
        raise ValueError(f"its map_sha256 is {origin.map_sha256!r}")
    if not 0 <= origin.min_zoom <= origin.max_zoom <= MAX_ZOOM:
        raise ValueError(f"its zoom levels are {origin.min_zoom} to {origin.max_zoom}")
    # Written so that NaN fails as well.
    if not (abs(origin.latitude_deg) <= 90 and abs(origin.longitude_deg) <= 180 and 0 < origin.map_gsd_m < math.inf):
        raise ValueError(f"its middle is {origin.latitude_deg},{origin.longitude_deg}, {origin.map_gsd_m} m a pixel")
    return origin


def open_map_pack(path: str | Path, cache_bytes: int = CACHE_BYTES) -> MapPack:
    """Open a map pack for reading; nothing is written to it or beside it.

    Args:
        path: the file that `--with-map` wrote.
        cache_bytes: how much memory decoded tiles may take, 256 KiB each.

    Raises:
        MapError: missing, damaged, of another version, or MBTiles of another program, which name no map's digest.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not a regular file" if path.exists() else "does not exist"
        raise MapError(f"{path} {what}. {_MAKE_ONE}")
    if not features.check("webp"):
        raise MapError("The installed Pillow reads no WebP, which map packs hold: pip install --force-reinstall pillow")
    try:
        if not is_map_pack(path):
            raise MapError(f"{path} is not a map pack (it is not an SQLite file). {_MAKE_ONE}")
        _check_length(path)
        database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise MapError(f"{path} cannot be opened: {error}.") from error
    try:
        return MapPack(path, database, _read_origin(path, database), cache_bytes)
    except BaseException:
        database.close()
        raise


def _check_length(path: Path) -> None:
    """SQLite takes the missing end of an immutable file for zeros, and tiles there for absent."""
    with path.open("rb") as file:
        head = file.read(32)
    page_bytes = int.from_bytes(head[16:18], "big")
    expected = int.from_bytes(head[28:32], "big") * (65536 if page_bytes == 1 else page_bytes)
    if (found := path.stat().st_size) != expected or not found:
        raise MapError(f"{path} is damaged: it has {found:,} bytes, and should have {expected:,}. Copy it again.")


def _read_origin(path: Path, database: sqlite3.Connection) -> PackOrigin:
    try:
        database.execute("PRAGMA trusted_schema = OFF")
        # A view would run a stranger's query.
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {"metadata", "tiles"} <= tables:
            raise MapError(f"{path} is an SQLite file, but not a map pack. {_MAKE_ONE}")
        row = database.execute(
            "SELECT value FROM metadata WHERE name = ? AND typeof(value) = 'text' AND length(value) <= ?",
            (METADATA_KEY, _MAX_METADATA_CHARS),
        ).fetchone()
        if row is None:
            raise MapError(
                f"{path} holds map tiles, but not the digest of the map that they were made from, so nothing says that "
                f"they show the gallery's map. {_MAKE_ONE}"
            )
        return parse_origin(row[0])
    except (sqlite3.Error, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise MapError(f"{path} is damaged or no map pack ({error}). Copy it again. {_MAKE_ONE}") from error


class MapPack:
    """An opened map pack; a context manager. `MapPixels` and `warp.Source`; threads may share it.

    Its own pixels are those of its finest level, counted from the north-western corner of the world. Made by
    `open_map_pack`.
    """

    def __init__(self, path: Path, database: sqlite3.Connection, origin: PackOrigin, cache_bytes: int) -> None:
        self.path, self.origin = path, origin
        self._database, self._cache_bytes = database, cache_bytes
        self._tiles: OrderedDict[tuple[int, int, int], Tile] = OrderedDict()
        self._held_bytes = 0
        self._lock = threading.Lock()

    def __enter__(self) -> MapPack:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; harmless when it is closed already."""
        self._database.close()

    def check_gallery(self, gallery: Gallery) -> None:
        """Refuse to serve a gallery of another map.

        Raises:
            MapError: the digests of their maps differ; says both.
        """
        own, other = self.origin, gallery.origin
        if other.map_sha256 != own.map_sha256:
            digest = f"{other.map_sha256[:12]}…" if other.map_sha256 else "no digest"
            raise MapError(
                f"{self.path} holds the map {own.map_name} ({own.map_sha256[:12]}…), but {gallery.path} was made from "
                f"{other.map_name} ({digest}): positions on one are wrong on the other. Take the gallery's own pack, "
                "or index the map again with --with-map."
            )

    @property
    def gsd_m(self) -> float:
        """True metres a pixel of the finest level at the middle of the map, the smaller of both directions."""
        return min(pixel_m(self.origin.latitude_deg, self.origin.max_zoom))

    @property
    def centre(self) -> GeoPoint:
        """The middle of the map."""
        return GeoPoint(self.origin.latitude_deg, self.origin.longitude_deg)

    def view(self, centre: GeoPoint, width_px: int, height_px: int, gsd_m: float) -> MapView:
        """The map around a place; see `view.view_of`."""
        return view_of(self, centre, width_px, height_px, gsd_m)

    def locate(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `warp.Source.locate`; x may lie one world to either side."""
        at, turn = to_world(points, self.origin.max_zoom), world_px(self.origin.max_zoom)
        known = at[np.isfinite(at).all(axis=1), 0]
        if len(known):
            at[:, 0] += turn * np.round((known[0] - at[:, 0]) / turn)
        return at

    def block_of(self, x_px: float, y_px: float) -> tuple[int, int]:
        """The nearest power of two, of which finer ones are stored; see `warp.Source.block_of`."""
        halvings = round(math.log2(max(1.0, math.sqrt(x_px * y_px))))
        side = 1 << min(halvings, self.origin.max_zoom - self.origin.min_zoom + _LAST_HALVING)
        return side, side

    def extent(self, block: tuple[int, int]) -> PixelBox:
        """The world and its neighbours, as far as they hold whole blocks; see `warp.Source.extent`."""
        side = world_px(self.origin.max_zoom) // block[0]
        return PixelBox(-side, 0, 2 * side, side)

    def read_blocks(self, box: PixelBox, block: tuple[int, int]) -> NDArray[np.uint8]:
        """See `warp.Source.read_blocks`.

        Raises:
            MapError: a tile is damaged.
        """
        halvings = block[0].bit_length() - 1
        zoom = max(self.origin.max_zoom - halvings, self.origin.min_zoom)
        reduce = 1 << (halvings - (self.origin.max_zoom - zoom))
        side = TILE_PX // reduce
        pixels = np.zeros((box.bottom - box.top, box.right - box.left, 4), np.uint8)
        for row in range(box.top // side, -(-box.bottom // side)):
            for column in range(box.left // side, -(-box.right // side)):
                tile = _reduced(self._tile(zoom, column % (1 << zoom), row), reduce)
                if not tile.size:
                    continue
                top, left = row * side - box.top, column * side - box.left
                part = np.s_[max(top, 0) : top + side, max(left, 0) : left + side]
                height, width = pixels[part].shape[:2]
                pixels[part] = tile[max(-top, 0) :, max(-left, 0) :][:height, :width]
        return pixels

    def _tile(self, zoom: int, column: int, row: int) -> Tile:
        """Decoded, from the cache where it is there; `_ABSENT` where the map has no data."""
        key = (zoom, column, row)
        with self._lock:
            if key in self._tiles:
                self._tiles.move_to_end(key)
                return self._tiles[key]
            tile = self._decoded(key)
            self._tiles[key] = tile
            self._held_bytes += _cost(tile)
            while self._held_bytes > self._cache_bytes and len(self._tiles) > 1:
                self._held_bytes -= _cost(self._tiles.popitem(last=False)[1])
            return tile

    def _decoded(self, key: tuple[int, int, int]) -> Tile:
        zoom, column, row = key
        try:
            found = self._database.execute(
                "SELECT CASE WHEN length(tile_data) <= ? THEN tile_data END FROM tiles "
                "WHERE zoom_level = ? AND tile_column = ? AND tile_row = ?",
                (_MAX_TILE_BYTES, zoom, column, (1 << zoom) - 1 - row),
            ).fetchone()
            if found is None:
                return _ABSENT
            if not isinstance(found[0], bytes):
                raise ValueError(f"it is no picture of at most {_MAX_TILE_BYTES} bytes")
            return _decode(found[0])
        except (sqlite3.Error, OSError, ValueError, SyntaxError, MemoryError, Image.DecompressionBombError) as error:
            raise MapError(
                f"{self.path} is damaged: the tile {zoom}/{column}/{row} cannot be read ({error}). Copy it again."
            ) from error

    def tile_counts(self) -> dict[int, tuple[int, int]]:
        """{zoom level: (tiles, their bytes)}, counted by reading through the file.

        Raises:
            MapError: it is damaged.
        """
        query = "SELECT zoom_level, COUNT(*), SUM(length(tile_data)) FROM tiles GROUP BY zoom_level"
        try:
            with self._lock:
                return {int(zoom): (int(n), int(size)) for zoom, n, size in self._database.execute(query)}
        except (sqlite3.Error, TypeError, ValueError) as error:
            raise MapError(f"{self.path} is damaged: its tiles cannot be counted ({error}). Copy it again.") from error


def _decode(data: bytes) -> Tile:
    """A tile's file -> uint8 (256, 256, 4), the last 255 where there is data and 0 elsewhere."""
    with Image.open(io.BytesIO(data), formats=("WEBP",)) as picture:
        if picture.size != (TILE_PX, TILE_PX):
            raise ValueError(f"it has {picture.width} x {picture.height} pixels instead of {TILE_PX} x {TILE_PX}")
        tile = np.array(picture.convert("RGBA"))
    tile[tile[..., 3] < 255] = 0
    return tile


def _reduced(tile: Tile, factor: int) -> Tile:
    """Means of blocks of factor x factor pixels; only whole ones have data."""
    if factor == 1 or not tile.size:
        return tile
    reduced = np.array(Image.frombuffer("RGBX", (TILE_PX, TILE_PX), tile, "raw", "RGBX", 0, 1).reduce(factor))
    side = TILE_PX // factor
    reduced[tile[..., 3].reshape(side, factor, side, factor).min(axis=(1, 3)) == 0] = 0
    return reduced


def _cost(tile: Tile) -> int:
    """Bytes of a cached tile with its entry."""
    return tile.nbytes + 256
