from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.transform import Affine
from rasterio.warp import transform

from dphr_infer.errors import ConfigError, DatasetError, MapError
from dphr_infer.geo import distance_m
from dphr_infer.images.preprocess import read_image
from dphr_infer.types import GeoPoint
from dphr_train.datasets.raster_pair import write_raster_pair
from dphr_train.datasets.university1652 import University1652

WEST, NORTH = 500_000.0, 5_200_000.0  # on zone 32's central meridian, where a metre measures 0.9996 m


def ground(easting: NDArray[np.float64], northing: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Colours of the ground by position in zone 32: ramps up and down in periods that no place shares with another."""

    def ramp(metres: NDArray[np.float64], period_m: float) -> NDArray[np.float64]:
        return np.abs((metres / period_m) % 2 - 1) * 200 + 20

    colours = [ramp(easting - WEST, 83.0), ramp(northing - NORTH, 71.0), ramp(easting + northing, 310.0)]
    return np.stack(colours).round().astype(np.uint8)


def write_map(
    path: Path, west: float, north: float, px: float, width: int, height: int, crs: str = "EPSG:32632", **profile: float
) -> Path:
    """A map of `ground` whose upper left corner lies at (west, north) of its crs."""
    grid = Affine(px, 0.0, west, 0.0, -px, north)
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    xs, ys = west + px * columns.ravel(), north - px * rows.ravel()
    easting, northing = (np.array(values) for values in transform(crs, "EPSG:32632", xs, ys))
    pixels = ground(easting, northing).reshape(3, height, width)
    options = {"driver": "GTiff", "count": 3, "dtype": "uint8", "crs": crs, "transform": grid, **profile}
    with rasterio.open(path, "w", width=width, height=height, **options) as file:
        file.write(pixels)
    return path


@pytest.fixture
def query_map(tmp_path: Path) -> Path:
    return write_map(tmp_path / "query.tif", WEST, NORTH, 0.5, 400, 320)  # 200 x 160 m


def tiles(root: Path, folder: str) -> list[NDArray[np.uint8]]:
    return [read_image(path) for path in sorted((root / "test" / folder).rglob("*.png"))]


def test_the_result_opens_as_a_test_split_with_one_tile_of_each_map_a_place(query_map: Path, tmp_path: Path) -> None:
    report = write_raster_pair(query_map, query_map, tmp_path / "out", 50.0, image_px=32)
    assert (report.places, report.refused) == (12, 0)  # 4 x 3 squares of 50 m
    forth, back = University1652(tmp_path / "out").test_directions()
    for direction in (forth, back):
        assert [image.place_id for image in direction.queries] == list(range(12))
        assert [image.place_id for image in direction.gallery] == list(range(12))
    assert {read_image(image.path).shape for image in forth.queries} == {(32, 32, 3)}


@pytest.mark.parametrize(
    ("crs", "px"), [("EPSG:32632", 0.7), ("EPSG:32633", 0.5), ("EPSG:3857", 0.8), ("EPSG:4326", 5e-6)]
)
def test_a_place_shows_the_same_ground_in_maps_of_another_grid(
    query_map: Path, tmp_path: Path, crs: str, px: float
) -> None:
    xs, ys = transform("EPSG:32632", crs, [WEST - 31.3, WEST + 240.0], [NORTH + 47.7, NORTH - 200.0])
    width, height = round((xs[1] - xs[0]) / px), round((ys[0] - ys[1]) / px)
    gallery = write_map(tmp_path / "gallery.tif", xs[0], ys[0], px, width, height, crs)
    report = write_raster_pair(query_map, gallery, tmp_path / "out", 40.0, 20.0, image_px=32)
    assert (report.places, report.refused) == (63, 0)  # 9 x 7
    drone, satellite = (np.stack(tiles(tmp_path / "out", f"gallery_{view}")) for view in ("drone", "satellite"))
    inner = np.s_[:, 8:24, 8:24]
    for row, tile in enumerate(drone[inner].astype(float)):
        difference = np.abs(satellite[inner].astype(float) - tile).mean(axis=(1, 2, 3))
        assert difference.argmin() == row
        # Axes turn by up to 4.2 degrees and edges move by half a pixel; ramps rise by 2.8 a metre.
        assert difference[row] < 8


@given(east=st.integers(-120, 120), south=st.integers(-120, 120))
@settings(max_examples=12, deadline=None)
def test_only_squares_wholly_inside_both_maps_become_places(
    tmp_path_factory: pytest.TempPathFactory, east: int, south: int
) -> None:
    folder = tmp_path_factory.mktemp("pair")
    query = write_map(folder / "query.tif", WEST, NORTH, 1.0, 150, 100)
    gallery = write_map(folder / "gallery.tif", WEST + east + 0.25, NORTH - south - 0.25, 1.0, 150, 100)
    inside = 0
    for row in range(3):  # 100 m hold 3 squares of 30 m with margins of 5 m, 150 m hold 5 without
        for column in range(5):
            left, top = 30 * column - east, 5 + 30 * row - south
            inside += 0 <= left <= 120 and 0 <= top <= 70
    if inside == 0:
        with pytest.raises(DatasetError, match="None of the 15 squares of 30 m"):
            write_raster_pair(query, gallery, folder / "out", 30.0, image_px=16)
        assert sorted(path.name for path in folder.iterdir()) == ["gallery.tif", "query.tif"]
    else:
        report = write_raster_pair(query, gallery, folder / "out", 30.0, image_px=16)
        assert (report.places, report.refused) == (inside, 15 - inside)
        assert len(tiles(folder / "out", "query_satellite")) == inside


@pytest.mark.parametrize("hole_in", ["query", "gallery"])
def test_a_square_without_data_in_one_map_is_refused(tmp_path: Path, hole_in: str) -> None:
    paths = {
        name: write_map(tmp_path / f"{name}.tif", WEST, NORTH, 1.0, 150, 100, nodata=0.0)
        for name in ("query", "gallery")
    }
    with rasterio.open(paths[hole_in], "r+") as file:
        file.write(np.zeros((3, 12, 12), np.uint8), window=rasterio.windows.Window(70, 45, 12, 12))
        file.write(np.zeros((3, 2, 2), np.uint8), window=rasterio.windows.Window(10, 15, 2, 2))  # 0.4 % of a tile
    report = write_raster_pair(paths["query"], paths["gallery"], tmp_path / "out", 30.0, image_px=16)
    assert (report.places, report.refused) == (14, 1)


def test_the_record_tells_the_maps_and_where_each_place_lies(query_map: Path, tmp_path: Path) -> None:
    write_raster_pair(query_map, query_map, tmp_path / "out", 50.0, 25.0, image_px=16)
    record = json.loads((tmp_path / "out" / "tiles.json").read_text())
    assert record["query_map"] == {"file": "query.tif", "sha256": hashlib.sha256(query_map.read_bytes()).hexdigest()}
    assert (record["tile_m"], record["stride_m"], len(record["places"])) == (50.0, 25.0, 35)  # 7 x 5
    first, second, below = (GeoPoint(**record["places"][i]) for i in (0, 1, 7))
    assert distance_m(first, second) == pytest.approx(25.0, rel=1e-3) and second.longitude_deg > first.longitude_deg
    assert distance_m(first, below) == pytest.approx(25.0, rel=1e-3) and below.latitude_deg < first.latitude_deg


def test_the_same_maps_give_the_same_bytes(query_map: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_raster_pair(query_map, query_map, tmp_path / name, 80.0, image_px=16)
    one, two = (
        {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.*")}
        for name in ("one", "two")
    )
    assert one == two


def test_an_empty_folder_is_taken_and_one_with_files_is_left_alone(query_map: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert write_raster_pair(query_map, query_map, tmp_path / "empty", 80.0, image_px=16).places == 4
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(DatasetError, match="mine holds files"):
        write_raster_pair(query_map, query_map, tmp_path / "mine", 80.0, image_px=16)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    with pytest.raises(DatasetError, match=r"query\.tif is a file"):
        write_raster_pair(query_map, query_map, query_map, 80.0, image_px=16)


def test_a_tile_larger_than_the_map_and_pictures_too_small_are_refused(query_map: Path, tmp_path: Path) -> None:
    with pytest.raises(MapError, match="less than one tile of 300 x 300 m"):
        write_raster_pair(query_map, query_map, tmp_path / "out", 300.0)
    with pytest.raises(ConfigError, match="8x8 px"):
        write_raster_pair(query_map, query_map, tmp_path / "out", 50.0, image_px=8)
    assert not (tmp_path / "out").exists()


def test_a_map_paired_with_itself_trains_on_one_picture_twice(query_map: Path, tmp_path: Path) -> None:
    write_raster_pair(query_map, query_map, tmp_path / "out", 80.0, image_px=16, split="train")
    pairs = University1652(tmp_path / "out").train_split().pairs
    assert len(pairs) == 4
    assert all(np.array_equal(read_image(pair.query), read_image(pair.reference)) for pair in pairs)
    assert University1652(tmp_path / "out").test_directions() == []
