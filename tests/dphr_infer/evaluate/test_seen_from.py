from dphr_infer.evaluate.seen_from import (
    ATTITUDE_COLUMNS,
    CAMERA_COLUMNS,
    COVARIANCE_COLUMNS,
    attitude_columns,
    attitude_lines,
    camera_columns,
    covariance_columns,
)
from dphr_infer.types import Attitude, CameraView, GeoPoint, LocationEstimate

PLACE = GeoPoint(47.0, 8.0)
SOURCES = {"height_m": "given", "pitch_deg": "XMP GimbalPitchDegree", "roll_deg": "taken as 0", "yaw_deg": "a compass"}
ATTITUDE = Attitude(
    CameraView(100.0, -90.0, 30.0, 7.0),
    {**SOURCES, "fov_deg": "unknown"},
    ("field of view",),
    {"height_m": 80.0, "pitch_deg": -61.234, "roll_deg": 0.0, "yaw_deg": 7.0},
)


def test_columns_say_what_was_found_and_not_what_stands_in() -> None:
    row = attitude_columns(ATTITUDE)
    assert tuple(row) == ATTITUDE_COLUMNS
    assert (row["height_m"], row["height_source"], row["pitch_deg"], row["pitch_source"]) == (
        *(80.0, "given", -61.23, "XMP GimbalPitchDegree"),
    )
    assert (row["fov_deg"], row["fov_source"], row["attitude_reason"]) == (None, "unknown", "unknown: field of view")
    assert set(attitude_columns(None).values()) == {None, ""}


def test_a_covariance_s_sigma_is_that_of_its_worst_direction() -> None:
    row = camera_columns(PLACE, (10.0, 6.0, 10.0), "")  # 16 along the diagonal, 4 across it
    assert tuple(row) == CAMERA_COLUMNS and row["camera_sigma_m"] == 4.0
    assert (row["camera_covariance_east2_m2"], row["camera_covariance_east_north_m2"]) == (10.0, 6.0)
    assert tuple(covariance_columns(None)) == COVARIANCE_COLUMNS
    nowhere = camera_columns(None, None, "not accepted")
    assert nowhere.pop("camera_reason") == "not accepted" and set(nowhere.values()) == {None}


def test_lines_for_people_name_the_option_of_what_was_given() -> None:
    estimate = LocationEstimate(PLACE, 0.9, "retrieved", 5.0, (), 0.0, attitude=ATTITUDE, camera_reason="not accepted")
    assert attitude_lines("a\nb.jpg", estimate)[0] == "a\\nb.jpg: attitude unknown: field of view"
    assert attitude_lines("a.jpg", estimate)[1:] == [
        "  height     80.00 m  given by `height_m`",
        "  pitch     -61.23 °  XMP GimbalPitchDegree",
        "  roll        0.00 °  taken as 0",
        "  yaw         7.00 °  a compass",
        "  fov              -  unknown",
        "  camera           -  not accepted",
    ]
