"""Galleries whose tiles lie where a test says, without pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dphr_infer.files.gallery import Gallery, GalleryOrigin
from dphr_infer.files.hilbert import hilbert_order
from dphr_infer.geo import east_north_m, metres_per_degree
from dphr_infer.types import GeoPoint

TILE_M, STRIDE_M = 100.0, 25.0
CENTRE = GeoPoint(47.0, 8.0)


def places(east_m: np.ndarray, north_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Metres from CENTRE -> degrees, each place's longitude at its own latitude: true metres, as tiles are cut."""
    per_lat, _ = metres_per_degree(CENTRE.latitude_deg)
    latitude = CENTRE.latitude_deg + north_m / per_lat
    per_lon = np.array([metres_per_degree(value)[1] for value in np.unique(latitude)])
    return latitude, CENTRE.longitude_deg + east_m / per_lon[np.searchsorted(np.unique(latitude), latitude)]


def gallery_of(latitude: np.ndarray, longitude: np.ndarray, tile_m: float, stride_m: float) -> Gallery:
    origin = GalleryOrigin("d" * 64, tile_m, stride_m, "map.tif", "a" * 64, "EPSG:32632", "fp32")
    return Gallery(np.zeros((len(latitude), 1), np.float16), latitude, longitude, origin, Path("made.gallery"))


def grid_gallery(columns: int, rows: int, tile_m: float = TILE_M, stride_m: float = STRIDE_M) -> Gallery:
    """Row by row from the south-west, centred on CENTRE; row r, column c is gallery row r·columns + c."""
    east, north = np.meshgrid(
        (np.arange(columns) - (columns - 1) / 2) * stride_m, (np.arange(rows) - (rows - 1) / 2) * stride_m
    )
    return gallery_of(*places(east.ravel(), north.ravel()), tile_m, stride_m)


def hilbert_gallery(gallery: Gallery) -> tuple[Gallery, np.ndarray]:
    """The same rows in the order in which a written gallery holds them, and that order."""
    east, north = east_north_m(gallery.point(0), gallery.latitude_deg, gallery.longitude_deg)
    order = hilbert_order(east, north)
    origin = gallery.origin
    ordered = gallery_of(gallery.latitude_deg[order], gallery.longitude_deg[order], origin.tile_m, origin.stride_m)
    return ordered, order
