"""Map -> gallery: every tile read, embedded by the bundle's model, and written where it lies."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dphr_infer.errors import ConfigError, MapError
from dphr_infer.files.bundle import Bundle, Precision, file_digest
from dphr_infer.files.gallery import GalleryDtype, GalleryOrigin, GalleryWriter
from dphr_infer.files.outputs import check_outputs
from dphr_infer.locate.embedder import DEFAULT_BATCH, Embedder
from dphr_infer.locate.open_engine import open_engine
from dphr_infer.maps.raster import MapRaster
from dphr_infer.maps.tiling import TileSpot
from dphr_infer.measure.progress import Progress

DEFAULT_MAX_NODATA = 0.2
PLACE_BYTES = 16


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What became of a map's tiles: how many were indexed, and how many skipped because too much of them was empty."""

    indexed: int
    skipped: int


def index_map(
    bundle: Bundle,
    map_path: Path,
    out: Path,
    *,
    tile_m: float,
    stride_m: float,
    precision: Precision = "fp32",
    dtype: GalleryDtype = "fp16",
    max_nodata: float = DEFAULT_MAX_NODATA,
    batch: int = DEFAULT_BATCH,
    device: str = "cpu",
    threads: int | None = None,
) -> IndexReport:
    """Embed every tile of a map and write the gallery. Memory does not grow with the map, but for 16 bytes a tile.

    Args:
        bundle: whose model embeds the tiles, and later the photos.
        map_path: the georeferenced raster.
        out: the gallery file.
        tile_m: side of a tile in true metres; about what a photo shows of the ground.
        stride_m: distance between tile centres in true metres.
        precision, device, threads: as for `open_engine`.
        dtype: how embeddings are stored, "fp16" or "fp32".
        max_nodata: a tile with a larger share of pixels without data is skipped; below that they get its mean colour.
        batch: tiles embedded at once.

    Raises:
        MapError: see `MapRaster` and `plan_rows`; or every tile was skipped.
        ConfigError: the gallery would replace the map or a part of the bundle.
        EngineError, StorageError: the engine or the disk refused.
    """
    if not 0 <= max_nodata < 1:
        raise ConfigError(f"The share of no-data is {max_nodata}; it must lie in [0, 1).")
    check_outputs({"--out": out}, {"the map": map_path}, bundle.folder)
    engine = open_engine(bundle, precision, device, threads)
    row_bytes = bundle.manifest.dim * (2 if dtype == "fp16" else 4) + PLACE_BYTES
    with contextlib.ExitStack() as stack:
        raster = stack.enter_context(MapRaster(map_path))
        rows = raster.plan_rows(tile_m, stride_m, row_bytes)
        stack.enter_context(engine)
        origin = GalleryOrigin(
            bundle.digest, tile_m, stride_m, map_path.name, file_digest(map_path), raster.crs, precision
        )
        embedder = Embedder(bundle.manifest.preprocess, engine, batch)
        total = sum(row.count for row in rows)
        with GalleryWriter(out, origin, engine.dim, dtype) as writer, Progress("tiles", total, "tiles") as progress:
            spots = (spot for row in rows for spot in raster.row_spots(row, tile_m))
            indexed = 0
            while chunk := list(itertools.islice(spots, batch)):
                indexed += _index_chunk(raster, chunk, embedder, writer, max_nodata)
                progress.advance(len(chunk))
            if indexed == 0:
                raise MapError(
                    f"Each of the {total} tiles of {map_path} has more than {max_nodata:.0%} of its pixels without "
                    "data. Raise that share, or choose a smaller tile."
                )
    return IndexReport(indexed, total - indexed)


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
