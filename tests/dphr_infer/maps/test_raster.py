import itertools
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dphr_infer.errors import ConfigError, MapError, MissingPackageError
from dphr_infer.files.gallery import open_gallery
from dphr_infer.geo import distance_m, east_north_m
from dphr_infer.indexing.index import index
from dphr_infer.maps.raster import MapRaster
from dphr_infer.maps.tiling import GridRow, PixelBox, TileSpot, compose_tile, pixel_box, plan_rows
from dphr_infer.types import GeoPoint

# At 60 degrees north a degree of longitude takes 55.8 km, a degree of latitude 111.4 km (WGS84), and a metre of Web
# Mercator half a metre of ground.
NORTH_60 = GeoPoint(60.0, 10.0)
LON_M, LAT_M = 55_800.0, 111_412.0


def spots(raster: MapRaster, tile_m: float, stride_m: float) -> list[list[TileSpot]]:
    return [raster.row_spots(row, tile_m) for row in raster.plan_rows(tile_m, stride_m)]


def test_a_tile_on_a_utm_map_takes_its_metres_over_the_pixel_size(write_map, texture) -> None:
    path = write_map(texture(400, 600), west=500_000.0, px=0.5)  # on the central meridian, where a metre is 0.9996 m
    with MapRaster(path) as raster:
        across, down = raster.metres_per_px(np.array([100.0]), np.array([100.0]))[0]
        assert across == pytest.approx(0.5 / 0.9996, rel=1e-5) and down == pytest.approx(0.5 / 0.9996, rel=1e-5)
        rows = spots(raster, 100.0, 50.0)
    assert [len(row) for row in rows] == [5, 5, 5]
    assert rows[0][0].width_px == pytest.approx(100 * 0.9996 / 0.5, rel=1e-4)


def test_a_tile_on_a_map_in_degrees_is_a_square_of_true_metres(write_map, texture) -> None:
    degrees = 1e-5
    path = write_map(texture(800, 800), crs="EPSG:4326", west=10.0, north=60.0, px=degrees)
    with MapRaster(path) as raster:
        spot = spots(raster, 100.0, 50.0)[0][0]
        assert spot.width_px == pytest.approx(100 / (LON_M * degrees), rel=1e-3)  # 179.2
        assert spot.height_px == pytest.approx(100 / (LAT_M * degrees), rel=1e-3)  # 89.8
        assert raster.read_tile(spot).image.shape == (179, 179, 3)


def test_a_tile_on_a_web_mercator_map_is_a_square_of_true_metres(write_map, texture) -> None:
    north = 6_378_137.0 * math.log(math.tan(math.pi / 4 + math.radians(60.0) / 2))
    path = write_map(texture(600, 600), crs="EPSG:3857", west=1_113_194.9, north=north, px=1.0)
    with MapRaster(path) as raster:
        spot = spots(raster, 100.0, 50.0)[0][0]
    # Mercator's sphere meets the ellipsoid only roughly: 2 * (1 - e^2 sin^2)^(1/2) across, 0.5 % off the plain 2.
    assert spot.width_px == pytest.approx(200.0, rel=6e-3)
    assert spot.height_px == pytest.approx(200.0, rel=6e-3)
    assert spot.point.latitude_deg < 60.0 and spot.point.longitude_deg > 10.0


@pytest.mark.parametrize("crs", ["EPSG:32632", "EPSG:4326", "EPSG:3857"])
def test_neighbouring_tiles_lie_a_stride_apart_in_true_metres(write_map, texture, crs: str) -> None:
    place = {
        "EPSG:32632": {"west": 400_000.0, "north": 6_650_000.0, "px": 0.5},
        "EPSG:4326": {"west": 10.0, "north": 60.0, "px": (9e-6, 4.5e-6)},
        "EPSG:3857": {"west": 1_113_194.9, "north": 8_399_000.0, "px": 1.0},
    }[crs]
    with MapRaster(write_map(texture(700, 900), crs=crs, **place)) as raster:
        rows = spots(raster, 100.0, 40.0)
    assert len(rows) >= 6
    for row in rows:
        for a, b in itertools.pairwise(row):
            assert distance_m(a.point, b.point) == pytest.approx(40.0, rel=1e-3)
    for above, below in itertools.pairwise(rows):
        middle = len(above) // 2
        _, north_m = east_north_m(
            above[middle].point,
            np.array([below[middle].point.latitude_deg]),
            np.array([below[middle].point.longitude_deg]),
        )
        assert -north_m[0] == pytest.approx(40.0, rel=2e-3)


