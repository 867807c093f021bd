"""A flight over a map that training never saw: `*.tif`, `photos/` and `truth.csv`, as `dphr-train cities flight` does.

The map is indexed and each photo embedded once; every kind of flight is then flown on these numbers.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import ExportError
from dphr_infer.evaluate.truth import check_truths, read_truth
from dphr_infer.files.bundle import Bundle
from dphr_infer.files.gallery import Gallery, open_gallery
from dphr_infer.geo import east_north_m
from dphr_infer.images.photo import Photo, read_photo
from dphr_infer.images.preprocess import list_images
from dphr_infer.indexing.index import index_map
from dphr_infer.indexing.settings import IndexSettings
from dphr_infer.locate.localizer import Localizer
from dphr_infer.locate.settings import DeviceSettings, LocateSettings
from dphr_infer.types import GeoPoint, Matches
from export.request import CalibrateRequest

Rows = NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """One map and the photos of one flight over it, in the order of time.

    Attributes:
        name: of its folder.
        gallery: of the map.
        queries: float32 (n, D), the photos' embeddings.
        truth: n, the ground in the photos' middle.
        unit: int (n,), which stretch of one tile side of the flight each photo belongs to, from 0.
        made: float32 (k, D), embeddings of pictures made by rule; see `made_pictures`.
    """

    name: str
    gallery: Gallery
    queries: NDArray[np.float32]
    truth: tuple[GeoPoint, ...]
    unit: NDArray[np.intp]
    made: NDArray[np.float32]

    def firsts(self) -> list[int]:
        """The first photo of each stretch: these do not share their ground, nor their errors."""
        return [int(index) for index in np.unique(self.unit, return_index=True)[1]]


def open_sites(bundle: Bundle, request: CalibrateRequest, work: Path) -> list[Site]:
    """Index and embed every flight of a request; galleries go to `work`.

    Raises:
        ExportError: a folder is no flight, two have one name, or one of them is too short to be a flight.
        ConfigError, MapError, ImageError: of its truth, map and photos.
    """
    names = [folder.resolve().name for folder in request.flights]
    if len(set(names)) < len(names):
        raise ExportError(
            f"Two of the flights have the same name ({', '.join(names)}): each map is to be held out once."
        )
    return [
        _open_site(folder, bundle, request, work / f"{name}.gallery")
        for folder, name in zip(request.flights, names, strict=True)
    ]


def _open_site(folder: Path, bundle: Bundle, request: CalibrateRequest, path: Path) -> Site:
    maps, photos, truth = sorted(folder.glob("*.tif")), folder / "photos", folder / "truth.csv"
    if len(maps) != 1 or not photos.is_dir() or not truth.is_file():
        raise ExportError(
            f"{folder} is no flight: it holds {len(maps)} GeoTIFFs (*.tif), {'' if photos.is_dir() else 'no '}photos/ "
            f"and {'' if truth.is_file() else 'no '}truth.csv; expected one map, the photos by name in the order of "
            "time, and their truth. dphr-train cities flight writes such a folder."
        )
    on = DeviceSettings(precision=request.precision, threads=request.threads)
    index_map(maps[0], bundle, path, IndexSettings(request.tile_m, request.stride_m), on)
    gallery, truths, paths = open_gallery(path), read_truth(truth), list_images(photos)
    check_truths(truths, truth, paths, gallery)
    taken = [path for path in paths if path.name in truths]
    points = tuple(truths[path.name].point for path in taken)
    settings = LocateSettings(top_k=1, heading=request.heading)
    with Localizer(bundle, gallery, settings, on) as localizer:
        pictures = [*map(read_photo, taken), *map(Photo, made_pictures())]
        embeddings = np.concatenate([localizer.embed(localizer.prepare(picture))[:1] for picture in pictures])
    queries, made = embeddings[: len(taken)], embeddings[len(taken) :]
    return Site(folder.resolve().name, gallery, queries, points, units_of(points, request.tile_m), made)


def units_of(points: Sequence[GeoPoint], tile_m: float) -> NDArray[np.intp]:
    """Which stretch of one tile side each point of a path lies on, from 0; int (n,)."""
    lengths = [0.0, *(float(np.hypot(*moved)) for moved in moves_m(points))]
    return (np.cumsum(lengths) / tile_m).astype(np.intp)


def moves_m(points: Sequence[GeoPoint]) -> NDArray[np.float64]:
    """Metres east and north from each point to the next, float64 (n - 1, 2)."""
    moves = [
        np.concatenate(east_north_m(one, np.array([two.latitude_deg]), np.array([two.longitude_deg])))
        for one, two in itertools.pairwise(points)
    ]
    return np.array(moves, np.float64).reshape(-1, 2)


def made_pictures() -> list[NDArray[np.uint8]]:
    """Pictures of nothing, uint8 (240, 320, 3): noise, a grey wall, a lens cap with sensor noise, and coarse noise.

    The last shows patches, as a blurred scene does: it is not told blank by its pixels, so floor and margin must.
    """
    rng, shape = np.random.default_rng(0), (240, 320, 3)
    patches = rng.integers(0, 256, (15, 20, 3), np.uint8)
    return [
        rng.integers(0, 256, shape, np.uint8),
        np.full(shape, 128, np.uint8),
        np.clip(rng.normal(8, 3, shape), 0, 255).astype(np.uint8),
        np.kron(patches, np.ones((16, 16, 1), np.uint8)),
    ]


def part_of(gallery: Gallery, rows: Rows) -> Gallery:
    """A gallery of some of the rows, in their order."""
    return dataclasses.replace(
        gallery,
        embeddings=gallery.embeddings[rows],
        latitude_deg=gallery.latitude_deg[rows],
        longitude_deg=gallery.longitude_deg[rows],
    )


def match(gallery: Gallery, query: NDArray[np.float32], k: int) -> Matches:
    """The k most similar rows of one embedding, rows (1, k); equal similarities by the lower row."""
    similarity = np.asarray(gallery.embeddings, np.float32) @ query
    rows = np.argsort(-similarity, kind="stable")[:k].astype(np.int32)
    return Matches(rows[None], similarity[rows][None])
