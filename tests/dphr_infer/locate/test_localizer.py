import re
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dphr_infer.errors import ConfigError, EngineError, GalleryError, ImageError
from dphr_infer.files.gallery import Gallery, GalleryOrigin, open_gallery
from dphr_infer.geo import distance_m, offset
from dphr_infer.images.photo import Photo
from dphr_infer.indexing.index import index
from dphr_infer.locate.localizer import Localizer
from dphr_infer.locate.open import open_localizer
from dphr_infer.locate.settings import LocateSettings
from dphr_infer.maps.raster import MapRaster
from dphr_infer.types import GeoPoint, Matches, Prior

pytestmark = pytest.mark.kernels

TILE_M, STRIDE_M = 50.0, 25.0
CENTRE = GeoPoint(47.0, 8.0)


@pytest.fixture(scope="module")
def flight(bundle, texture, tmp_path_factory):
    """A map of 200 x 150 m and its gallery."""
    import rasterio
    from rasterio.transform import Affine

    folder = tmp_path_factory.mktemp("flight")
    image = texture(300, 400, 5)
    profile = {"driver": "GTiff", "height": 300, "width": 400, "count": 3, "dtype": "uint8", "crs": "EPSG:32632"}
    with rasterio.open(folder / "map.tif", "w", transform=Affine(0.5, 0, 5e5, 0, -0.5, 5.2e6), **profile) as dataset:
        dataset.write(np.moveaxis(image, 2, 0))
    index(folder / "map.tif", bundle=bundle, out=folder / "g", tile_m=TILE_M, stride_m=STRIDE_M)
    return folder / "map.tif", open_gallery(folder / "g")


