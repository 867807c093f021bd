"""Two maps of the same ground, such as two years, as a split in University-1652's layout.

The first map takes the drone's part: its tiles are looked up among those of the second, taken as the satellite's. As a
training split a map may be paired with itself: then the pairs are one picture twice, and augmentation alone tells them
apart.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dphr_infer.errors import DatasetError
from dphr_infer.files.atomic import atomic_folder
from dphr_infer.files.bundle import file_digest
from dphr_infer.images.preprocess import Preprocess
from dphr_infer.maps.raster import MapRaster
from dphr_infer.maps.tiling import TileSpot, pixel_box
from dphr_infer.measure.progress import track
from dphr_infer.types import GeoPoint

RECORD_FILE = "tiles.json"
MAX_NODATA = 0.01  # maps that declare black as no data lose single dark pixels

_FORMAT = "dphr-raster-pair"
_VERSION = 1
_FOLDERS = {
    "test": (("test/query_drone", "test/gallery_drone"), ("test/gallery_satellite", "test/query_satellite")),
    "train": (("train/drone",), ("train/satellite",)),
}
Split = Literal["train", "test"]


@dataclass(frozen=True, slots=True)
class RasterPairReport:
    """How many squares became places, and how many were refused because a map does not cover them wholly."""

    places: int
    refused: int


def write_raster_pair(
    query_map: Path,
    gallery_map: Path,
    out: Path,
    tile_m: float,
    stride_m: float | None = None,
    image_px: int = 128,
    split: Split = "test",
) -> RasterPairReport:
    """Cut both maps into the same squares of ground; a square is a place, with one tile of each map.

    Tiles of the query map become `test/query_drone/<id>/<id>.png` and the same in `test/gallery_drone`, those of the
    gallery map `test/gallery_satellite/<id>/<id>.png` and the same in `test/query_satellite`. Ids count from 0000 in
    rows from the north-west. The squares are laid over the query map; in the gallery map they are found by the WGS84
    position of their centre, so the maps may differ in grid, pixel size and projection. A tile lies along its own
    map's axes, its edges at the nearest whole pixels. `tiles.json` tells the maps with their digests, the settings,
    and where each place lies.

    With a stride below the tile's side neighbours overlap, by half at half the side: a gallery then holds tiles that
    show half of a query's ground and count as wrong, which makes it harder and finer.

    Args:
        query_map, gallery_map: as MapRaster takes them.
        out: the folder to write; it may exist when it is empty, and appears whole or not at all.
        tile_m: side of a square in true metres.
        stride_m: distance between centres; None takes tile_m, so that squares do not overlap.
        image_px: side of the pictures that are written.
        split: "train" writes `train/drone` and `train/satellite` instead.

    Raises:
        MapError: see `MapRaster` and `tiling.plan_rows`.
        ConfigError: pictures below 16 px.
        DatasetError: `out` holds something, or no square lies within both maps.
        StorageError: the disk refused.
    """
    stride_m = tile_m if stride_m is None else stride_m
    resize = Preprocess(image_px, image_px, "bicubic")
    _require_empty(out)
    with MapRaster(query_map) as query, MapRaster(gallery_map) as gallery:
        spots = [spot for row in query.plan_rows(tile_m, stride_m) for spot in query.row_spots(row, tile_m)]
        places: list[GeoPoint] = []
        with atomic_folder(out) as folder:
            for spot in track(spots, "tiles", len(spots), "squares"):
                pair = _read_pair(query, gallery, spot, tile_m)
                if pair is None:
                    continue
                for tile, targets in zip(pair, _FOLDERS[split], strict=True):
                    _write_tile(folder, targets, f"{len(places):04d}", resize(tile))
                places.append(spot.point)
            if not places:
                raise DatasetError(
                    f"None of the {len(spots)} squares of {tile_m:g} m on {query_map} lies wholly in {gallery_map}. "
                    "Take maps that overlap, or a smaller tile."
                )
            record = {
                "format": _FORMAT, "version": _VERSION, "tile_m": tile_m, "stride_m": stride_m, "image_px": image_px,
                "query_map": {"file": query_map.name, "sha256": file_digest(query_map)},
                "gallery_map": {"file": gallery_map.name, "sha256": file_digest(gallery_map)},
                "places": [asdict(point) for point in places],
            }  # fmt: skip
            (folder / RECORD_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return RasterPairReport(len(places), len(spots) - len(places))


def _require_empty(out: Path) -> None:
    """An empty folder is removed: `atomic_folder` puts the finished one in its place."""
    if not out.exists():
        return
    if not out.is_dir() or any(out.iterdir()):
        raise DatasetError(f"{out} {'holds files' if out.is_dir() else 'is a file'}. Choose an empty folder.")
    out.rmdir()


def _read_pair(
    query: MapRaster, gallery: MapRaster, spot: TileSpot, tile_m: float
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
    """Both tiles of a square, uint8 (S, S, 3), S by map; None where one of the maps does not cover it."""
    pictures = []
    for raster, own in ((query, spot), (gallery, gallery.spot_at(spot.point, tile_m))):
        box = pixel_box(own)
        if box.clipped(raster.width_px, raster.height_px) != box:
            return None
        tile = raster.read_tile(own)
        if tile.nodata_share > MAX_NODATA:
            return None
        pictures.append(tile.image)
    return pictures[0], pictures[1]


def _write_tile(root: Path, folders: tuple[str, ...], place: str, picture: NDArray[np.uint8]) -> None:
    for folder in folders:
        path = root / folder / place / f"{place}.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(picture).save(path)
