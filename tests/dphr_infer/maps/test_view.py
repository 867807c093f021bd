import numpy as np
import pytest
from map_places import PLACES, assert_blots_lie_right
from plain_view import look_up

from dphr_infer.errors import ConfigError, MapError
from dphr_infer.geo import offset
from dphr_infer.maps.raster import MapRaster
from dphr_infer.types import GeoPoint


@pytest.mark.parametrize("place", PLACES)
def test_a_view_is_what_a_loop_over_its_pixels_looks_up(write_map, texture, place: str) -> None:
    image = texture(480, 520)
    with MapRaster(write_map(image, **PLACES[place])) as raster:
        centre = offset(raster.centre, 3.3, -2.1)
        gsd_m = raster.gsd_m * 1.1
        view = raster.view(centre, 61, 47, gsd_m)
        expected, known = look_up(image, np.ones((480, 520), bool), raster.to_px, centre, 61, 47, gsd_m)
    assert (view.image.shape, view.image.dtype, view.covered.dtype) == ((47, 61, 3), np.uint8, bool)
    assert view.centre == centre and view.gsd_m == gsd_m
    assert known.all() and view.covered.all()
    # Pillow cuts off to whole levels, and a hundredth of a pixel is worth another.
    assert np.abs(view.image + 0.5 - expected).max() < 1.5


@pytest.mark.parametrize("place", ["utm", "utm turned", "degrees", "mercator", "degrees across", "mercator across"])
@pytest.mark.parametrize("gsd_m", [0.3, 1.0, 2.0, 3.1])
def test_blots_lie_within_a_tenth_of_a_pixel_of_where_they_were_put(blots, place: str, gsd_m: float) -> None:
    path, middle, spots, reach_m = blots(PLACES[place], 3.0 * gsd_m)
    with MapRaster(path) as raster:
        assert_blots_lie_right(raster, middle, spots, reach_m, gsd_m)


def test_a_coarser_view_is_a_mean_and_not_a_sample(write_map) -> None:
    board = ((np.indices((400, 400)).sum(axis=0) % 2) * 200).astype(np.uint8)  # a pixel on, a pixel off
    path = write_map(np.repeat(board[..., None], 3, axis=2), west=500_000.0)
    with MapRaster(path) as raster:
        view = raster.view(raster.centre, 40, 40, 2.0)
    assert view.covered.all() and np.abs(view.image.astype(int) - 100).max() <= 1


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_overviews_of_the_file_shift_nothing(write_map, texture, factor: int) -> None:
    import rasterio
    from rasterio.enums import Resampling

    path = write_map(texture(603, 701), west=500_000.0, tiled=True, blockxsize=128, blockysize=128)
    with MapRaster(path) as raster:
        before = raster.view(offset(raster.centre, 40.0, 30.0), 50, 50, 0.5 * factor).image.astype(float)
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2, 4], Resampling.average)
    with MapRaster(path) as raster:
        after = raster.view(offset(raster.centre, 40.0, 30.0), 50, 50, 0.5 * factor).image.astype(float)
        moved = raster.view(offset(raster.centre, 40.0 + 0.1 * 0.5 * factor, 30.0), 50, 50, 0.5 * factor).image
    assert np.abs(after - before).mean() < np.abs(moved - before).mean()


@pytest.mark.parametrize("kind", ["alpha", "nodata"])
@pytest.mark.parametrize("gsd_m", [0.5, 1.5])
def test_what_has_no_data_is_not_covered_and_black(write_map, texture, kind: str, gsd_m: float) -> None:
    image = np.maximum(texture(300, 300), 1)
    data = np.ones((300, 300), bool)
    data[:, :145] = data[155:] = False
    image[~data] = 0
    if kind == "alpha":
        path = write_map(np.dstack([image, np.where(data, 255, 0).astype(np.uint8)]))
    else:
        path = write_map(image, nodata=0)
    with MapRaster(path) as raster:
        view = raster.view(raster.centre, 40, 40, gsd_m)
        _, known = look_up(image, data, raster.to_px, raster.centre, 40, 40, gsd_m)
    assert 0.2 < view.covered.mean() < 0.5
    assert (view.image[~view.covered] == 0).all() and (view.image[view.covered] > 0).all()
    if gsd_m == 0.5:
        np.testing.assert_array_equal(view.covered, known)
    else:
        assert (view.covered != known).mean() < 0.08  # along two edges of 20 pixels