@pytest.fixture
def localizer(bundle, flight):
    """A function that opens a localizer on the flight with other settings."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(open_localizer(bundle, flight[1], threads=1, **settings))


def tile_image(flight, row: int) -> np.ndarray:
    path, gallery, *_ = flight
    with MapRaster(path) as raster:
        return raster.read_tile(raster.spot_at(gallery.point(row), TILE_M)).image


@pytest.mark.parametrize("row", [0, 11, 34])
def test_a_photo_of_a_tile_is_located_at_that_tile(flight, localizer, row: int) -> None:
    found = localizer().locate(tile_image(flight, row))
    assert found.places[0].row == row and found.similarity > 0.999
    assert distance_m(found.point, flight[1].point(row)) < 1e-6
    assert found.rotation_deg == 0.0 and len(found.places) == 5


def test_locate_is_its_four_stages_in_a_row_and_the_same_for_each_of_many(flight, localizer) -> None:
    images = [tile_image(flight, row) for row in (3, 20)]
    one = localizer(heading="search", rotations=4)
    by_stage = [one.estimate(one.match(one.embed(one.prepare(image)))) for image in images]
    assert [one.locate(image) for image in images] == by_stage
    assert list(one.locate_each(images)) == by_stage
    assert list(one.locate_each([])) == []


def test_photos_come_as_a_folder_paths_arrays_and_pil_images(flight, localizer, tmp_path: Path) -> None:
    image, one = tile_image(flight, 3), localizer()
    Image.fromarray(image).save(tmp_path / "b.png")
    Image.fromarray(tile_image(flight, 20)).save(tmp_path / "c.png")
    rows = {row: one.locate(tile_image(flight, row)).places[0].row for row in (3, 20)}
    found = list(one.locate_each(tmp_path))
    assert [(estimate.places[0].row, estimate.source) for estimate in found] == [
        (rows[3], str(tmp_path / "b.png")),
        (rows[20], str(tmp_path / "c.png")),
    ]
    each = one.locate_each([str(tmp_path / "b.png"), tmp_path / "c.png", image, Image.fromarray(image)])
    assert [estimate.places[0].row for estimate in each] == [3, 20, 3, 3]
    assert one.locate(str(tmp_path / "c.png")).source == str(tmp_path / "c.png")


def test_a_photo_at_fault_is_given_to_on_error_and_the_others_go_on(flight, localizer, tmp_path: Path) -> None:
    one, refused = localizer(), []
    photos = [tile_image(flight, 3), tmp_path / "none.png", np.zeros((8, 8, 3), np.uint8), tile_image(flight, 20)]
    found = one.locate_each(photos, on_error=lambda photo, error: refused.append(str(error)))
    assert [estimate.places[0].row for estimate in found] == [3, 20]
    assert "none.png does not exist" in refused[0] and "8x8 px" in refused[1]
    with pytest.raises(ImageError, match="does not exist"):
        list(one.locate_each(photos))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((32, 32), np.uint8), "uint8 (32, 32); expected uint8 (H, W, 3), RGB: it is grey"),
        (np.zeros((32, 32, 4), np.uint8), "it is RGBA: drop the alpha channel"),
        (np.zeros((32, 32, 3), np.float32), "float32 (32, 32, 3).*scale it to 0..255"),
        (np.zeros((2, 32, 32, 3), np.uint8), "give one picture"),
        (3, "a photo is a path, an array uint8 (H, W, 3) or a PIL image, but int was given"),
    ],
)
def test_what_is_no_photo_is_named(localizer, given: object, message: str) -> None:
    with pytest.raises(ImageError, match="(?i)" + re.escape(message).replace(r"\.\*", ".*")):
        localizer().locate(given)


def test_a_localizer_that_is_not_entered_says_so_and_shows_what_it_is(bundle, flight) -> None:
    closed = open_localizer(bundle, flight[1])
    with pytest.raises(EngineError, match="not open: use it inside a with statement"):
        closed.locate(np.zeros((32, 32, 3), np.uint8))
    assert "35 tiles" in repr(closed) and "fp32 on cpu, not open" in repr(closed)
    with closed:
        assert repr(closed).endswith("fp32 on cpu, open>")
        with pytest.raises(EngineError, match="open already"):
            closed.__enter__()
    with pytest.raises(EngineError, match="call start before finish"):
        closed.finish()


@pytest.mark.parametrize("yaw_deg", [0.0, 90.0, 180.0, 222.0])
def test_a_photo_with_a_known_yaw_is_located_with_north_up(flight, localizer, yaw_deg: float) -> None:
    path, gallery, *_ = flight
    with MapRaster(path) as raster:  # what a camera turned by its yaw sees: the map, turned the other way
        wide = Image.fromarray(raster.read_tile(raster.spot_at(gallery.point(17), 120.0)).image)
    seen = np.asarray(wide.rotate(yaw_deg, Image.Resampling.BICUBIC))
    # The photo is as large as its inscribed square, turned back, is one tile.
    turn = np.radians(yaw_deg)
    side = round(100 * (abs(np.cos(turn)) + abs(np.sin(turn))))
    top = (len(seen) - side) // 2
    photo = seen[top : top + side, top : top + side]
    found = localizer(heading="north").locate(photo, yaw_deg=yaw_deg)
    assert found.places[0].row == 17 and found.similarity > 0.98
    assert found.rotation_deg == yaw_deg


def test_north_without_a_yaw_is_refused_and_search_recommended(flight, localizer) -> None:
    with pytest.raises(ImageError, match="yaw, but its metadata has none"):
        localizer(heading="north").locate(tile_image(flight, 0))


def test_search_finds_the_rotation_of_a_turned_photo(flight, localizer) -> None:
    photo = np.rot90(tile_image(flight, 9), 1)  # turned counterclockwise, so that a clockwise quarter fixes it
    found = localizer(heading="search", rotations=8).locate(np.ascontiguousarray(photo))
    assert (found.places[0].row, found.rotation_deg) == (9, 90.0)


def around(point: GeoPoint, radius_m: float) -> Prior:
    return Prior(point.latitude_deg, point.longitude_deg, radius_m)


def test_a_prior_restricts_the_places_to_its_circle(flight, localizer) -> None:
    _, gallery, *_ = flight
    photo, near = tile_image(flight, 0), gallery.point(30)
    found = localizer().locate(photo, prior=around(near, 40.0))
    assert all(distance_m(place.point, near) <= 40.0 for place in found.places)
    assert found.places[0].row != 0
    everywhere = localizer().locate(photo, prior=around(near, 10_000.0))
    assert everywhere == localizer().locate(photo)
    alone = localizer().locate(photo, prior=around(near, 1.0))
    assert [place.row for place in alone.places] == [30] and not alone.accepted


def test_a_prior_outside_the_gallery_says_how_far_it_is(flight, localizer) -> None:
    far = offset(flight[1].point(0), 0.0, 5_000.0)
    with pytest.raises(GalleryError, match=r"within 100 m .*the nearest is (4|5)\.\d km away"):
        localizer().locate(tile_image(flight, 0), prior=around(far, 100.0))


def test_the_gallery_of_another_bundle_is_refused(flight, other_bundle) -> None:
    with pytest.raises(GalleryError, match="index the map again"):
        open_localizer(other_bundle, flight[1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heading": "south"}, "`heading` is 'south'; expected one of as-is, north, search"),
        ({"top_k": 0}, "`top_k` is 0; expected a whole number, at least 1"),
        ({"top_k": 2.5}, "`top_k` is 2.5; expected a whole number"),
        ({"rotations": 361}, r"`rotations` is 361; expected a whole number, in 1\.\.360"),
        ({"agreeing": 2}, "`agreeing` is no setting"),
        ({"topk": 2}, "`topk` is no setting; expected one of cache_mb"),
        ({"device": "abacus"}, "`device` is 'abacus'; expected one of cpu, cuda"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(bundle, flight, settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_localizer(bundle, flight[1], **settings)


def hand_made(bundle, flight, offsets_m: list[tuple[float, float]], **options) -> Localizer:
    """A localizer whose gallery's rows lie at the given metres east and north of CENTRE."""
    points = [offset(CENTRE, east, north) for east, north in offsets_m]
    gallery = Gallery(
        np.zeros((len(points), bundle.manifest.dim), np.float32),
        np.array([p.latitude_deg for p in points]),
        np.array([p.longitude_deg for p in points]),
        GalleryOrigin(bundle.digest, 100.0, 50.0, "", "", "", ""),
        Path("hand-made"),
    )
    return Localizer(bundle, gallery, LocateSettings(**options))