def test_the_grid_lies_within_the_raster_with_equal_margins() -> None:
    rows = plan_rows(100, 70, lambda x, y: np.ones((len(x), 2)), 20.0, 15.0)
    # Across: 6 tiles take 5 * 15 + 20 = 95 of 100; down: 4 take 65 of 70.
    assert rows == [GridRow(pytest.approx(12.5 + 15 * i), 12.5, 15.0, 6) for i in range(4)]


def test_a_raster_of_exactly_one_tile_gives_one_tile() -> None:
    assert plan_rows(20, 20, lambda x, y: np.ones((len(x), 2)), 20.0, 15.0) == [GridRow(10.0, 10.0, 15.0, 1)]


def test_a_raster_smaller_than_a_tile_is_refused_with_both_sizes(write_map, texture) -> None:
    with MapRaster(write_map(texture(100, 300))) as raster, pytest.raises(MapError, match=r"x 50\.0 m.*100 x 100 m"):
        raster.plan_rows(100.0, 50.0)


@pytest.mark.parametrize(("tile_m", "stride_m"), [(0.0, 1.0), (10.0, 0.0), (10.0, -1.0), (float("nan"), 1.0)])
def test_a_tile_or_stride_that_is_not_positive_is_refused(tile_m: float, stride_m: float) -> None:
    with pytest.raises(MapError, match="above 0"):
        plan_rows(100, 100, lambda x, y: np.ones((len(x), 2)), tile_m, stride_m)


def test_a_tile_shows_exactly_the_pixels_around_its_centre(write_map, texture) -> None:
    image = texture(400, 400)
    with MapRaster(write_map(image, west=500_000.0)) as raster:
        spot = raster.spot_at(GeoPoint(*raster.to_points(np.array([200.0]), np.array([150.0]))[0]), 50.0)
        assert (spot.x_px, spot.y_px) == (pytest.approx(200.0, abs=1e-3), pytest.approx(150.0, abs=1e-3))
        tile = raster.read_tile(spot)
    np.testing.assert_array_equal(tile.image, image[100:200, 150:250])
    assert tile.nodata_share == 0.0


def test_a_tile_without_data_in_part_is_filled_with_the_mean_of_the_rest() -> None:
    box, inside = PixelBox(-2, 0, 2, 4), PixelBox(0, 0, 2, 4)
    pixels = np.zeros((4, 2, 3), np.uint8)
    pixels[:2] = 100
    has_data = np.ones((4, 2), bool)
    has_data[3] = False
    tile = compose_tile(box, inside, pixels, has_data)
    assert tile.nodata_share == 10 / 16
    assert tile.image[0, 2].tolist() == [100] * 3 and tile.image[2, 2].tolist() == [0] * 3
    assert tile.image[3, 3].tolist() == [67] * 3 and tile.image[0, 0].tolist() == [67] * 3  # 4 of 6 pixels are 100


def test_a_tile_beyond_the_map_has_no_data(write_map, texture) -> None:
    with MapRaster(write_map(texture(100, 100))) as raster:
        tile = raster.read_tile(TileSpot(500.0, 500.0, 20.0, 20.0, NORTH_60))
    assert tile.nodata_share == 1.0 and tile.image.shape == (20, 20, 3)


def test_a_box_takes_the_nearest_whole_pixels() -> None:
    assert pixel_box(TileSpot(10.3, 20.6, 4.0, 0.2, NORTH_60)) == PixelBox(8, 20, 12, 21)


@pytest.mark.parametrize("kind", ["alpha", "nodata"])
def test_absent_pixels_are_known_from_alpha_and_from_a_nodata_value(write_map, texture, kind: str) -> None:
    image = np.maximum(texture(100, 100), 1)
    image[:, :30] = 0
    if kind == "alpha":
        image = np.dstack([image, np.where(image.any(axis=2), 255, 0).astype(np.uint8)])
    path = write_map(image, **({} if kind == "alpha" else {"nodata": 0}))
    with MapRaster(path) as raster:
        tile = raster.read_tile(TileSpot(50.0, 50.0, 100.0, 100.0, NORTH_60))
    assert tile.nodata_share == pytest.approx(0.3)
    assert (tile.image[:, :30] == np.round(image[:, 30:, :3].reshape(-1, 3).mean(axis=0))).all()


def test_bands_named_in_another_order_are_read_as_red_green_blue(write_map, texture) -> None:
    import rasterio
    from rasterio.enums import ColorInterp

    image = texture(64, 64)
    path = write_map(image[:, :, ::-1])
    with rasterio.open(path, "r+") as dataset:
        dataset.colorinterp = (ColorInterp.blue, ColorInterp.green, ColorInterp.red)
    with MapRaster(path) as raster:
        np.testing.assert_array_equal(raster.read_tile(TileSpot(32.0, 32.0, 64.0, 64.0, NORTH_60)).image, image)


