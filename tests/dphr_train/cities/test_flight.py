from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.warp import transform

from dphr_infer.errors import ConfigError, DatasetError
from dphr_infer.geo import distance_m, east_north_m
from dphr_infer.types import GeoPoint
from dphr_train.cities.acquisition import acquire, whole_city
from dphr_train.cities.camera import satellite_rays
from dphr_train.cities.city import City
from dphr_train.cities.config import CitiesConfig
from dphr_train.cities.flight import write_flight
from dphr_train.cities.places import open_city, satellite_conditions, satellite_tilt_azimuth_deg
from dphr_train.cities.raycast import render

FRAMES, MOSAIC_M, GSD_M = 4, 400.0, 1.0


@pytest.fixture(scope="module")
def flight(tiny: CitiesConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("flight")
    write_flight(tiny, out, FRAMES, MOSAIC_M, GSD_M)
    return out


@pytest.fixture(scope="module")
def city(tiny: CitiesConfig) -> City:
    return open_city(tiny, "test", 0)


def truth_of(out: Path) -> list[dict[str, str]]:
    with (out / "truth.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def pixel_of(out: Path, latitude_deg: float, longitude_deg: float) -> tuple[float, float]:
    """Column and row of a position, by the mosaic's own georeference."""
    with rasterio.open(out / "mosaic.tif") as mosaic:
        (east,), (north,) = transform("EPSG:4326", mosaic.crs, [longitude_deg], [latitude_deg])
        inverse = ~mosaic.transform
    return inverse.a * east + inverse.c, inverse.e * north + inverse.f


def test_the_mosaic_is_a_tiled_compressed_rgb_geotiff_of_the_asked_size(flight: Path) -> None:
    with rasterio.open(flight / "mosaic.tif") as mosaic:
        assert (mosaic.width, mosaic.height, mosaic.count, mosaic.dtypes[0]) == (400, 400, 3, "uint8")
        assert mosaic.profile["tiled"]
        assert mosaic.block_shapes == [(256, 256)] * 3
        assert mosaic.compression is not None
        assert mosaic.crs.to_epsg() == 32632
        assert mosaic.transform.b == mosaic.transform.d == 0  # north up


def test_the_georeference_agrees_with_local_metres_to_decimetres(flight: Path, city: City) -> None:
    for x, y in ((300.0, 300.0), (110.0, 110.0), (490.0, 110.0), (110.0, 490.0)):
        point = city.point(x, y)
        column, row = pixel_of(flight, point.latitude_deg, point.longitude_deg)
        assert column * GSD_M == pytest.approx(x - 100.0, abs=0.1)
        assert row * GSD_M == pytest.approx(y - 100.0, abs=0.1)


def test_the_mosaic_shows_at_a_position_what_stands_there(flight: Path, city: City) -> None:
    """A tile rendered around the first photo's truth is found in the mosaic exactly where the georeference says."""
    row = truth_of(flight)[1]
    latitude, longitude = float(row["latitude_deg"]), float(row["longitude_deg"])
    column_px, row_px = pixel_of(flight, latitude, longitude)
    east, north = east_north_m(city.origin, np.array([latitude]), np.array([longitude]))
    # The tile is aligned to whole pixels of the mosaic, so that shifts are whole pixels too.
    left, top = round(column_px) - 32, round(row_px) - 32
    x = 300.0 + float(east[0]) + (left + 32 - column_px) * GSD_M
    y = 300.0 - float(north[0]) + (top + 32 - row_px) * GSD_M
    satellite = acquire(city, whole_city(city), satellite_conditions(city))
    rays = satellite_rays(x, y, 64.0, 5.0, satellite_tilt_azimuth_deg(city), city.highest_m + 10)
    tile = render(satellite, rays, 64, 64, 1).mean(axis=2)
    with rasterio.open(flight / "mosaic.tif") as mosaic:
        picture = mosaic.read().mean(axis=0)
    likeness = {
        (dx, dy): np.corrcoef(tile.ravel(), picture[top + dy : top + dy + 64, left + dx : left + dx + 64].ravel())[0, 1]
        for dx in (-3, 0, 3)
        for dy in (-3, 0, 3)
    }
    assert max(likeness, key=likeness.__getitem__) == (0, 0)
    assert likeness[0, 0] > 0.9


def test_truth_lies_at_least_100_m_inside_the_mosaic(flight: Path) -> None:
    rows = truth_of(flight)
    assert [row["photo"] for row in rows] == [f"frame-{i:03d}.jpg" for i in range(FRAMES)]
    for row in rows:
        column, line = pixel_of(flight, float(row["latitude_deg"]), float(row["longitude_deg"]))
        assert min(column, line) * GSD_M >= 100
        assert max(column, line) * GSD_M <= MOSAIC_M - 100


def test_photos_are_4_to_3_and_oblique_and_turn(flight: Path, tiny: CitiesConfig) -> None:
    rows = truth_of(flight)
    assert all(row["pitch_deg"] == "-46.0000" and 150 <= float(row["height_m"]) <= 210 for row in rows)
    assert len({row["heading_deg"] for row in rows}) > 1
    with Image.open(flight / "photos" / rows[0]["photo"]) as photo:
        assert photo.size == (round(tiny.image_px * 4 / 3), tiny.image_px)


def test_photos_carry_the_cameras_position_as_exif_and_dji_xmp(flight: Path) -> None:
    for row in truth_of(flight):
        path = flight / "photos" / row["photo"]
        with Image.open(path) as photo:
            gps = photo.getexif().get_ifd(0x8825)
        latitude, longitude = (float(d) + float(m) / 60 + float(s) / 3600 for d, m, s in (gps[2], gps[4]))
        camera = GeoPoint(float(row["camera_latitude_deg"]), float(row["camera_longitude_deg"]))
        assert (gps[1], gps[3]) == ("N", "E")
        assert distance_m(GeoPoint(latitude, longitude), camera) < 0.02
        assert float(gps[6]) == pytest.approx(float(row["height_m"]), abs=0.01)
        data = path.read_bytes().decode("latin-1")
        values = dict(re.findall(r'drone-dji:(\w+)="([^"]+)"', data))
        assert float(values["RelativeAltitude"]) == pytest.approx(float(row["height_m"]), abs=0.01)
        assert float(values["GimbalPitchDegree"]) == -46.0
        assert float(values["GimbalYawDegree"]) % 360 == pytest.approx(float(row["heading_deg"]) % 360, abs=0.01)


def test_workers_and_deleted_files_change_no_byte(
    flight: Path, tiny: CitiesConfig, tmp_path: Path, digests_of: Callable[[Path], dict[str, str]]
) -> None:
    copy = shutil.copytree(flight, tmp_path / "copy")
    (copy / "photos" / "frame-002.jpg").unlink()
    (copy / "mosaic.tif").unlink()
    write_flight(replace(tiny, workers=2), copy, FRAMES, MOSAIC_M, GSD_M)
    assert digests_of(copy) == digests_of(flight)


def test_other_settings_are_refused_with_both_values(flight: Path, tiny: CitiesConfig) -> None:
    with pytest.raises(DatasetError, match="frames is 4 there and 5 here"):
        write_flight(tiny, flight, FRAMES + 1, MOSAIC_M, GSD_M)


def test_a_mosaic_larger_than_the_city_is_refused_with_both_sizes(tiny: CitiesConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="The mosaic is 1000 m wide; a city of 600 m takes 300 to 500 m"):
        write_flight(tiny, tmp_path)
