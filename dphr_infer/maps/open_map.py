"""A gallery's map from its file: the raster it was made from, or a map pack of that raster."""

from __future__ import annotations

from pathlib import Path

from dphr_infer.errors import MapError
from dphr_infer.files.bundle import file_digest
from dphr_infer.files.gallery import Gallery
from dphr_infer.maps.pack import is_map_pack, open_map_pack
from dphr_infer.maps.raster import MapRaster
from dphr_infer.maps.view import MapPixels


def open_map(path: str | Path, gallery: Gallery) -> MapPixels:
    """A map of a gallery, by what its file is; enter it before use.

    Raises:
        MapError: missing, damaged, or another map than the gallery's.
        MissingPackageError: it is a raster, and rasterio is not installed.
    """
    path = Path(path)
    if is_map_pack(path):
        pack = open_map_pack(path)
        pack.check_gallery(gallery)
        return pack
    check_raster(path, gallery)
    return MapRaster(path)


def check_raster(path: Path, gallery: Gallery) -> None:
    """Refuse a raster that the gallery was not made from.

    Raises:
        MapError: missing, a folder, or of another digest.
    """
    if path.is_dir():
        raise MapError(f"{path} is a folder. Name the raster file in it.")
    if not path.is_file():
        raise MapError(f"{path} {'is not a regular file' if path.exists() else 'does not exist'}.")
    found = file_digest(path)
    if found != gallery.origin.map_sha256:
        raise MapError(
            f"{path} is not the map of {gallery.path}: its sha256 is {found[:12]}…, the gallery was made from "
            f"{gallery.origin.map_name} with {gallery.origin.map_sha256[:12]}…. Give that map."
        )