def test_a_map_without_georeference_is_refused(write_map, texture) -> None:
    with pytest.raises(MapError, match="no georeference"), MapRaster(write_map(texture(100, 100), crs=None)):
        pass


def test_a_map_at_the_pole_is_refused(write_map, texture) -> None:
    with (
        MapRaster(write_map(texture(200, 200), crs="EPSG:3413", west=-50.0, north=50.0)) as raster,
        pytest.raises(MapError, match=r"reaches latitude 90\.000"),
    ):
        raster.plan_rows(20.0, 20.0)


LOCAL = 'LOCAL_CS["site",UNIT["metre",1],AXIS["X",EAST],AXIS["Y",NORTH]]'


def test_a_map_whose_system_leads_nowhere_is_refused(write_map, texture) -> None:
    with pytest.raises(MapError, match=r"does not lead to WGS84.*gdal_edit"):
        MapRaster(write_map(texture(100, 100), crs=LOCAL)).__enter__()


def test_a_map_across_the_antimeridian_indexes_and_opens(bundle, write_map, texture, tmp_path: Path) -> None:
    path = write_map(texture(200, 200), crs="EPSG:4326", west=179.999, north=10.0, px=1e-5)
    index(path, bundle=bundle, out=tmp_path / "g", tile_m=50.0, stride_m=50.0)
    gallery = open_gallery(tmp_path / "g")
    assert gallery.longitude_deg.min() < -179.999 and gallery.longitude_deg.max() > 179.999
    with MapRaster(path) as raster:
        for row in range(len(gallery)):
            assert raster.read_tile(raster.spot_at(gallery.point(row), 50.0)).nodata_share == 0.0


def test_a_map_of_one_band_is_refused(write_map, texture) -> None:
    with pytest.raises(MapError, match=r"1 band\(s\); red, green and blue"):
        MapRaster(write_map(texture(100, 100)[:, :, :1])).__enter__()


def test_a_map_of_16_bits_is_refused_with_the_command_that_converts_it(write_map, texture) -> None:
    with pytest.raises(MapError, match=r"uint16 pixels; 8 bits.*gdal_translate -ot Byte"):
        MapRaster(write_map(texture(100, 100).astype(np.uint16))).__enter__()


@pytest.mark.parametrize("turn_deg", [-1.5, 3.0, -45.0, 170.0])
def test_pixels_of_a_turned_map_are_measured_as_they_lie(write_map, texture, turn_deg: float) -> None:
    with MapRaster(write_map(texture(100, 100), turn_deg=turn_deg)) as raster:
        across, down = raster.metres_per_px(np.array([50.0]), np.array([50.0]))[0]
    assert across == pytest.approx(0.5, rel=1e-3) and down == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize(
    "laid",
    [{"turn_deg": 90.0, "north": 5_199_900.0}, {"px": (0.5, -0.5), "north": 5_199_900.0}],
    ids=["turned", "mirrored"],
)
def test_tiles_of_a_turned_or_mirrored_map_are_north_up(write_map, texture, laid) -> None:
    image = texture(200, 200)
    straight = write_map(image, west=500_000.0)
    mapped = {"turned": np.rot90(image, -1), "mirrored": image[::-1]}["mirrored" if "px" in laid else "turned"]
    other = write_map(np.ascontiguousarray(mapped), west=500_000.0, name="other.tif", **laid)
    with MapRaster(straight) as a, MapRaster(other) as b:
        place = a.centre
        expected = a.read_tile(a.spot_at(place, 50.0)).image
        seen = b.read_tile(b.spot_at(place, 50.0))
    assert seen.nodata_share == 0.0 and seen.image.shape == expected.shape
    assert np.abs(seen.image.astype(float) - expected).max() <= 2.0


def test_files_that_are_no_maps_are_refused(tmp_path: Path, write_map, texture) -> None:
    with pytest.raises(MapError, match="is a folder"):
        MapRaster(tmp_path).__enter__()
    with pytest.raises(MapError, match="does not exist"):
        MapRaster(tmp_path / "none.tif").__enter__()
    (tmp_path / "text.tif").write_text("no map")
    with pytest.raises(MapError, match="not a raster that GDAL can read"):
        MapRaster(tmp_path / "text.tif").__enter__()
    path = write_map(texture(200, 200))
    path.write_bytes(path.read_bytes()[:60_000])
    with pytest.raises(MapError, match=r"is damaged: (?!.*previous exception)"), MapRaster(path) as raster:
        raster.read_tile(TileSpot(100.0, 100.0, 200.0, 200.0, NORTH_60))