def test_what_is_transparent_in_part_is_not_covered_at_any_scale(write_map, texture) -> None:
    with MapRaster(write_map(np.dstack([texture(100, 100), np.full((100, 100), 254, np.uint8)]))) as raster:
        assert not any(raster.view(raster.centre, 20, 20, gsd_m).covered.any() for gsd_m in (0.5, 1.5))


def test_a_view_across_the_edge_is_covered_up_to_it(write_map, texture) -> None:
    image = texture(100, 100)
    with MapRaster(write_map(image, west=500_000.0)) as raster:
        centre = GeoPoint(*raster.to_points(np.array([98.0]), np.array([3.0]))[0])
        view = raster.view(centre, 30, 30, 0.5)
        _, known = look_up(image, np.ones((100, 100), bool), raster.to_px, centre, 30, 30, 0.5)
    np.testing.assert_array_equal(view.covered, known)
    assert 0.2 < known.mean() < 0.5


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "away", [(46.8, -92.0), (0.0, 0.0), (-60.0, -170.0), (60.0, 180.0), (60.0, -170.0), (89.5, 10.0), (-89.9, 0.0)]
)
def test_a_view_of_another_place_covers_nothing(write_map, texture, place: str, away: tuple[float, float]) -> None:
    # 40 km to a side of the view: wide enough to meet whatever a projection tears apart.
    with MapRaster(write_map(texture(64, 64), **PLACES[place])) as raster:
        for gsd_m in (0.5, 1000.0):
            view = raster.view(GeoPoint(*away), 40, 40, gsd_m)
            assert not view.covered.any() and not view.image.any()


def test_a_view_reaches_over_the_seam_of_a_map_that_begins_there(write_map, texture) -> None:
    # A map whose own first column is the antimeridian: what lies west of it is not on the map.
    image = texture(200, 200)
    with MapRaster(write_map(image, crs="EPSG:4326", west=-180.0, north=10.0, px=1e-5)) as raster:
        centre = GeoPoint(9.999, -180.0)
        view = raster.view(centre, 40, 40, 1.0)
        expected, known = look_up(image, np.ones((200, 200), bool), raster.to_px, centre, 40, 40, 1.0)
    np.testing.assert_array_equal(view.covered, known)
    assert known[:, 21:].all() and not known[:, :20].any()
    assert np.abs(view.image + 0.5 - expected)[known].max() < 1.5


def test_a_small_view_and_one_coarser_than_the_map_are_answered(write_map, texture) -> None:
    image = texture(64, 64)
    with MapRaster(write_map(image)) as raster:
        one = raster.view(raster.centre, 1, 1, 0.5)
        assert one.covered.all() and np.abs(one.image[0, 0] - image[31:33, 31:33].mean(axis=(0, 1))).max() < 2
        assert not raster.view(raster.centre, 2, 2, 500.0).covered.any()


@pytest.mark.parametrize(
    ("size", "gsd_m", "latitude_deg", "words"),
    [
        ((0, 10), 1.0, 10.0, "0 x 10 pixels"),
        ((10, 5000), 1.0, 10.0, "10 x 5000 pixels is asked for; expected 1 to 4096"),
        ((10, 10), 0.0, 10.0, "0.0 m a pixel"),
        ((10, 10), float("nan"), 10.0, "nan m a pixel"),
        ((10, 10), 1.0, 89.95, r"latitude 89\.950"),
    ],
)
def test_a_view_that_cannot_be_is_refused(write_map, texture, size, gsd_m, latitude_deg, words) -> None:
    with (
        MapRaster(write_map(texture(64, 64))) as raster,
        pytest.raises((ConfigError, MapError), match=words),
    ):
        raster.view(GeoPoint(latitude_deg, 9.0), *size, gsd_m)


def test_a_damaged_map_is_said_to_be_damaged(write_map, texture) -> None:
    path = write_map(texture(200, 200))
    path.write_bytes(path.read_bytes()[:60_000])
    with MapRaster(path) as raster, pytest.raises(MapError, match="is damaged"):
        raster.view(raster.centre, 150, 150, 0.5)
