import math
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from photo_files import xmp_option
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational

from dphr_infer.errors import ImageError
from dphr_infer.geo import distance_m, offset
from dphr_infer.images.metadata import PhotoMetadata, read_photo_metadata
from dphr_infer.types import GeoPoint

CAMERA = GeoPoint(46.5, 8.25)
GPS = {
    ExifTags.GPS.GPSLatitudeRef: "S",
    ExifTags.GPS.GPSLatitude: (46.0, 30.0, 18.0),
    ExifTags.GPS.GPSLongitudeRef: "E",
    ExifTags.GPS.GPSLongitude: (8.0, 15.0, 0.0),
}
DJI = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description drone-dji:RelativeAltitude="+39.80" '
    b'drone-dji:GimbalYawDegree="-45.00" drone-dji:GimbalPitchDegree="-89.90"/></x:xmpmeta>'
)


def save(
    path: Path,
    gps: dict | None = None,
    xmp: bytes | None = None,
    tags: dict | None = None,
    size: tuple[int, int] = (32, 32),
) -> Path:
    exif = Image.Exif()
    if gps:
        exif[ExifTags.IFD.GPSInfo] = gps
    camera = dict(tags or {})
    if ExifTags.Base.Orientation in camera:
        exif[ExifTags.Base.Orientation] = camera.pop(ExifTags.Base.Orientation)
    if camera:
        exif[ExifTags.IFD.Exif] = camera
    options = {} if xmp is None else xmp_option(path, xmp)
    Image.new("RGB", size).save(path, exif=exif, **options)
    return path


def attitude_packet(**values: object) -> bytes:
    """An XMP packet of drone-dji attributes."""
    return " ".join(["<x", *(f'drone-dji:{name}="{value}"' for name, value in values.items()), "/>"]).encode()


def angles(path: Path, gps: dict | None = None, **values: object) -> PhotoMetadata:
    """What is read of a photo whose XMP holds these."""
    return read_photo_metadata(save(path / "angles.jpg", gps, attitude_packet(**values)))


def test_position_and_heading_are_read_from_exif_and_dji_xmp(tmp_path: Path) -> None:
    found = read_photo_metadata(save(tmp_path / "p.jpg", GPS, DJI))
    assert found.camera == GeoPoint(-46.505, 8.25)
    assert (found.relative_altitude_m, found.yaw_deg, found.pitch_deg) == (39.8, 315.0, -89.9)


def test_xmp_written_as_elements_is_read_too(tmp_path: Path) -> None:
    xmp = b"<x><drone-dji:GimbalYawDegree>+12.5</drone-dji:GimbalYawDegree></x>"
    assert read_photo_metadata(save(tmp_path / "p.jpg", None, xmp)).yaw_deg == 12.5


def test_exif_image_direction_counts_only_from_true_north_and_after_xmp(tmp_path: Path) -> None:
    direction = {ExifTags.GPS.GPSImgDirection: 90.0}
    true_north = {**direction, ExifTags.GPS.GPSImgDirectionRef: "T"}
    magnetic = {**direction, ExifTags.GPS.GPSImgDirectionRef: "M"}
    assert read_photo_metadata(save(tmp_path / "p.jpg", true_north)).yaw_deg == 90.0
    assert read_photo_metadata(save(tmp_path / "p.jpg", magnetic)).yaw_deg is None
    assert read_photo_metadata(save(tmp_path / "p.jpg", true_north, DJI)).yaw_deg == 315.0


@pytest.mark.parametrize(
    "gps",
    [
        {**GPS, ExifTags.GPS.GPSLatitude: (IFDRational(1, 0), 0.0, 0.0)},
        {**GPS, ExifTags.GPS.GPSLatitude: (95.0, 0.0, 0.0)},
        {**GPS, ExifTags.GPS.GPSLatitude: (1.0, 2.0)},
        {k: v for k, v in GPS.items() if k != ExifTags.GPS.GPSLatitudeRef},
        {**GPS, ExifTags.GPS.GPSLatitude: (0.0, 0.0, 0.0), ExifTags.GPS.GPSLongitude: (0.0, 0.0, 0.0)},
    ],
)
def test_a_position_that_is_none_counts_as_absent(tmp_path: Path, gps: dict) -> None:
    assert read_photo_metadata(save(tmp_path / "p.jpg", gps)).camera is None


