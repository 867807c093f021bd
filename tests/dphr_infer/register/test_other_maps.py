"""Photos registered on maps of another resolution, turned maps, and maps in another projection."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from generated_map import ArrayMap, place, town

from dphr_infer.geo import distance_m, east_north_m, offset
from dphr_infer.maps.raster import MapRaster
from dphr_infer.register.registrar import Registrar
from dphr_infer.types import Attitude, CameraView, GeoPoint

pytest.importorskip("cv2")

MIDDLE, SIZE = GeoPoint(47.0, 8.0), (480, 360)
VIEW = CameraView(90.0, -65.0, 60.0, 120.0)


def off_m(registrar: Registrar, image: np.ndarray, view: CameraView, truth: GeoPoint, near_m: float) -> float | None:
    """How far a photo is placed from the truth, None where it is not placed; retrieval has it a little beside."""
    places = [offset(truth, near_m, near_m / 2), offset(truth, -6 * near_m, 3 * near_m)]
    found = registrar.register(image, Attitude(view, {}), places)
    return distance_m(found.point, truth) if found is not None and found.verified else None


def test_a_map_of_5_centimetres_a_pixel_places_a_photo_of_20() -> None:
    from PIL import Image

    coarse = town(400, 1)  # 160 m
    pixels = ArrayMap(np.asarray(Image.fromarray(coarse).resize((3200, 3200), Image.Resampling.LANCZOS)), 0.05, MIDDLE)
    truth = place(pixels, 8.0, -12.0)
    image = ArrayMap(coarse, 0.4, MIDDLE).photo(truth, VIEW, *SIZE)
    found = off_m(Registrar(pixels, 60.0), image, VIEW, truth, 12.0)
    assert found is not None and found < 0.4


def test_a_map_of_5_metres_a_pixel_places_a_photo_from_high_up_and_none_from_low() -> None:
    pixels = ArrayMap(town(900, 1), 5.0, MIDDLE)
    truth, high = place(pixels, 240.0, -180.0), dataclasses.replace(VIEW, height_m=1_000.0)
    found = off_m(Registrar(pixels, 600.0), pixels.photo(truth, high, *SIZE), high, truth, 120.0)
    assert found is not None and found < 5.0
    low = dataclasses.replace(VIEW, height_m=60.0)  # its ground is a dozen pixels of the map
    assert off_m(Registrar(pixels, 60.0), pixels.photo(truth, low, *SIZE), low, truth, 12.0) is None


@pytest.fixture(scope="module")
def flat() -> ArrayMap:
    return ArrayMap(town(600, 1), 0.5, MIDDLE)


@pytest.mark.parametrize("kind", ["turned", "mirrored", "degrees", "mercator"])
def test_a_turned_map_and_one_in_another_projection_place_it_as_well(flat: ArrayMap, kind: str, tmp_path: Path) -> None:
    write_warped(tmp_path / "map.tif", flat, kind)
    truth = place(flat, 21.0, -14.0)
    with Registrar(MapRaster(tmp_path / "map.tif"), 60.0) as registrar:
        found = off_m(registrar, flat.photo(truth, VIEW, *SIZE), VIEW, truth, 12.0)
    assert found is not None and found < 1.0


def write_warped(path: Path, flat: ArrayMap, kind: str) -> None:
    """The map resampled into another lattice, by the places of its pixels."""
    import rasterio
    from rasterio.transform import Affine
    from rasterio.warp import transform

    side, gsd = 640, 0.5
    system = {"degrees": "EPSG:4326", "mercator": "EPSG:3857"}.get(kind, "EPSG:32632")
    (x,), (y,) = transform("EPSG:4326", system, [MIDDLE.longitude_deg], [MIDDLE.latitude_deg])
    turn = math.radians(27.0 if kind == "turned" else 0.0)
    per_east, per_north = {"degrees": (1 / 76_000, 1 / 111_200), "mercator": (1.47, 1.47)}.get(kind, (1.0, 1.0))
    matrix = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    matrix = matrix @ np.diag([gsd * per_east * (-1 if kind == "mirrored" else 1), -gsd * per_north])
    corner = np.array([x, y]) - matrix @ np.full(2, side / 2)
    lattice = Affine(*np.column_stack([matrix, corner]).ravel())
    columns, rows = (axis.ravel() + 0.5 for axis in np.meshgrid(np.arange(side), np.arange(side)))
    xs, ys = matrix @ np.stack([columns, rows]) + corner[:, None]
    longitudes, latitudes = transform(system, "EPSG:4326", xs, ys)
    east_m, north_m = east_north_m(MIDDLE, np.array(latitudes), np.array(longitudes))
    half = len(flat.image) / 2
    column, row = (np.floor(half + way / flat.gsd_m).astype(int) for way in (east_m, -north_m))
    there = (column >= 0) & (row >= 0) & (column < 2 * half) & (row < 2 * half)
    image = np.zeros((side * side, 3), np.uint8)
    image[there] = flat.image[row[there], column[there]]
    profile = {"driver": "GTiff", "height": side, "width": side, "count": 3, "dtype": "uint8", "crs": system}
    with rasterio.open(path, "w", transform=lattice, **profile) as dataset:
        dataset.write(np.moveaxis(image.reshape(side, side, 3), 2, 0))
