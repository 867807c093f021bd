import dataclasses
import math

import pytest

from dphr_infer.images.attitude import attitude_of
from dphr_infer.images.metadata import PhotoMetadata
from dphr_infer.types import Attitude, CameraView

TOLD = {"relative_altitude_m": 120.0, "yaw_deg": 200.0, "pitch_deg": -60.0, "roll_deg": 3.0, "fov_deg": 70.0}
TILE_M = 100.0


def attitude(known: dict[str, float] | None = None, sources: dict[str, str] | None = None, **told) -> Attitude:
    return attitude_of(PhotoMetadata(**{**TOLD, **told}, sources=sources or {}), known or {}, 4000, 3000, TILE_M)


# 30 degrees of view across 133.3 m of ground: the shorter side, 3000 of 4000 pixels, shows one tile.
STAND_IN = CameraView(100 * 4000 / 3000 / 2 / math.tan(math.radians(15)), -90.0, 30.0)


def test_metadata_that_tell_everything_give_the_view_and_each_value_its_source() -> None:
    found = attitude(sources={"relative_altitude_m": "XMP RelativeAltitude, above take-off", "yaw_deg": "a compass"})
    assert found.view == CameraView(120.0, -60.0, 70.0, 200.0, 3.0)
    assert found.known and found.yaw_known and found.missing == ()
    assert found.sources == {
        "height_m": "XMP RelativeAltitude, above take-off",
        "pitch_deg": "metadata",
        "fov_deg": "metadata",
        "yaw_deg": "a compass",
        "roll_deg": "metadata",
    }


def test_what_is_given_stands_before_the_metadata_even_where_it_is_zero() -> None:
    found = attitude({"height_m": 80.0, "yaw_deg": 0.0, "roll_deg": 0.0, "fov_deg": 50.0, "pitch_deg": -90.0})
    assert found.view == CameraView(80.0, -90.0, 50.0)
    assert set(found.sources.values()) == {"given"}
    assert attitude({"pitch_deg": -45.0}).view == CameraView(120.0, -45.0, 70.0, 200.0, 3.0)


def test_settings_alone_suffice_for_a_camera_without_metadata() -> None:
    found = attitude_of(
        PhotoMetadata(), {"height_m": 80.0, "pitch_deg": -90.0, "fov_deg": 50.0, "yaw_deg": 7.0}, 640, 480, TILE_M
    )
    assert found.known and found.view == CameraView(80.0, -90.0, 50.0, 7.0)
    assert found.sources["roll_deg"] == "taken as 0"


@pytest.mark.parametrize(
    ("absent", "word", "name"),
    [
        ("relative_altitude_m", "height", "height_m"),
        ("pitch_deg", "pitch", "pitch_deg"),
        ("fov_deg", "field of view", "fov_deg"),
    ],
)
@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_without_one_of_them_a_camera_that_looks_down_on_one_tile_stands_in(absent, word, name, value) -> None:
    found = attitude(**{absent: value})
    assert not found.known and found.missing == (word,) and found.sources[name] == "unknown"
    assert found.yaw_known and found.view == dataclasses.replace(STAND_IN, yaw_deg=200.0)


@pytest.mark.parametrize("value", [None, math.nan])
def test_without_a_yaw_nothing_says_where_north_is(value) -> None:
    found = attitude(yaw_deg=value)
    assert not found.known and not found.yaw_known and found.view == STAND_IN


def test_the_stand_in_is_as_wide_as_a_portrait_s_shorter_side() -> None:
    found = attitude_of(PhotoMetadata(), {}, 3000, 4000, TILE_M)
    assert 2 * found.view.height_m * math.tan(math.radians(15)) == pytest.approx(TILE_M)
    assert found.missing == ("height", "pitch", "field of view", "yaw")


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"pitch_deg": 0.0}, "pitch is 0;"),
        ({"pitch_deg": -20.0}, "pitch is -20;"),
        ({"pitch_deg": 12.0}, "pitch is 12;"),
        ({"pitch_deg": 90.0}, "pitch is 90;"),  # the sign of another convention
        ({"pitch_deg": -1.57}, "pitch is -1.57; expected degrees"),  # radians
        ({"pitch_deg": -190.0}, "pitch is -190;"),
        ({"relative_altitude_m": 0.0}, "height is 0;"),
        ({"relative_altitude_m": -12.0}, "height is -12;"),
        ({"fov_deg": 170.0}, "field of view is 170;"),
        ({"yaw_deg": 400.0}, "yaw is 400;"),
        ({"roll_deg": 120.0}, "roll is 120;"),
    ],
)
def test_a_view_that_shows_too_little_ground_is_not_used_and_says_why(told: dict, why: str) -> None:
    found = attitude(**told)
    assert not found.known and found.missing == ("a usable view",)
    assert why in found.sources["view"] and found.sources["view"].startswith("not usable: ")
    assert found.yaw_known
    assert found.view == dataclasses.replace(STAND_IN, yaw_deg=told.get("yaw_deg", 200.0) % 360)


def test_why_a_value_is_not_believed_is_kept() -> None:
    found = attitude(pitch_deg=None, sources={"pitch_deg": "the gimbal's angles are all 0: not believed"})
    assert found.sources["pitch_deg"] == "unknown (the gimbal's angles are all 0: not believed)"


def test_a_picture_that_is_stored_turned_takes_the_cameras_angles_from_settings_alone() -> None:
    turned = PhotoMetadata(relative_altitude_m=80.0, yaw_deg=10.0, pitch_deg=-60.0, fov_deg=70.0, stored_turned=True)
    found = attitude_of(turned, {"fov_deg": 70.0}, 400, 300, 50.0)
    assert not found.known and found.missing == ("a picture that is stored upright",)
    told = attitude_of(turned, {"fov_deg": 70.0, "pitch_deg": -60.0, "yaw_deg": 100.0}, 400, 300, 50.0)
    assert told.known and told.view.yaw_deg == 100.0