def matches(*similarity: float) -> Matches:
    rows = np.arange(len(similarity), dtype=np.int32)[None]
    return Matches(rows, np.array([similarity], np.float32))


# The tile is 100 m: the rival lies at 110 m, and of the three nearer ones the best is at the place itself.
PLACES = [(0.0, 0.0), (100.0, 0.0), (0.0, -100.0), (110.0, 0.0), (900.0, 0.0)]


@pytest.mark.parametrize(
    ("floor", "margin", "reason"),
    [
        (0.89, 0.29, ""),
        (-1.0, 0.0, ""),
        (0.91, 0.0, "off the map: similarity 0.900, the bundle's floor is 0.910"),
        (0.89, 0.31, "ambiguous: margin 0.300 to another place, the bundle asks 0.310"),
        (0.95, 0.5, "off the map: similarity 0.900, the bundle's floor is 0.950"),
        (None, None, "unverified: matches alone told right from wrong nowhere at the bundle's alpha 0.05"),
    ],
)
def test_an_estimate_is_retrieved_above_the_floor_and_the_margin(calibrated, flight, floor, margin, reason) -> None:
    bundle = calibrated(floor=floor, margin=margin)
    found = hand_made(bundle, flight, PLACES).estimate(matches(0.9, 0.8, 0.7, 0.6, 0.5))
    assert (found.verdict, found.reason) == ("none" if reason else "retrieved", reason)
    assert found.accepted is not reason
    assert found.radius_m == pytest.approx(100.0, rel=1e-3)
    assert found.point == found.places[0].point


def test_where_all_matches_are_of_one_place_the_margin_is_what_is_sure(calibrated, flight) -> None:
    # 110 m away nothing was matched: it may be as similar as the last of those that were.
    one = hand_made(calibrated(margin=0.19), flight, PLACES[:3])
    assert one.estimate(matches(0.9, 0.8, 0.7)).verdict == "retrieved"
    assert one.estimate(matches(0.9, 0.8, 0.75)).reason.startswith("ambiguous: margin 0.150")
    assert one.estimate(matches(0.9)).reason.startswith("ambiguous: margin 0.000")


