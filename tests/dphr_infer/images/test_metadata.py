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


def save(path: Path, gps: dict | None = None, xmp: bytes | None = None) -> Path:
    exif = Image.Exif()
    if gps:
        exif[ExifTags.IFD.GPSInfo] = gps
    options = {} if xmp is None else xmp_option(path, xmp)
    Image.new("RGB", (32, 32)).save(path, exif=exif, **options)
    return path


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
