"""Flight folders, as `dphr-train cities flight` writes them, and what is opened over their maps.

    FOLDER/photos/      in the order of their names
    FOLDER/truth.csv    photo, latitude_deg, longitude_deg of each
    FOLDER/mosaic.tif   the map; or any one *.tif
    FOLDER/motion.csv   photo, east_m, north_m, sigma_m: motion since the photo before; optional

Galleries and map packs are made once and kept in a cache folder, named by the digests of bundle and map.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from bench.cases.rig import MeasuredLocalizer
from bench.machine.program import say
from dphr_infer.cli.requests import Search
from dphr_infer.errors import ConfigError, GalleryError
from dphr_infer.evaluate.truth import check_truths, read_truth
from dphr_infer.files.bundle import Bundle, file_digest
from dphr_infer.files.gallery import Gallery, open_gallery
from dphr_infer.geo import east_north_m
from dphr_infer.images.preprocess import list_images
from dphr_infer.indexing.index import index
from dphr_infer.maps.open_map import open_map
from dphr_infer.maps.view import MapPixels, MapView
from dphr_infer.register.features import SiftFeatures
from dphr_infer.register.registrar import Registrar
from dphr_infer.types import GeoPoint

# Halves of a map: the direction, east and north, in which tiles and pixels remain.
HALVES = ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))


@dataclass(frozen=True, slots=True, eq=False)
class FlightFolder:
    """One flight, its truth, and its map's gallery.

    Attributes:
        truths: of each of `paths`, in order.
        gallery, pack: made of the map.
    """

    name: str
    folder: Path
    paths: tuple[Path, ...]
    truths: tuple[GeoPoint, ...]
    gallery: Gallery
    pack: Path


def open_folder(folder: Path, bundle: Bundle, tile_m: float, stride_m: float, cache: Path) -> FlightFolder:
    """Read a flight; make its gallery and map pack where the cache lacks them.

    Raises:
        ConfigError: no photos, no truth for one, or not one map.
        ImageError, MapError, StorageError: as of `index`.
    """
    maps = [folder / "mosaic.tif"] if (folder / "mosaic.tif").is_file() else sorted(folder.glob("*.tif"))
    if len(maps) != 1:
        raise ConfigError(f"{folder} holds {len(maps)} maps; expected one: mosaic.tif, or a single *.tif.")
    paths = list_images(folder / "photos")
    truths = read_truth(folder / "truth.csv")
    lacking = [path.name for path in paths if path.name not in truths]
    if lacking:
        raise ConfigError(f"{folder / 'truth.csv'} has no line for {lacking[0]}: every photo of a flight needs one.")
    name = f"{bundle.digest[:12]}-{file_digest(maps[0])[:12]}-{tile_m:g}-{stride_m:g}"
    gallery, pack = cache / f"{name}.gallery", cache / f"{name}.mbtiles"
    if not (gallery.is_file() and pack.is_file()):
        say(f"the gallery and the map pack of {maps[0]}")
        cache.mkdir(parents=True, exist_ok=True)
        index(maps[0], bundle=bundle, out=gallery, with_map=pack, tile_m=tile_m, stride_m=stride_m)
    opened = open_gallery(gallery)
    check_truths(truths, folder / "truth.csv", paths, opened)
    points = tuple(truths[path.name].point for path in paths)
    return FlightFolder(folder.name, folder, tuple(paths), points, opened, pack)


class HalfMap:
    """A map of which only one side of a line through its gallery's middle is left; pixels beyond it have no data."""

    def __init__(self, pixels: MapPixels, middle: GeoPoint, towards: tuple[float, float]) -> None:
        self._pixels, self._middle, self._towards = pixels, middle, towards

    def __enter__(self) -> HalfMap:
        self._pixels.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pixels.__exit__(kind, error, trace)

    @property
    def gsd_m(self) -> float:
        """The whole map's."""
        return self._pixels.gsd_m

    @property
    def centre(self) -> GeoPoint:
        """The whole map's."""
        return self._pixels.centre

    def view(self, centre: GeoPoint, width_px: int, height_px: int, gsd_m: float) -> MapView:
        """See `MapPixels`."""
        whole = self._pixels.view(centre, width_px, height_px, gsd_m)
        (east,), (north,) = east_north_m(
            self._middle, np.array([centre.latitude_deg]), np.array([centre.longitude_deg])
        )
        east_m = east + (np.arange(width_px) + 0.5 - width_px / 2) * gsd_m
        north_m = north + (height_px / 2 - np.arange(height_px) - 0.5) * gsd_m
        left = self._towards[0] * east_m + self._towards[1] * north_m[:, None] >= 0
        image = np.where(left[..., None], whole.image, np.uint8(0))
        return MapView(image, whole.covered & left, whole.centre, whole.gsd_m)


def middle_of(gallery: Gallery) -> GeoPoint:
    """The middle of the tiles' outline."""
    ends = [(float(v.min()), float(v.max())) for v in (gallery.latitude_deg, gallery.longitude_deg)]
    return GeoPoint(*(sum(pair) / 2 for pair in ends))


def half_of(gallery: Gallery, towards: tuple[float, float]) -> Gallery:
    """The tiles that lie wholly on one side of a line through the middle.

    Raises:
        GalleryError: none does.
    """
    east_m, north_m = east_north_m(middle_of(gallery), gallery.latitude_deg, gallery.longitude_deg)
    kept = np.flatnonzero(towards[0] * east_m + towards[1] * north_m >= gallery.origin.tile_m / 2)
    if not len(kept):
        raise GalleryError(f"{gallery.path} has no tile that lies wholly in one half of its map: take a larger map.")
    return dataclasses.replace(
        gallery,
        embeddings=gallery.embeddings[kept],
        latitude_deg=gallery.latitude_deg[kept],
        longitude_deg=gallery.longitude_deg[kept],
    )


def localizer_over(
    over: FlightFolder, bundle: Bundle, search: Search, half: tuple[float, float] | None = None
) -> MeasuredLocalizer:
    """What `dphr-infer flight` opens over a map, or over half of it; not yet entered."""
    gallery = over.gallery if half is None else half_of(over.gallery, half)
    registrar, extractor = None, None
    if search.verify:
        pixels, extractor = open_map(over.pack, over.gallery), SiftFeatures()
        if half is not None:
            pixels = HalfMap(pixels, middle_of(over.gallery), half)
        registrar = Registrar(pixels, gallery.origin.tile_m, search.register, extractor)
    return MeasuredLocalizer(search, bundle, gallery, registrar, extractor)