@pytest.mark.parametrize("value", [b"", b"+", b"1e9", b"nan", b"999999", b"12,5", b"&lol9;", b"\xff\xfe"])
def test_an_xmp_number_that_is_none_counts_as_absent(tmp_path: Path, value: bytes) -> None:
    xmp = b'<x drone-dji:GimbalYawDegree="' + value + b'"/>'
    assert read_photo_metadata(save(tmp_path / "p.jpg", None, xmp)).yaw_deg is None


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.binary(max_size=200))
def test_garbage_in_the_metadata_never_raises(tmp_path_factory, exif: bytes, xmp: bytes) -> None:
    path = tmp_path_factory.mktemp("garbage") / "p.jpg"
    block = b"Exif\0\0MM\0*" + struct.pack(">I", 8) + exif
    Image.new("RGB", (16, 16)).save(path, exif=block, **xmp_option(path, xmp))
    read_photo_metadata(path)


@pytest.mark.parametrize(
    ("yaw", "pitch", "roll", "expected"),
    [
        (30.0, -60.0, 180.0, (210.0, -120.0, 0.0)),
        (30.0, -60.0, -180.0, (210.0, -120.0, 0.0)),
        (-150.0, -90.0, 180.0, (30.0, -90.0, 0.0)),
        (30.0, -60.0, 170.0, (210.0, -120.0, -10.0)),
        (30.0, -60.0, -170.0, (210.0, -120.0, 10.0)),
        (30.0, -60.0, 90.0, (30.0, -60.0, 90.0)),
    ],
)
def test_a_camera_that_hangs_upside_down_is_read_as_the_same_view_upright(
    tmp_path: Path, yaw, pitch, roll, expected
) -> None:
    found = angles(tmp_path, GimbalYawDegree=yaw, GimbalPitchDegree=pitch, GimbalRollDegree=roll)
    assert (found.yaw_deg, found.pitch_deg, found.roll_deg) == pytest.approx(expected)


def test_a_gimbal_of_zeros_says_nothing_and_the_flight_s_yaw_is_taken(tmp_path: Path) -> None:
    zeros = {"GimbalYawDegree": "+0.00", "GimbalPitchDegree": "0.00", "GimbalRollDegree": "-0.00"}
    found = angles(tmp_path, **zeros, FlightYawDegree="-20.0", FlightPitchDegree="-3.0", FlightRollDegree="2.0")
    assert (found.yaw_deg, found.pitch_deg, found.roll_deg) == (340.0, None, None)
    assert found.sources["yaw_deg"] == "XMP FlightYawDegree"
    assert found.sources["pitch_deg"] == "the gimbal's angles are all 0: not believed"
    direction = {ExifTags.GPS.GPSImgDirection: 90.0, ExifTags.GPS.GPSImgDirectionRef: "T"}
    found = angles(tmp_path, direction, **zeros)
    assert (found.yaw_deg, found.sources["yaw_deg"]) == (90.0, "EXIF GPSImgDirection")
    assert angles(tmp_path, **zeros).yaw_deg is None
    # Two zeros and a pitch are a camera that looks down to the north.
    found = angles(tmp_path, **{**zeros, "GimbalPitchDegree": "-90.0"}, FlightYawDegree="1.0")
    assert (found.yaw_deg, found.pitch_deg, found.roll_deg) == (0.0, -90.0, 0.0)


