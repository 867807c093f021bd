"""A generated town on disk: its map, the gallery and the map pack made of it, and photos with a camera's metadata."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from generated_map import ArrayMap, town
from photo_files import xmp_option
from PIL import ExifTags, Image

from dphr_infer.files.bundle import Bundle
from dphr_infer.geo import offset
from dphr_infer.indexing.index import index
from dphr_infer.maps.raster import MapRaster
from dphr_infer.types import CameraView, GeoPoint

TILE_M, STRIDE_M, SIDE_PX, GSD_M = 60.0, 30.0, 560, 0.5
SIZE = (480, 360)
FILM_MM = 30
# Of a 4:3 sensor with the diagonal of film.
FOV_DEG = 2 * math.degrees(math.atan(math.hypot(36, 24) * 0.8 / 2 / FILM_MM))
DOWN = CameraView(90.0, -90.0, FOV_DEG, 40.0)
OBLIQUE = CameraView(75.0, -50.0, FOV_DEG, 200.0, 2.0)


@dataclass(frozen=True)
class TownSite:
    """Attributes: the folder with map.tif, g, map.pack, other.tif and photos/, and the map in memory."""

    folder: Path
    pixels: ArrayMap

    def point(self, east_m: float, north_m: float) -> GeoPoint:
        """So far from the map's middle."""
        return offset(self.pixels.centre, east_m, north_m)


# By the photo's name: its view, and where it looks, in metres from the map's middle.
PHOTOS = {"down.jpg": (DOWN, (33.0, -21.0)), "oblique.jpg": (OBLIQUE, (-38.0, 14.0))}


def write_town(folder: Path, bundle: Bundle) -> TownSite:
    """Write everything; foreign.jpg is of another town, black.png of nothing."""
    image = town(SIDE_PX, 1)
    write_map(folder / "map.tif", image)
    write_map(folder / "other.tif", town(SIDE_PX, 2))
    with MapRaster(folder / "map.tif") as raster:
        centre = raster.centre
    pixels = ArrayMap(image, GSD_M, centre)
    index(
        folder / "map.tif",
        bundle=bundle,
        out=folder / "g",
        with_map=folder / "map.pack",
        tile_m=TILE_M,
        stride_m=STRIDE_M,
        threads=1,
    )
    photos = folder / "photos"
    photos.mkdir()
    for name, (view, spot) in PHOTOS.items():
        save_photo(photos / name, pixels.photo(offset(centre, *spot), view, *SIZE), view)
    foreign = ArrayMap(town(SIDE_PX, 3), GSD_M, centre)
    save_photo(photos / "foreign.jpg", foreign.photo(centre, DOWN, *SIZE), DOWN)
    Image.new("RGB", SIZE).save(photos / "black.png")
    return TownSite(folder, pixels)


def save_photo(path: Path, image: np.ndarray, view: CameraView) -> None:
    """As a drone of DJI writes it."""
    values = {
        "RelativeAltitude": f"{view.height_m:+.2f}",
        "GimbalYawDegree": f"{(view.yaw_deg + 180) % 360 - 180:+.2f}",
        "GimbalPitchDegree": f"{view.pitch_deg:+.2f}",
        "GimbalRollDegree": f"{view.roll_deg:+.2f}",
    }
    packet = " ".join(["<x", *(f'drone-dji:{name}="{value}"' for name, value in values.items()), "/>"]).encode()
    exif = Image.Exif()
    exif[ExifTags.IFD.Exif] = {ExifTags.Base.FocalLengthIn35mmFilm: FILM_MM}
    Image.fromarray(image).save(path, quality=92, exif=exif, **xmp_option(path, packet))


def write_map(path: Path, image: np.ndarray) -> None:
    """As a GeoTIFF of GSD_M in UTM."""
    import rasterio
    from rasterio.transform import Affine

    profile = {"driver": "GTiff", "height": len(image), "width": len(image), "count": 3, "dtype": "uint8"}
    place = Affine(GSD_M, 0, 5e5, 0, -GSD_M, 5.2e6)
    with rasterio.open(path, "w", transform=place, crs="EPSG:32632", **profile) as dataset:
        dataset.write(np.moveaxis(image, 2, 0))
