"""What a drone writes into its photos: GPS position as EXIF, height and gimbal angles as XMP in DJI's names."""

from __future__ import annotations

from PIL import Image, TiffImagePlugin

from dphr_infer.types import CameraView, GeoPoint

_GPS_IFD, _EXIF_IFD, _WIDTH_PX = 0x8825, 0x8769, 0xA002
_LATITUDE_REF, _LATITUDE, _LONGITUDE_REF, _LONGITUDE, _ALTITUDE_REF, _ALTITUDE = range(1, 7)
_ABOVE_SEA_LEVEL = b"\x00"
_SECOND_PARTS = 1_000_000
_XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\x00"
_APP0, _APP1 = 0xE0, 0xE1


def add_flight_data(jpeg: bytes, camera: GeoPoint, view: CameraView, width_px: int) -> bytes:
    """A JPEG with the position of the camera and how it looked.

    Args:
        view:     its height is above the ground, which lies at sea level here; its yaw is written as DJI's -180..180.
        width_px: of the picture, whose focal length is written in pixels.
    """
    exif, xmp = _exif_segment(camera, view.height_m, width_px), _xmp(view, width_px)
    at = _after_header(jpeg)
    return jpeg[:at] + exif + _segment(_XMP_HEADER + xmp.encode()) + jpeg[at:]


def _degrees(value: float) -> tuple[TiffImagePlugin.IFDRational, ...]:
    """Degrees, minutes and seconds of an absolute value."""
    parts = round(abs(value) * 3600 * _SECOND_PARTS)
    minutes, seconds = divmod(parts, 60 * _SECOND_PARTS)
    degrees, minutes = divmod(minutes, 60)
    rational = TiffImagePlugin.IFDRational
    return rational(degrees, 1), rational(minutes, 1), rational(seconds, _SECOND_PARTS)


def _exif_segment(camera: GeoPoint, height_m: float, width_px: int) -> bytes:
    exif = Image.Exif()
    exif[_EXIF_IFD] = {_WIDTH_PX: width_px}
    exif[_GPS_IFD] = {
        _LATITUDE_REF: "N" if camera.latitude_deg >= 0 else "S",
        _LATITUDE: _degrees(camera.latitude_deg),
        _LONGITUDE_REF: "E" if camera.longitude_deg >= 0 else "W",
        _LONGITUDE: _degrees(camera.longitude_deg),
        _ALTITUDE_REF: _ABOVE_SEA_LEVEL,
        _ALTITUDE: TiffImagePlugin.IFDRational(round(height_m * 1000), 1000),
    }
    return _segment(exif.tobytes())


def _xmp(view: CameraView, width_px: int) -> str:
    yaw_deg = (view.yaw_deg + 180.0) % 360.0 - 180.0
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="DJI Meta Data" xmlns:drone-dji="http://www.dji.com/drone-dji/1.0/"\n'
        f'   drone-dji:AbsoluteAltitude="{view.height_m:+.2f}"\n'
        f'   drone-dji:RelativeAltitude="{view.height_m:+.2f}"\n'
        '   drone-dji:GimbalRollDegree="+0.00"\n'
        f'   drone-dji:GimbalYawDegree="{yaw_deg:+.2f}"\n'
        f'   drone-dji:CalibratedFocalLength="{view.focal_px(width_px):.6f}"\n'
        f'   drone-dji:GimbalPitchDegree="{view.pitch_deg:+.2f}">\n'
        "</rdf:Description></rdf:RDF></x:xmpmeta>"
    )


def _segment(payload: bytes) -> bytes:
    """An APP1 segment: marker, length of what follows, payload."""
    return bytes((0xFF, _APP1)) + (len(payload) + 2).to_bytes(2, "big") + payload


def _after_header(jpeg: bytes) -> int:
    """Offset behind the start marker and the JFIF segment."""
    at = 2
    while jpeg[at] == 0xFF and jpeg[at + 1] == _APP0:
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    return at
