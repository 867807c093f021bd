"""A localizer with a map: photos are placed on its pixels, or not to be used."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from contextlib import ExitStack

import numpy as np
import pytest
from town_site import DOWN, OBLIQUE, PHOTOS, TILE_M, TownSite, save_photo

from dphr_infer.errors import ConfigError, ImageError, MapError, MissingPackageError
from dphr_infer.files.gallery import open_gallery
from dphr_infer.geo import distance_m, offset
from dphr_infer.images.metadata import PhotoMetadata
from dphr_infer.images.photo import Photo, read_photo
from dphr_infer.indexing.index import index
from dphr_infer.locate.localizer import Localizer
from dphr_infer.locate.open import open_localizer
from dphr_infer.types import VERDICTS, LocationEstimate

pytest.importorskip("cv2")


@pytest.fixture(scope="module")
def opened(bundle, town_site):
    """`opened(map, **settings)`: a localizer, open until the tests of this file end; the same for the same settings."""
    known: dict[str, Localizer] = {}
    with ExitStack() as stack:

        def get(map: str | None = None, **settings: object) -> Localizer:
            key = repr((map, sorted(settings.items())))
            if key not in known:
                path = None if map is None else town_site.folder / map
                localizer = open_localizer(bundle, town_site.folder / "g", map=path, threads=1, **settings)
                known[key] = stack.enter_context(localizer)
            return known[key]

        yield get


def photo(site: TownSite, name: str) -> Photo:
    return read_photo(site.folder / "photos" / name)


def error_m(site: TownSite, name: str, found: LocationEstimate) -> float:
    return distance_m(found.point, site.point(*PHOTOS[name][1]))


@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.parametrize("map_name", ["map.tif", "map.pack"])
def test_a_photo_of_the_map_is_verified_and_placed_within_a_pixel(town_site, opened, name, map_name) -> None:
    found = opened(map_name).locate(town_site.folder / "photos" / name)
    assert (found.verdict, found.accepted, found.reason) == ("verified", True, "")
    assert error_m(town_site, name, found) < 0.5
    assert found.covariance_m2 is not None
    east2, both, north2 = found.covariance_m2
    assert abs(both) <= math.sqrt(east2 * north2)
    # The circle of 95 %: 2.45 standard deviations.
    assert found.radius_m == pytest.approx(2.4477 * math.sqrt(max(east2, north2)), rel=1e-3)
    assert error_m(town_site, name, found) < found.radius_m < 4.0
    assert len(found.places) >= 5 and "±" in repr(found) and repr(found).endswith(", verified>")


@pytest.mark.parametrize("name", PHOTOS)
def test_the_cameras_own_position_is_told_with_its_covariance(town_site, opened, name) -> None:
    (view, spot), found = PHOTOS[name], opened("map.tif").locate(photo(town_site, name))
    assert found.camera is not None and found.camera_covariance_m2 is not None and found.camera_reason == ""
    hung = offset(town_site.point(*spot), *view.camera_east_north_m())
    assert distance_m(found.camera, hung) < 1.5  # 1 % of the height, half a degree of turn
    assert (distance_m(found.camera, found.point) > 60) == (name == "oblique.jpg")
    sure = opened("map.tif", height_sigma_share=0.0, pitch_sigma_deg=0.0, roll_sigma_deg=0.0).locate(
        photo(town_site, name)
    )
    assert sure.camera_covariance_m2 == pytest.approx(sure.covariance_m2)
    assert found.camera_covariance_m2[0] > found.covariance_m2[0] + 4
    properties = json.loads(json.dumps(found.to_geojson(), allow_nan=False))["properties"]
    assert properties["camera"]["latitude_deg"] == pytest.approx(found.camera.latitude_deg, abs=1e-6)
    assert properties["camera_covariance_m2"] == pytest.approx(found.camera_covariance_m2, abs=1e-3)
    assert properties["covariance_m2"] == pytest.approx(found.covariance_m2, abs=1e-3)
    assert properties["attitude"]["pitch_deg"] == view.pitch_deg
    assert properties["attitude_sources"]["pitch_deg"] == "XMP GimbalPitchDegree"


def test_a_yaw_that_is_half_a_turn_off_and_a_wrong_height_do_not_move_the_camera(town_site, opened) -> None:
    given, (view, spot) = photo(town_site, "oblique.jpg"), PHOTOS["oblique.jpg"]
    told = dataclasses.replace(
        given.metadata, yaw_deg=(view.yaw_deg + 180) % 360, relative_altitude_m=view.height_m / 1.1
    )
    found = opened("map.tif").locate(dataclasses.replace(given, metadata=told))
    assert found.verdict == "verified" and found.camera is not None
    assert distance_m(found.camera, offset(town_site.point(*spot), *view.camera_east_north_m())) < 3.0
    said = found.attitude.sources["yaw_deg"]
    assert "; by the map it is " in said and abs(float(said.split()[-1]) - view.yaw_deg) < 3


def test_where_the_attitude_or_the_place_is_unknown_there_is_no_camera_and_the_reason(
    town_site, opened, calibrated
) -> None:
    given = photo(town_site, "down.jpg")
    bare = opened("map.tif").locate(given.image)
    assert bare.camera is None and bare.camera_covariance_m2 is None
    assert bare.camera_reason == "attitude unknown: height, pitch, field of view, yaw" or not bare.accepted
    nowhere = opened("map.tif").locate(photo(town_site, "foreign.jpg"))
    assert (nowhere.camera, nowhere.camera_reason) == (None, "not accepted")
    lacking, radians = (
        dataclasses.replace(given, metadata=dataclasses.replace(given.metadata, **told))
        for told in ({"fov_deg": None}, {"pitch_deg": -1.57})
    )
    with open_localizer(calibrated(floor=-1.0, margin=0.0), town_site.folder / "g", threads=1) as easy:
        assert easy.locate(lacking).camera_reason == "attitude unknown: field of view"
        reason = easy.locate(radians).camera_reason
        assert reason.startswith("attitude not usable: The camera's pitch is -1.57; expected degrees")
        # Retrieval alone names a place, and no covariance to build on.
        plain = easy.locate(given)
    assert plain.camera is not None and plain.camera_covariance_m2 is None and plain.camera_reason == ""


def test_a_verified_estimate_says_which_points_match(town_site, opened) -> None:
    matched = opened("map.tif").locate(photo(town_site, "down.jpg")).matched
    assert matched is not None and matched.photo_m.shape == matched.map_m.shape and len(matched.map_m) > 20
    # North up and in metres on both sides: they lie on each other.
    assert np.abs(matched.photo_m - matched.map_m).max() < 2.0
    assert opened("map.tif").locate(photo(town_site, "foreign.jpg")).matched is None


def test_raster_and_pack_place_it_alike(town_site, opened) -> None:
    for name in PHOTOS:
        one, two = (opened(map_name).locate(photo(town_site, name)) for map_name in ("map.tif", "map.pack"))
        assert one.verdict == two.verdict and distance_m(one.point, two.point) < 0.25
        assert one.places == two.places


@pytest.mark.parametrize("name", ["foreign.jpg", "black.png"])
def test_a_photo_of_anything_else_is_not_to_be_used_and_says_why(town_site, opened, name: str) -> None:
    found = opened("map.tif").locate(photo(town_site, name))
    assert found.verdict == "none" and not found.accepted and found.covariance_m2 is None
    assert found.reason.startswith("blank picture: flat" if name == "black.png" else "unverified: ")
    assert found.point == opened().locate(photo(town_site, name)).point  # where retrieval has it
    assert repr(found).endswith(f", none: {found.reason}>")
    properties = found.to_geojson()["properties"]
    assert (properties["verdict"], properties["accepted"], properties["reason"]) == ("none", False, found.reason)
    assert opened("map.pack").locate(photo(town_site, name)).verdict == "none"


def test_without_a_map_the_bundle_s_calibration_decides_and_names_its_reason(town_site, opened, calibrated) -> None:
    down = photo(town_site, "down.jpg")
    plain = opened().locate(down)
    assert plain.verdict == "none" and plain.reason.startswith("not calibrated: ") and plain.covariance_m2 is None
    found = {}
    for name, floor, margin in (("easy", -1.0, 0.0), ("low", 1.0, 0.0), ("strict", -1.0, 1.0)):
        bundle = calibrated(floor=floor, margin=margin)
        with open_localizer(bundle, town_site.folder / "g", threads=1) as localizer:
            found[name] = localizer.locate(down)
    assert (found["easy"].verdict, found["easy"].reason) == ("retrieved", "")
    assert repr(found["easy"]).endswith(", retrieved>") and found["easy"].places == plain.places
    assert found["low"].reason == f"off the map: similarity {plain.similarity:.3f}, the bundle's floor is 1.000"
    assert found["strict"].reason.startswith("ambiguous: margin ")
    assert {one.verdict for one in found.values()} <= set(VERDICTS)


def test_a_map_changes_neither_similarity_nor_places(town_site, opened) -> None:
    for name in (*PHOTOS, "foreign.jpg"):
        plain, mapped = opened().locate(photo(town_site, name)), opened("map.tif").locate(photo(town_site, name))
        assert (mapped.similarity, mapped.places, mapped.rotation_deg) == (
            plain.similarity,
            plain.places,
            plain.rotation_deg,
        )


def test_with_a_map_enough_tiles_are_matched_to_name_five_places(town_site, opened) -> None:
    # Of a stride of half the tile two tiles count as a place.
    one, plain = (opened(map_name, top_k=1) for map_name in ("map.tif", None))
    embedded = one.embed(one.prepare(photo(town_site, "down.jpg")))
    assert one.match(embedded).rows.shape == (1, 10) and plain.match(embedded).rows.shape == (1, 1)
    found = one.locate(photo(town_site, "down.jpg"))
    assert found.verdict == "verified" and len(found.places) == 1


def test_a_camera_without_metadata_is_described_by_settings(town_site, opened) -> None:
    name = "oblique.jpg"
    view, _ = PHOTOS[name]
    bare = photo(town_site, name).image
    given = {
        "height_m": view.height_m,
        "pitch_deg": view.pitch_deg,
        "fov_deg": view.fov_deg,
        "yaw_deg": view.yaw_deg,
        "roll_deg": view.roll_deg,
    }
    one = opened("map.tif", **given)
    found = one.locate(bare)
    assert found.verdict == "verified" and error_m(town_site, name, found) < 0.5
    assert one.views.attitude(Photo(bare)).sources == dict.fromkeys(given, "given")
    # They stand before what the photo says.
    wrong = dataclasses.replace(photo(town_site, name), metadata=PhotoMetadata(None, 30.0, 10.0, -90.0, 0.0, 20.0))
    assert one.locate(wrong).verdict == "verified"


def test_a_photo_that_cannot_be_rectified_is_located_as_it_is(town_site, opened) -> None:
    """Retrieval gets the picture that it got before there were attitudes."""
    given = photo(town_site, "down.jpg")
    as_is = opened(rectify="off").prepare(given)
    assert (opened().prepare(given) != as_is).any()
    for told in (
        {"pitch_deg": -10.0},
        {"pitch_deg": -1.57},
        {"pitch_deg": 90.0},
        {"pitch_deg": None},
        {"relative_altitude_m": 0.0},
        {"relative_altitude_m": -8.0},
        {"relative_altitude_m": math.nan},
        {"yaw_deg": math.nan},
        {"fov_deg": None},
    ):
        changed = dataclasses.replace(given, metadata=dataclasses.replace(given.metadata, **told))
        np.testing.assert_array_equal(opened().prepare(changed), as_is)
        assert opened().locate(changed).rotation_deg == 0.0
    np.testing.assert_array_equal(opened().prepare(given.image), as_is)


def test_a_rectified_photo_is_one_view_whatever_the_heading(town_site, opened) -> None:
    given = photo(town_site, "oblique.jpg")
    plain = opened().prepare(given)
    assert len(plain) == 1
    for heading in ("north", "search"):
        one = opened(heading=heading)
        np.testing.assert_array_equal(one.prepare(given), plain)
        assert one.locate(given).rotation_deg == pytest.approx(OBLIQUE.yaw_deg)
    assert len(opened(heading="search", rectify="off").prepare(given)) == 8


def test_a_camera_on_the_ground_shows_nothing_to_look_up(town_site, opened, tmp_path) -> None:
    save_photo(tmp_path / "low.jpg", photo(town_site, "down.jpg").image, dataclasses.replace(DOWN, height_m=0.1))
    with pytest.raises(ImageError, match=r"nothing of the 60 m around its middle from a height of 0\.1 m"):
        opened("map.tif").locate(tmp_path / "low.jpg")
    refused: list[str] = []
    photos = [tmp_path / "low.jpg", town_site.folder / "photos/down.jpg"]
    found = list(opened("map.tif").locate_each(photos, on_error=lambda _, error: refused.append(str(error))))
    assert [one.verdict for one in found] == ["verified"] and len(refused) == 1
    # As it is it can be looked up, and not be registered.
    assert opened("map.tif", rectify="off").locate(tmp_path / "low.jpg").verdict == "none"


def sky() -> np.ndarray:
    """Clouds: blue, with soft bright blots, and grain."""
    from PIL import Image

    draw = np.random.default_rng(5)
    soft = Image.fromarray(draw.integers(120, 256, (9, 12), np.uint8)).resize((480, 360), Image.Resampling.BICUBIC)
    grain = draw.normal(0, 3, (360, 480, 3))
    return np.clip(np.asarray(soft)[..., None] * [0.8, 0.9, 1.0] + grain, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("pitch_deg", [8.0, -5.0, -60.0, None])
def test_a_photo_wholly_of_sky_is_not_to_be_used_whatever_its_attitude_says(town_site, opened, pitch_deg) -> None:
    told = PhotoMetadata(None, 90.0, 40.0, pitch_deg, 0.0, 60.0)
    found = opened("map.pack").locate(Photo(sky(), metadata=told))
    assert found.verdict == "none" and found.reason.startswith("unverified: ")
    assert (found.camera, found.camera_reason) == (None, "not accepted")


@pytest.mark.parametrize("height_m", [0.0, -20.0, 3_000.0, 19_000.0])
def test_a_height_of_nothing_or_beyond_the_map_verifies_nothing_wrong(town_site, opened, height_m: float) -> None:
    given = photo(town_site, "down.jpg")
    told = dataclasses.replace(given, metadata=dataclasses.replace(given.metadata, relative_altitude_m=height_m))
    found = opened("map.pack").locate(told)
    # Without a usable height the photo is registered at any scale; with a wrong one it is not found.
    assert found.verdict == "none" or (height_m <= 0 and error_m(town_site, "down.jpg", found) < 1.0)
    assert found.camera is None and found.camera_reason
    assert (found.attitude.reason == "") == (height_m > 0)


def test_the_map_of_another_gallery_is_refused(bundle, town_site, tmp_path) -> None:
    with pytest.raises(MapError, match=r"other\.tif is not the map of .*: its sha256 is .* Give that map"):
        open_localizer(bundle, town_site.folder / "g", map=town_site.folder / "other.tif")
    index(
        town_site.folder / "other.tif",
        bundle=bundle,
        out=tmp_path / "g",
        with_map=tmp_path / "pack",
        tile_m=60,
        stride_m=120,
    )
    with pytest.raises(MapError, match="pack"):
        open_localizer(bundle, town_site.folder / "g", map=tmp_path / "pack")
    for path, message in (
        (tmp_path / "none.tif", r"none\.tif does not exist"),
        (tmp_path, "is a folder. Name the raster file in it"),
        (town_site.folder / "photos/down.jpg", "is not the map of"),
    ):
        with pytest.raises(MapError, match=message):
            open_localizer(bundle, town_site.folder / "g", map=path)


def test_without_opencv_a_map_is_refused_and_retrieval_works(bundle, town_site, opened, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingPackageError, match=r"dphr\[register\]"):
        open_localizer(bundle, town_site.folder / "g", map=town_site.folder / "map.pack")
    assert opened().locate(photo(town_site, "down.jpg")).places


def test_a_localizer_can_be_opened_again_with_its_map(bundle, town_site) -> None:
    gallery = open_gallery(town_site.folder / "g")
    localizer = open_localizer(bundle, gallery, map=town_site.folder / "map.tif", threads=1)
    for _ in range(2):
        with localizer:
            assert localizer.locate(photo(town_site, "down.jpg")).verdict == "verified"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rectify": "yes"}, "`rectify` is 'yes'; expected one of auto, off"),
        ({"height_m": -3.0}, "height is -3"),
        ({"pitch_deg": 60.0}, "pitch is 60; expected degrees, -90 straight down"),
        ({"pitch_deg": -1.57}, "pitch is -1.57"),
        ({"fov_deg": 0.5}, "field of view is 0.5"),
        ({"yaw_deg": math.nan}, "yaw is nan"),
        ({"pitch_sigma_deg": -1.0}, r"`pitch_sigma_deg` is -1; expected a number in \[0, 45\]"),
        ({"height_sigma_share": math.nan}, r"`height_sigma_share` is nan; expected a number in \[0, 1\]"),
        ({"candidates": 0}, "`candidates` is 0"),
    ],
)
def test_settings_of_camera_and_registration_are_checked(bundle, town_site, settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_localizer(bundle, town_site.folder / "g", **settings)


def test_an_estimate_s_geojson_is_json_and_says_its_verdict(town_site, opened) -> None:
    found = opened("map.tif").locate(photo(town_site, "down.jpg"))
    feature = json.loads(json.dumps(found.to_geojson(), allow_nan=False))
    assert feature["geometry"]["coordinates"] == [round(found.longitude_deg, 7), round(found.latitude_deg, 7)]
    assert feature["properties"]["verdict"] == "verified" and feature["properties"]["radius_m"] > 0
    assert 4 * feature["properties"]["radius_m"] < TILE_M


def test_a_large_jpeg_is_decoded_as_finely_as_tile_and_map_need_and_placed_alike(town_site, opened, tmp_path) -> None:
    # 1920 px across 103 m: a pixel of the map, 0.5 m, has 9 of them; of 256 to a tile's 60 m each has 4.
    spot = (33.0, -21.0)
    path = tmp_path / "large.jpg"
    save_photo(path, town_site.pixels.photo(town_site.point(*spot), DOWN, 1920, 1440), DOWN)
    localizer = opened("map.pack")
    assert localizer.read(path).size_px == (360, 480)
    found, whole = localizer.locate(path), localizer.locate(read_photo(path))
    assert found.verdict == whole.verdict == "verified"
    assert distance_m(found.point, whole.point) < 0.25 and distance_m(found.point, town_site.point(*spot)) < 0.5
    assert found.similarity == pytest.approx(whole.similarity, abs=0.01)
    assert opened("map.pack", rectify="off").read(path).size_px == (1440, 1920)