def test_without_rasterio_the_pip_line_is_named(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(MissingPackageError, match=r"Reading a map needs .* pip install 'dphr\[map\]'"):
        MapRaster(tmp_path / "map.tif")


def test_indexing_embeds_each_tile_where_it_lies(
    bundle, write_map, texture, reference_embedding, tmp_path: Path
) -> None:
    path = write_map(texture(300, 400), west=500_000.0)
    report = index(path, bundle=bundle, out=tmp_path / "g", tile_m=50.0, stride_m=25.0, dtype="fp32", batch=4)
    gallery = open_gallery(tmp_path / "g")
    gallery.check_bundle(bundle)
    assert (report.indexed, report.skipped, len(gallery)) == (35, 0, 35)
    assert (gallery.origin.tile_m, gallery.origin.stride_m, gallery.origin.map_name) == (50.0, 25.0, "map.tif")
    with MapRaster(path) as raster:
        for row in (0, 17, 34):
            tile = raster.read_tile(raster.spot_at(gallery.point(row), 50.0)).image
            expected = reference_embedding(bundle.manifest.preprocess(tile)[None])[0]
            assert expected @ gallery.embeddings[row] > 0.999


def test_tiles_with_too_little_data_are_skipped(bundle, write_map, texture, tmp_path: Path) -> None:
    image = np.dstack([texture(200, 400), np.full((200, 400), 255, np.uint8)])
    image[:, :200, 3] = 0
    path = write_map(image)
    report = index(path, bundle=bundle, out=tmp_path / "g", tile_m=50.0, stride_m=50.0)
    assert (report.indexed, report.skipped) == (4, 4)
    with pytest.raises(MapError, match="Each of the 4 tiles"):
        index(write_map(image[:, :199], name="none.tif"), bundle=bundle, out=tmp_path / "h", tile_m=49.5, stride_m=49.5)
    with pytest.raises(ConfigError, match="`max_nodata` is 1"):
        index(path, bundle=bundle, out=tmp_path / "h", tile_m=50.0, stride_m=50.0, max_nodata=1.5)
    assert not (tmp_path / "h").exists()


PEAK_MEMORY = """
import sys
from pathlib import Path
from dphr_infer.files.bundle import open_bundle
from dphr_infer.indexing.index import index
index(sys.argv[2], bundle=sys.argv[1], out=sys.argv[3], tile_m=40.0, stride_m=40.0, threads=1)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def test_memory_does_not_grow_with_the_map(bundle, write_map, tmp_path: Path) -> None:
    peaks_kib = []
    for side in (3000, 6000):  # 36 MB and 144 MB of pixels; GDAL's cache is held to 64 MB
        path = write_map(
            np.broadcast_to(np.uint8(90), (side, side, 4)), name=f"{side}.tif", tiled=True, compress="deflate"
        )
        command = [sys.executable, "-c", PEAK_MEMORY, str(bundle.folder), str(path), str(tmp_path / f"{side}.g")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks_kib.append(int(done.stdout))
    assert peaks_kib[1] - peaks_kib[0] < 60 * 1024


def test_gdals_cache_is_64_megabytes_and_not_64_bytes(write_map, texture) -> None:
    from rasterio._env import get_gdal_config

    # In bytes a cache of 64 would hold no block, and each tile decode its neighbours' pixels again.
    with MapRaster(write_map(texture(64, 64))):
        assert get_gdal_config("GDAL_CACHEMAX") == 64 * 2**20


def test_a_turned_map_is_indexed_north_up(bundle, write_map, texture, reference_embedding, tmp_path: Path) -> None:
    path = write_map(texture(300, 400), turn_deg=30.0)
    report = index(path, bundle=bundle, out=tmp_path / "g", tile_m=50.0, stride_m=25.0, dtype="fp32")
    gallery = open_gallery(tmp_path / "g")
    assert (report.indexed, report.skipped) == (35, 0)
    with MapRaster(path) as raster:
        for row in (0, 17, 34):
            seen = raster.view(gallery.point(row), 100, 100, 0.5)
            filled = np.where(seen.covered[..., None], seen.image, seen.image[seen.covered].mean(axis=0).round())
            expected = reference_embedding(bundle.manifest.preprocess(filled.astype(np.uint8))[None])[0]
            assert expected @ gallery.embeddings[row] > 0.99
