from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dphr_infer.errors import ConfigError, GalleryError, ImageError
from dphr_infer.files.gallery import Gallery, GalleryOrigin, open_gallery
from dphr_infer.geo import distance_m, offset
from dphr_infer.locate.localizer import AcceptRule, Localizer
from dphr_infer.locate.open_engine import open_engine
from dphr_infer.maps.index import index_map
from dphr_infer.maps.raster import MapRaster
from dphr_infer.matchers.exact import NumpyExactMatcher
from dphr_infer.types import GeoPoint, LocationEstimate, Matches

pytestmark = pytest.mark.kernels

TILE_M, STRIDE_M = 50.0, 25.0
CENTRE = GeoPoint(47.0, 8.0)


@pytest.fixture(scope="module")
def flight(bundle, texture, tmp_path_factory):
    """A map of 200 x 150 m, its gallery, and an entered engine and matcher."""
    import rasterio
    from rasterio.transform import Affine

    folder = tmp_path_factory.mktemp("flight")
    image = texture(300, 400, 5)
    profile = {"driver": "GTiff", "height": 300, "width": 400, "count": 3, "dtype": "uint8", "crs": "EPSG:32632"}
    with rasterio.open(folder / "map.tif", "w", transform=Affine(0.5, 0, 5e5, 0, -0.5, 5.2e6), **profile) as dataset:
        dataset.write(np.moveaxis(image, 2, 0))
    index_map(bundle, folder / "map.tif", folder / "g", tile_m=TILE_M, stride_m=STRIDE_M)
    gallery = open_gallery(folder / "g")
    with open_engine(bundle, threads=1) as engine, NumpyExactMatcher(gallery.embeddings) as matcher:
        yield folder / "map.tif", gallery, engine, matcher


@pytest.fixture
def localizer(bundle, flight):
    """A function that opens a localizer on the flight with other options."""
    _, gallery, engine, matcher = flight
    return lambda **options: Localizer(bundle, gallery, engine, matcher, **options)


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


def assert_same_places(found: Sequence[LocationEstimate], expected: Sequence[LocationEstimate]) -> None:
    """The same rows and places, and similarities to what they are promised between batch shapes."""
    for one, other in zip(found, expected, strict=True):
        assert [place.row for place in one.places] == [place.row for place in other.places]
        assert (one.point, one.accepted, one.rotation_deg) == (other.point, other.accepted, other.rotation_deg)
        assert one.radius_m == pytest.approx(other.radius_m)
        similarities = ([place.similarity for place in each.places] for each in (one, other))
        np.testing.assert_allclose(*similarities, rtol=0, atol=1e-6)
        assert one.similarity == one.places[0].similarity


def test_locate_is_its_four_stages_in_a_row_and_the_same_for_many(flight, localizer) -> None:
    images = [tile_image(flight, row) for row in (3, 20)]
    one = localizer(heading="search", rotations=4)
    by_stage = [one.estimate(one.match(one.embed(one.prepare(image)))) for image in images]
    assert_same_places([one.locate(image) for image in images], by_stage)
    assert_same_places(one.locate_many(images), by_stage)
    assert one.locate_many([]) == []


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
    with pytest.raises(ImageError, match='heading "search"'):
        localizer(heading="north").locate(tile_image(flight, 0))


def test_search_finds_the_rotation_of_a_turned_photo(flight, localizer) -> None:
    photo = np.rot90(tile_image(flight, 9), 1)  # turned counterclockwise, so that a clockwise quarter mends it
    found = localizer(heading="search", rotations=8).locate(np.ascontiguousarray(photo))
    assert (found.places[0].row, found.rotation_deg) == (9, 90.0)


