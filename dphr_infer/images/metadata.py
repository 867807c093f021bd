"""What a drone wrote into its photo: where the camera was, how high, and where it looked.

Sources, in this order: the XMP packet of DJI cameras (attributes or elements drone-dji:GimbalYawDegree,
drone-dji:GimbalPitchDegree, drone-dji:RelativeAltitude), and EXIF (the GPS position, and GPSImgDirection where it
refers to true north). Metadata is a stranger's input: the XMP is searched for plain numbers and never parsed as XML,
and whatever is missing, garbled or out of range is None.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from dphr_infer.geo import offset
from dphr_infer.images.preprocess import opened_picture
from dphr_infer.types import GeoPoint

# On flat ground a camera that looks less far down sees its centre too far away to know where.
MAX_GROUND_PITCH_DEG = -30.0
_NADIR_TOLERANCE_DEG = 5.0
_MAX_XMP_BYTES = 1 << 20
_XMP_BLOCK = b"http://ns.adobe.com/xap/1.0/"


@dataclass(frozen=True, slots=True)
class PhotoMetadata:
    """Where a camera was and looked; None for what the photo does not tell.

    Attributes:
        camera: position of the camera.
        relative_altitude_m: height above the take-off point.
        yaw_deg: compass direction of the top edge of the photo, clockwise from true north, in [0, 360).
        pitch_deg: 0 looks at the horizon, -90 straight down.
    """

    camera: GeoPoint | None = None
    relative_altitude_m: float | None = None
    yaw_deg: float | None = None
    pitch_deg: float | None = None

    def ground_point(self) -> GeoPoint | None:
        """Where the centre of the photo hits the ground, if that is as flat as and level with the take-off point.

        The camera's position, moved along the yaw by altitude / tan(-pitch). Within 5 degrees of straight down an
        unknown yaw or altitude does no harm worth a refusal, and the camera's position itself is taken.

        Returns:
            None where position or pitch is unknown, the pitch is above -30 degrees, or the way to the ground is needed
            and altitude or yaw is unknown.
        """
        if self.camera is None or self.pitch_deg is None or self.pitch_deg > MAX_GROUND_PITCH_DEG:
            return None
        if self.relative_altitude_m is None or self.yaw_deg is None:
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
    gps, xmp = _read_gps(image), _xmp_text(image)
    yaw = _xmp_number(xmp, "GimbalYawDegree", 360.0)
    yaw = _image_direction(gps) if yaw is None else yaw
    return PhotoMetadata(
        camera=_gps_point(gps),
        relative_altitude_m=_xmp_number(xmp, "RelativeAltitude", 20_000.0),
        yaw_deg=None if yaw is None else yaw % 360.0,
        pitch_deg=_xmp_number(xmp, "GimbalPitchDegree", 180.0),
    )


def _read_gps(image: Image.Image) -> dict[int, Any]:
    try:
        return dict(image.getexif().get_ifd(ExifTags.IFD.GPSInfo))
    except Exception:  # Pillow raises whatever a garbled block leads it to; the picture itself may be fine.
        return {}


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
