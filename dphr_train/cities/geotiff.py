"""A north-up picture as GeoTIFF. Knows rasterio and nothing of cities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import MissingPackageError
from dphr_infer.files.atomic import atomic_file
from dphr_infer.types import GeoPoint

UTM_SCALE = 0.9996  # a metre on the ground measures this much on UTM's grid, on the central meridian of a zone

_TILE_PX = 256


def write_geotiff(path: Path, picture: NDArray[np.uint8], centre: GeoPoint, gsd_m: float) -> None:
    """Write a picture whose middle lies at `centre`, in the UTM zone of that point, tiled and deflated.

    North of the grid is true north on the zone's central meridian only: `centre` has to lie near it (cities do).

    Args:
        picture: uint8 (H, W, 3), north up.
        gsd_m:   metres on the ground per pixel.
    """
    try:
        import rasterio
        from rasterio.transform import Affine
        from rasterio.warp import transform
    except ModuleNotFoundError as error:
        raise MissingPackageError("rasterio", "cities", "Writing a georeferenced mosaic") from error

    zone = int((centre.longitude_deg + 180) // 6) + 1
    crs = f"EPSG:{(32600 if centre.latitude_deg >= 0 else 32700) + zone}"
    (east,), (north,) = transform("EPSG:4326", crs, [centre.longitude_deg], [centre.latitude_deg])
    height, width = picture.shape[:2]
    pixel = gsd_m * UTM_SCALE
    corner = Affine(pixel, 0.0, east - width / 2 * pixel, 0.0, -pixel, north + height / 2 * pixel)
    with atomic_file(path) as temporary, rasterio.open(
        temporary, "w", driver="GTiff", width=width, height=height, count=3, dtype="uint8", crs=crs,
        transform=corner, tiled=True, blockxsize=_TILE_PX, blockysize=_TILE_PX, compress="deflate", predictor=2,
        photometric="rgb",
    ) as file:  # fmt: skip
        file.write(np.moveaxis(picture, 2, 0))