@pytest.mark.parametrize(
    ("pitch", "gimbal", "flight", "expected"),
    [
        (-90.0, 120.0, 10.0, 10.0),
        (-86.0, 120.0, 10.0, 10.0),
        (-93.0, 120.0, 10.0, 10.0),
        (-84.0, 120.0, 10.0, 120.0),  # a gimbal may look aside
        (-90.0, 35.0, 10.0, 35.0),  # and is the better of two that agree
        (-90.0, -175.0, 170.0, 185.0),
        (None, 120.0, 10.0, 120.0),
    ],
)
def test_straight_down_a_gimbal_s_yaw_far_from_the_flight_s_is_not_believed(
    tmp_path: Path, pitch, gimbal, flight, expected
) -> None:
    given = {} if pitch is None else {"GimbalPitchDegree": pitch}
    found = angles(tmp_path, **given, GimbalYawDegree=gimbal, FlightYawDegree=flight)
    assert found.yaw_deg == expected
    believed = "XMP GimbalYawDegree" if expected == gimbal % 360 else "XMP FlightYawDegree (gimbal's 120 not believed)"
    assert found.sources["yaw_deg"] == believed


def test_a_height_above_the_sea_or_the_ellipsoid_is_never_taken(tmp_path: Path) -> None:
    high = {**GPS, ExifTags.GPS.GPSAltitude: 560.0, ExifTags.GPS.GPSAltitudeRef: b"\0"}
    found = angles(tmp_path, high, AbsoluteAltitude="+560.00", GpsAltitude="560")
    assert found.relative_altitude_m is None and "relative_altitude_m" not in found.sources
    found = angles(tmp_path, high, AbsoluteAltitude="+560.00", RelativeAltitude="+80.25")
    assert found.relative_altitude_m == 80.25
    assert found.sources["relative_altitude_m"] == "XMP RelativeAltitude, above take-off"


@pytest.mark.parametrize("value", ["nan", "inf", "-", "4,2", "1e2", "", "30000"])
def test_a_height_that_is_none_counts_as_absent(tmp_path: Path, value: str) -> None:
    assert angles(tmp_path, RelativeAltitude=value).relative_altitude_m is None


@pytest.mark.parametrize(
    ("size", "focal_mm", "expected"),
    [
        ((300, 200), 24, 2 * math.degrees(math.atan(18 / 24))),  # 3:2 as film: 36 mm across
        ((400, 300), 24, 2 * math.degrees(math.atan(17.307 / 24))),  # 4:3 of the same diagonal: 34.61 mm
        ((320, 180), 24, 2 * math.degrees(math.atan(17.307 / 24))),  # 16:9 is cut from 4:3
        ((300, 400), 24, 2 * math.degrees(math.atan(17.307 * 3 / 4 / 24))),  # a portrait's width is its shorter side
        ((400, 300), 162, 2 * math.degrees(math.atan(17.307 / 162))),
    ],
)
def test_the_field_of_view_follows_from_the_focal_length_on_film(tmp_path: Path, size, focal_mm, expected) -> None:
    found = read_photo_metadata(
        save(tmp_path / "p.jpg", tags={ExifTags.Base.FocalLengthIn35mmFilm: focal_mm}, size=size)
    )
    assert found.fov_deg == pytest.approx(expected, abs=0.01)
    assert found.sources["fov_deg"] == "EXIF FocalLengthIn35mmFilm"


@pytest.mark.parametrize("focal_mm", [0, 3, 1001])
def test_a_focal_length_of_no_lens_counts_as_absent(tmp_path: Path, focal_mm: int) -> None:
    found = read_photo_metadata(save(tmp_path / "p.jpg", tags={ExifTags.Base.FocalLengthIn35mmFilm: focal_mm}))
    assert found.fov_deg is None and "fov_deg" not in found.sources