def test_a_bundle_without_calibration_retrieves_nothing_and_says_what_to_do(bundle, flight) -> None:
    found = hand_made(bundle, flight, PLACES).estimate(matches(0.99, 0.8, 0.7, 0.1, 0.1))
    assert not found.accepted and found.reason.startswith("not calibrated: the bundle states no similarity floor")
    assert "dphr-export calibrate BUNDLE" in found.reason


def test_a_gallery_whose_tiles_overlap_otherwise_is_not_what_was_calibrated(calibrated, flight) -> None:
    # The gallery's stride is 0.50 tile sides.
    assert hand_made(calibrated(stride_m=24.5), flight, PLACES).estimate(matches(0.9, 0.1)).verdict == "retrieved"
    found = hand_made(calibrated(stride_m=15.0), flight, PLACES).estimate(matches(0.9, 0.1))
    assert found.reason == (
        "not calibrated for this gallery: its stride is 0.50 tile sides, that of the calibration 0.25"
    )


def test_calibrated_a_localizer_looks_for_the_rival_of_the_best_tile(calibrated, bundle, flight) -> None:
    image = tile_image(flight, 17)
    with open_localizer(calibrated(tile_m=50.0, stride_m=25.0), flight[1], threads=1) as one:
        found = one.locate(image)
        # pi (50.5 / 25 + 1)^2 + 1 tiles, more than the 35 that there are; only five are told.
        assert one.match(one.embed(one.prepare(image))).rows.shape == (1, 30)
    assert (found.verdict, len(found.places)) == ("retrieved", 5)
    with open_localizer(bundle, flight[1], threads=1) as plain:
        assert plain.match(plain.embed(plain.prepare(image))).rows.shape == (1, 5)
        assert plain.locate(image).places == found.places


@pytest.mark.parametrize(
    ("value", "reason"),
    [(0, "blank picture: flat"), (128, "blank picture: flat"), (None, "blank picture: noise")],
)
def test_a_blank_picture_is_named_before_its_similarity(calibrated, bundle, flight, value, reason) -> None:
    picture = np.random.default_rng(3).integers(0, 256, (96, 128, 3), np.uint8)
    if value is not None:
        picture = np.full_like(picture, value)
    for one in (calibrated(tile_m=50.0, stride_m=25.0), bundle):
        with open_localizer(one, flight[1], threads=1) as localizer:
            found = localizer.locate(picture)
        assert found.verdict == "none" and found.reason.startswith(reason)


def test_the_radius_is_never_below_half_the_stride(bundle, flight) -> None:
    assert hand_made(bundle, flight, [(0.0, 0.0)] * 5).estimate(matches(0.9, 0.9, 0.9, 0.9, 0.9)).radius_m == 25.0


def test_refining_weighs_the_matches_within_half_a_tile_by_their_similarity(bundle, flight) -> None:
    # The third lies beyond half a tile; the fourth has no positive similarity.
    places = [(0.0, 0.0), (50.0, 0.0), (60.0, 0.0), (10.0, 10.0)]
    localizer = hand_made(bundle, flight, places, refine=True, top_k=4)
    found = localizer.estimate(matches(0.75, 0.25, 0.2, -0.5))
    assert distance_m(found.point, offset(CENTRE, 0.25 * 50, 0.0)) < 0.01


def test_of_several_views_the_most_similar_gives_the_estimate(bundle, flight) -> None:
    localizer = hand_made(bundle, flight, [(0.0, 0.0), (500.0, 0.0)], heading="search", rotations=2, top_k=2)
    views = Matches(np.array([[0, 1], [1, 0]], np.int32), np.array([[0.5, 0.4], [0.6, 0.1]], np.float32))
    found = localizer.estimate(views, Photo(np.zeros((32, 32, 3), np.uint8), "frame 7"))
    assert (found.places[0].row, found.rotation_deg, found.source) == (1, 180.0, "frame 7")
