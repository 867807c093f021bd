"""What a drone wrote into its photo: where the camera was, how high, and how it looked.

Metadata is a stranger's input: the XMP is searched for plain numbers and never parsed as XML, and whatever is missing,
garbled or out of range is None. Which source wins, and what is not believed:

    yaw     XMP GimbalYawDegree, but FlightYawDegree within 5 degrees of straight down where the two differ by more
            than 30 degrees, because a gimbal's yaw can drift there; without a gimbal FlightYawDegree, then EXIF
            GPSImgDirection where it refers to true north
    pitch, roll   XMP GimbalPitchDegree, GimbalRollDegree; a gimbal whose three angles are all exactly 0 says nothing
    height  XMP RelativeAltitude, above the take-off point. Absolute altitudes are not looked at: above the sea or the
            ellipsoid they say nothing of the ground
    field of view   XMP CalibratedFocalLength with EXIF PixelXDimension, then EXIF FocalLengthIn35mmFilm
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from dphr_infer.geo import offset
from dphr_infer.images.preprocess import opened_picture
from dphr_infer.types import GeoPoint

# On flat ground a camera that looks less far down sees its centre too far away to know where.
MAX_GROUND_PITCH_DEG = -30.0
_NADIR_TOLERANCE_DEG = 5.0
_YAW_TOLERANCE_DEG = 30.0
_MAX_XMP_BYTES = 1 << 20
_XMP_BLOCK = b"http://ns.adobe.com/xap/1.0/"
_FILM_DIAGONAL_MM = math.hypot(36, 24)
_UPRIGHT = (None, 1)
_TIME, _TIME_PART = 0x9003, 0x9291


@dataclass(frozen=True, slots=True)
class PhotoMetadata:
    """Where a camera was and looked; None for what the photo does not tell.

    Attributes:
        camera: position of the camera.
        relative_altitude_m: height above the take-off point.
        yaw_deg: compass direction of the top edge of the photo, clockwise from true north, in [0, 360).
        pitch_deg: 0 looks at the horizon, -90 straight down, below it backwards.
        roll_deg: about the optical axis, in [-90, 90]; positive where the right side points below the horizon. A camera
            that hangs upside down is described by the yaw and pitch of the same view the right way up.
        fov_deg: field of view across the picture's width.
        stored_turned: whether the file holds the picture turned against the camera, whose angles are then not its own.
        time_s: when it was taken, in seconds since 1970 by the camera's own clock, whose zone is not known.
        sources: for people, by attribute: where each value comes from, and what was not believed.
    """

    camera: GeoPoint | None = None
    relative_altitude_m: float | None = None
    yaw_deg: float | None = None
    pitch_deg: float | None = None
    roll_deg: float | None = None
    fov_deg: float | None = None
    time_s: float | None = None
    stored_turned: bool = False
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)

    def ground_point(self) -> GeoPoint | None:
        """Where the centre of the photo hits the ground, if that is as flat as and level with the take-off point.

        The camera's position, moved along the yaw by altitude / tan(-pitch). Within 5 degrees of straight down an
        unknown yaw or altitude does no harm worth a refusal, and the camera's position itself is taken.

        Returns:
            None where position or pitch is unknown, the pitch is above -30 degrees or below -150, or the way to the
            ground is needed and yaw or altitude is unknown; one of 0 or less is unknown.
        """
        if self.camera is None or self.pitch_deg is None:
            return None
        if not -180 - MAX_GROUND_PITCH_DEG <= self.pitch_deg <= MAX_GROUND_PITCH_DEG:
            return None
        if self.relative_altitude_m is None or self.relative_altitude_m <= 0 or self.yaw_deg is None:
            return self.camera if abs(self.pitch_deg + 90) <= _NADIR_TOLERANCE_DEG else None
        # Beyond straight down (pitch below -90) the tangent is negative: the point lies behind the camera.
        ahead_m = self.relative_altitude_m / math.tan(math.radians(-self.pitch_deg))
        yaw = math.radians(self.yaw_deg)
        return offset(self.camera, ahead_m * math.sin(yaw), ahead_m * math.cos(yaw))


def read_photo_metadata(path: str | Path) -> PhotoMetadata:
    """What a photo's file says about its camera, without the picture.

    Raises:
        ImageError: the file does not exist or is not a picture.
    """
    with opened_picture(path) as image:
        return metadata_of(image)


def metadata_of(image: Image.Image) -> PhotoMetadata:
    """What an opened picture says about its camera; garbage in the metadata counts as absent."""
    exif, gps = _read_exif(image)
    xmp = _xmp_text(image)
    values: dict[str, float | None] = {"relative_altitude_m": _xmp_number(xmp, "RelativeAltitude", 20_000.0)}
    sources = {"relative_altitude_m": "XMP RelativeAltitude, above take-off"}
    _read_attitude(xmp, gps, values, sources)
    values["fov_deg"], sources["fov_deg"] = _field_of_view(image, exif, xmp)
    values["time_s"], sources["time_s"] = _taken_s(exif), "EXIF DateTimeOriginal"
    camera = _gps_point(gps)
    sources["camera"] = "EXIF GPS"
    known = {name: text for name, text in sources.items() if values.get(name, camera) is not None or "not" in text}
    return PhotoMetadata(camera=camera, stored_turned=_stored_turned(exif), **values, sources=known)


def _read_attitude(xmp: str, gps: dict[int, Any], values: dict[str, float | None], sources: dict[str, str]) -> None:
    """Fill in yaw, pitch and roll."""
    yaw, pitch, roll = (
        _xmp_number(xmp, f"Gimbal{name}Degree", limit)
        for name, limit in (("Yaw", 360.0), ("Pitch", 180.0), ("Roll", 180.0))
    )
    flight_yaw = _xmp_number(xmp, "FlightYawDegree", 360.0)
    if yaw == pitch == roll == 0:
        yaw = pitch = roll = None
        sources["pitch_deg"] = "the gimbal's angles are all 0: not believed"
    if roll is not None and abs(roll) > 90:  # upside down: the same view as this one, half a turn further
        roll = math.copysign(180 - abs(roll), -roll)
        yaw = None if yaw is None else yaw + 180
        pitch = None if pitch is None else -180 - pitch
    if pitch is not None:
        sources["pitch_deg"] = "XMP GimbalPitchDegree"
    if roll is not None:
        sources["roll_deg"] = "XMP GimbalRollDegree"
    sources["yaw_deg"] = "XMP GimbalYawDegree"
    if flight_yaw is not None:
        astray = yaw is not None and abs((yaw - flight_yaw + 180) % 360 - 180) > _YAW_TOLERANCE_DEG
        down = pitch is not None and abs(pitch + 90) <= _NADIR_TOLERANCE_DEG
        if yaw is None or (astray and down):
            sources["yaw_deg"] = "XMP FlightYawDegree" + (
                f" (gimbal's {yaw:g} not believed)" if yaw is not None else ""
            )
            yaw = flight_yaw
    elif yaw is None:
        yaw = _image_direction(gps)
        sources["yaw_deg"] = "EXIF GPSImgDirection"
    values.update(yaw_deg=None if yaw is None else yaw % 360.0, pitch_deg=pitch, roll_deg=roll)


def _taken_s(exif: dict[int, Any]) -> float | None:
    text, part = (str(exif.get(tag, "")).strip("\0 ") for tag in (_TIME, _TIME_PART))
    try:
        taken = datetime.datetime.strptime(text, "%Y:%m:%d %H:%M:%S").replace(tzinfo=datetime.timezone.utc)
    except ValueError:
        return None
    return taken.timestamp() + (float(f"0.{part}") if part.isascii() and part.isdecimal() else 0.0)


def _stored_turned(exif: dict[int, Any]) -> bool:
    return exif.get(ExifTags.Base.Orientation) not in _UPRIGHT


def _field_of_view(image: Image.Image, exif: dict[int, Any], xmp: str) -> tuple[float | None, str]:
    """Across the width, in degrees, and where it comes from."""
    if _stored_turned(exif):
        return None, "the picture is stored turned: its field of view is not read"
    calibrated_px = _xmp_number(xmp, "CalibratedFocalLength", 1e6)
    full_width_px = _number(exif.get(ExifTags.Base.ExifImageWidth))
    if calibrated_px is not None and calibrated_px > 0 and full_width_px > 0:
        return _fov_deg(full_width_px / calibrated_px), "XMP CalibratedFocalLength"
    focal_mm = _number(exif.get(ExifTags.Base.FocalLengthIn35mmFilm))
    if not 5 <= focal_mm <= 1000:
        return None, "EXIF FocalLengthIn35mmFilm"
    # It refers to the sensor's diagonal. A sensor is 4:3 or 3:2; a flatter picture keeps the width of a 4:3 one.
    long, short = max(image.size), min(image.size)
    sensor = long / short if long / short < 1.6 else 4 / 3
    width_mm = _FILM_DIAGONAL_MM * sensor / math.hypot(sensor, 1)
    return _fov_deg(width_mm * image.width / long / focal_mm), "EXIF FocalLengthIn35mmFilm"


def _fov_deg(width_by_focal: float) -> float:
    return 2 * math.degrees(math.atan(width_by_focal / 2))


def _read_exif(image: Image.Image) -> tuple[dict[int, Any], dict[int, Any]]:
    """The tags of the picture and of its camera, and those of the GPS receiver."""
    try:
        exif = image.getexif()
        return {**exif, **exif.get_ifd(ExifTags.IFD.Exif)}, dict(exif.get_ifd(ExifTags.IFD.GPSInfo))
    except Exception:  # Pillow raises whatever a garbled block leads it to; the picture itself may be fine.
        return {}, {}


def _xmp_text(image: Image.Image) -> str:
    raw = image.info.get("xmp")
    if raw is None:  # Pillow before 11 leaves a JPEG's packet among its application blocks
        blocks = [block for _, block in getattr(image, "applist", ())]
        raw = next((block for block in blocks if block.startswith(_XMP_BLOCK)), None)
    if isinstance(raw, bytes):
        return raw[:_MAX_XMP_BYTES].decode("utf-8", errors="replace")
    return raw[:_MAX_XMP_BYTES] if isinstance(raw, str) else ""


def _xmp_number(xmp: str, name: str, limit: float) -> float | None:
    """The number of drone-dji:`name`, written as an attribute or an element; None if absent or beyond ±limit."""
    found = re.search(rf"""drone-dji:{name}\s*(?:=\s*["']|>)\s*([+-]?\d{{1,9}}(?:\.\d{{0,12}})?)\s*["'<]""", xmp)
    value = float(found.group(1)) if found else math.nan
    return value if abs(value) <= limit else None


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return math.nan


def _degrees(value: object, reference: object, limit: float, negative: str) -> float | None:
    """Degrees, minutes and seconds with a hemisphere letter -> signed degrees."""
    if not isinstance(value, tuple) or len(value) != 3 or not isinstance(reference, str):
        return None
    degrees, minutes, seconds = (_number(part) for part in value)
    total = degrees + minutes / 60 + seconds / 3600
    if not 0 <= total <= limit:
        return None
    return -total if reference.strip("\0 ").upper() == negative else total


def _gps_point(gps: dict[int, Any]) -> GeoPoint | None:
    latitude = _degrees(gps.get(ExifTags.GPS.GPSLatitude), gps.get(ExifTags.GPS.GPSLatitudeRef), 90.0, "S")
    longitude = _degrees(gps.get(ExifTags.GPS.GPSLongitude), gps.get(ExifTags.GPS.GPSLongitudeRef), 180.0, "W")
    # Cameras without a fix write zeros.
    if latitude is None or longitude is None or (latitude == 0 and longitude == 0):
        return None
    return GeoPoint(latitude, longitude)


def _image_direction(gps: dict[int, Any]) -> float | None:
    reference = gps.get(ExifTags.GPS.GPSImgDirectionRef, "T")
    value = _number(gps.get(ExifTags.GPS.GPSImgDirection))
    true_north = isinstance(reference, str) and reference.strip("\0 ").upper() == "T"
    return value if true_north and 0 <= value <= 360 else None