def test_a_prior_restricts_the_places_to_its_circle(flight, localizer) -> None:
    _, gallery, *_ = flight
    photo, near = tile_image(flight, 0), gallery.point(30)
    found = localizer().locate(photo, near=near, within_m=40.0)
    assert all(distance_m(place.point, near) <= 40.0 for place in found.places)
    assert found.places[0].row != 0
    everywhere = localizer().locate(photo, near=near, within_m=10_000.0)
    assert everywhere == localizer().locate(photo)
    alone = localizer().locate(photo, near=near, within_m=1.0)
    assert [place.row for place in alone.places] == [30] and not alone.accepted


def test_without_a_rule_fewer_matches_than_three_accept_nothing(flight, localizer) -> None:
    assert not localizer(top_k=2).locate(tile_image(flight, 3)).accepted
    assert localizer(top_k=2, accept=AcceptRule(1)).locate(tile_image(flight, 3)).accepted


def test_a_prior_outside_the_gallery_says_how_far_it_is(flight, localizer) -> None:
    far = offset(flight[1].point(0), 0.0, 5_000.0)
    with pytest.raises(GalleryError, match=r"within 100 m .*the nearest is (4|5)\.\d km away"):
        localizer().locate(tile_image(flight, 0), near=far, within_m=100.0)


@pytest.mark.parametrize(("near", "within_m"), [(CENTRE, None), (None, 5.0), (CENTRE, 0.0), (CENTRE, float("nan"))])
def test_half_a_prior_is_refused(flight, localizer, near, within_m) -> None:
    with pytest.raises(ConfigError, match="A prior needs"):
        localizer().locate(tile_image(flight, 0), near=near, within_m=within_m)


def test_the_gallery_of_another_bundle_is_refused(flight, other_bundle) -> None:
    _, gallery, engine, matcher = flight
    with pytest.raises(GalleryError, match="index the map again"):
        Localizer(other_bundle, gallery, engine, matcher)


@pytest.mark.parametrize(
    "options",
    [
        {"heading": "south"},
        {"top_k": 0},
        {"rotations": 0},
        {"top_k": 2, "accept": AcceptRule(3)},
    ],
)
def test_settings_that_cannot_work_are_refused(localizer, options: dict) -> None:
    with pytest.raises(ConfigError):
        localizer(**options)


@pytest.mark.parametrize(("agreeing", "min_similarity"), [(0, 0.0), (3, 1.5)])
def test_a_rule_out_of_range_is_refused(agreeing: int, min_similarity: float) -> None:
    with pytest.raises(ConfigError, match="The rule asks"):
        AcceptRule(agreeing, min_similarity)


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
    return Localizer(bundle, gallery, flight[2], flight[3], **options)


def matches(*similarity: float) -> Matches:
    rows = np.arange(len(similarity), dtype=np.int32)[None]
    return Matches(rows, np.array([similarity], np.float32))


def test_an_estimate_is_accepted_if_enough_matches_lie_within_a_tile_of_the_best(bundle, flight) -> None:
    places = [(0.0, 0.0), (100.0, 0.0), (0.0, -100.0), (110.0, 0.0), (900.0, 0.0)]  # three agree, two do not
    for agreeing, accepted in ((1, True), (3, True), (4, False)):
        found = hand_made(bundle, flight, places, accept=AcceptRule(agreeing)).estimate(
            matches(0.9, 0.8, 0.7, 0.6, 0.5)
        )
        assert found.accepted is accepted
        assert found.radius_m == pytest.approx(100.0, rel=1e-3)
        assert found.point == found.places[0].point


def test_an_estimate_below_the_least_similarity_is_not_accepted(bundle, flight) -> None:
    places = [(0.0, 0.0)] * 5
    for least, accepted in ((0.89, True), (0.91, False)):
        localizer = hand_made(bundle, flight, places, accept=AcceptRule(3, least))
        assert localizer.estimate(matches(0.9, 0.8, 0.7, 0.6, 0.5)).accepted is accepted


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
    found = localizer.estimate(views)
    assert (found.places[0].row, found.rotation_deg) == (1, 180.0)
