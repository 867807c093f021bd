"""Map -> gallery: every tile read, embedded by the bundle's model, and written where it lies."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dphr_infer.engines.embedder import Embedder
from dphr_infer.errors import ConfigError, MapError
from dphr_infer.files.bundle import Bundle, file_digest, open_bundle
from dphr_infer.files.gallery import GalleryOrigin, GalleryWriter
from dphr_infer.files.outputs import check_outputs
from dphr_infer.indexing.settings import IndexSettings
from dphr_infer.locate.devices import open_engine
from dphr_infer.locate.settings import DeviceSettings, settings_of
from dphr_infer.maps.pack_writer import PackReport, plan_pack, write_map_pack
from dphr_infer.maps.raster import MapRaster
from dphr_infer.maps.tiling import TileSpot
from dphr_infer.measure.progress import Progress

PLACE_BYTES = 16


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What became of a map's tiles: how many were indexed, and how many skipped because too much of them was empty.

    `pack` tells the map pack, where one was written.
    """

    indexed: int
    skipped: int
    pack: PackReport | None = None


def index(
    map: str | Path,
    *,
    bundle: Bundle | str | Path,
    out: str | Path,
    with_map: str | Path | None = None,
    **settings: Any,
) -> IndexReport:
    """Embed every tile of a map into a gallery file.

    Args:
        map: a georeferenced raster, 8 bits, 3 bands or more.
        bundle: whose model embeds the tiles, and later the photos.
        out: the gallery file.
        with_map: a map pack to write, the map's pixels for the drone; see `maps.pack`.
        settings: fields of `IndexSettings`, of which `tile_m` and `stride_m` are needed, and of `DeviceSettings`.

    Raises:
        ConfigError: an unknown setting or one out of range; the gallery would replace the map or a part of the bundle.
        MapError: see `MapRaster`, `plan_rows` and `plan_pack`; or every tile was skipped.
        BundleError, EngineError, StorageError: the bundle is damaged; the engine or the disk refused.
    """
    what, on = settings_of(settings, IndexSettings, DeviceSettings)
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    return index_map(Path(map), opened, Path(out), what, on, None if with_map is None else Path(with_map))


def index_map(
    map_path: Path,
    bundle: Bundle,
    out: Path,
    settings: IndexSettings,
    on: DeviceSettings | None = None,
    with_map: Path | None = None,
) -> IndexReport:
    """As `index`, with settings as values. Memory does not grow with the map, but for 16 bytes a tile."""
    if with_map is None and settings.map_gsd_m is not None:
        raise ConfigError("`map_gsd_m` says how fine a map pack is, but none is written: name its file by `with_map`.")
    on = on or DeviceSettings()
    tile_m = settings.tile_m
    packs = {} if with_map is None else {"`with_map`": with_map}
    check_outputs({"`out`": out, **packs}, {"the map": map_path}, bundle.folder)
    engine = open_engine(bundle, on)
    row_bytes = bundle.manifest.dim * (2 if settings.dtype == "fp16" else 4) + PLACE_BYTES
    with contextlib.ExitStack() as stack:
        raster = stack.enter_context(MapRaster(map_path))
        rows = raster.plan_rows(tile_m, settings.stride_m, row_bytes)
        plan = None if with_map is None else plan_pack(raster, settings.map_gsd_m)
        stack.enter_context(engine)
        origin = GalleryOrigin(
            bundle.digest, tile_m, settings.stride_m, map_path.name, file_digest(map_path), raster.crs, on.precision
        )
        embedder = Embedder(bundle.manifest.preprocess, engine, settings.batch)
        total = sum(row.count for row in rows)
        writer = stack.enter_context(GalleryWriter(out, origin, engine.dim, settings.dtype))
        progress = stack.enter_context(Progress("tiles", total, "tiles"))
        spots = (spot for row in rows for spot in raster.row_spots(row, tile_m))
        indexed = 0
        while chunk := list(itertools.islice(spots, settings.batch)):
            indexed += _index_chunk(raster, chunk, embedder, writer, settings.max_nodata)
            progress.advance(len(chunk))
        if indexed == 0:
            raise MapError(
                f"Each of the {total} tiles of {map_path} has more than {settings.max_nodata:.0%} of its pixels "
                "without data. Raise that share, or choose a smaller tile."
            )
    if plan is None or with_map is None:
        return IndexReport(indexed, total - indexed)
    with MapRaster(map_path) as raster:
        return IndexReport(indexed, total - indexed, write_map_pack(raster, plan, origin.map_sha256, with_map))


def _index_chunk(
    raster: MapRaster, spots: list[TileSpot], embedder: Embedder, writer: GalleryWriter, max_nodata: float
) -> int:
    """Read, embed and write some tiles; how many were kept."""
    tiles = [raster.read_tile(spot) for spot in spots]
    kept = [
        (spot.point, tile.image) for spot, tile in zip(spots, tiles, strict=True) if tile.nodata_share <= max_nodata
    ]
    if kept:
        writer.append(
            embedder.embed_images([image for _, image in kept]),
            np.array([point.latitude_deg for point, _ in kept]),
            np.array([point.longitude_deg for point, _ in kept]),
        )
    return len(kept)