def test_a_calibrated_focal_length_stands_before_the_one_on_film(tmp_path: Path) -> None:
    tags = {ExifTags.Base.FocalLengthIn35mmFilm: 24, ExifTags.Base.ExifImageWidth: 5472}
    packet = attitude_packet(CalibratedFocalLength="3666.666504")
    found = read_photo_metadata(save(tmp_path / "p.jpg", None, packet, tags))
    assert found.fov_deg == pytest.approx(2 * math.degrees(math.atan(2736 / 3666.6665)))  # 73.4
    assert found.sources["fov_deg"] == "XMP CalibratedFocalLength"
    # It is in pixels of the whole picture: without their number, or without itself, the film's is taken.
    del tags[ExifTags.Base.ExifImageWidth]
    for other in (packet, attitude_packet(CalibratedFocalLength="0.000000")):
        found = read_photo_metadata(save(tmp_path / "p.jpg", None, other, tags))
        assert found.sources["fov_deg"] == "EXIF FocalLengthIn35mmFilm"


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_the_field_of_view_of_a_picture_that_is_stored_turned_is_not_read(tmp_path: Path, orientation: int) -> None:
    tags = {ExifTags.Base.FocalLengthIn35mmFilm: 24}
    turned = save(tmp_path / "p.jpg", tags={**tags, ExifTags.Base.Orientation: orientation})
    found = read_photo_metadata(turned)
    assert found.fov_deg is None and "stored turned" in found.sources["fov_deg"]
    upright = save(tmp_path / "p.jpg", tags={**tags, ExifTags.Base.Orientation: 1})
    assert read_photo_metadata(upright).fov_deg is not None


def test_a_photo_that_tells_nothing_has_no_sources(tmp_path: Path) -> None:
    found = read_photo_metadata(save(tmp_path / "p.png"))
    assert found == PhotoMetadata() and not found.sources


def test_a_missing_photo_and_a_text_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="does not exist"):
        read_photo_metadata(tmp_path / "none.jpg")
    (tmp_path / "p.jpg").write_text("text")
    with pytest.raises(ImageError, match="not a picture"):
        read_photo_metadata(tmp_path / "p.jpg")


def test_a_camera_that_looks_down_at_45_degrees_sees_its_altitude_ahead() -> None:
    east = PhotoMetadata(CAMERA, 100.0, 90.0, -45.0).ground_point()
    assert east is not None and distance_m(east, offset(CAMERA, 100.0, 0.0)) < 0.01
    south = PhotoMetadata(CAMERA, 100.0, 180.0, -60.0).ground_point()
    assert south is not None and distance_m(south, offset(CAMERA, 0.0, -100.0 / 3**0.5)) < 0.01


def test_a_camera_beyond_straight_down_sees_behind_itself() -> None:
    found = PhotoMetadata(CAMERA, 100.0, 0.0, -135.0).ground_point()
    assert found is not None and distance_m(found, offset(CAMERA, 0.0, -100.0)) < 0.01


@pytest.mark.parametrize(
    ("metadata", "known"),
    [
        (PhotoMetadata(CAMERA, None, None, -88.0), True),
        (PhotoMetadata(CAMERA, None, 0.0, -60.0), False),
        (PhotoMetadata(CAMERA, 50.0, None, -60.0), False),
        (PhotoMetadata(CAMERA, 50.0, 0.0, -10.0), False),
        (PhotoMetadata(CAMERA, 50.0, 0.0, None), False),
        (PhotoMetadata(None, 50.0, 0.0, -90.0), False),
        (PhotoMetadata(CAMERA, 50.0, 0.0, -150.0), True),
        (PhotoMetadata(CAMERA, 50.0, 0.0, -180.0), False),  # at the horizon behind
        (PhotoMetadata(CAMERA, 50.0, 0.0, -190.0), False),
        (PhotoMetadata(CAMERA, -5.0, 0.0, -60.0), False),  # below the take-off point: no height above ground
        (PhotoMetadata(CAMERA, 0.0, 0.0, -60.0), False),
        (PhotoMetadata(CAMERA, -5.0, 0.0, -90.0), True),
    ],
)
def test_the_ground_point_is_given_only_where_the_metadata_suffice(metadata: PhotoMetadata, known: bool) -> None:
    assert (metadata.ground_point() is not None) == known


def test_a_real_dji_photo_tells_its_camera() -> None:
    photo = Path(__file__).parents[3] / "samples/brighton_beach/photos/DJI_0018.JPG"
    found = read_photo_metadata(photo)
    assert (found.relative_altitude_m, found.yaw_deg, found.pitch_deg) == (39.8, 45.0, -89.9)
    point = found.ground_point()
    assert point is not None and distance_m(point, GeoPoint(46.8426155, -91.9945586)) < 3.0
