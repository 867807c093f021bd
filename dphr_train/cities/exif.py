"""What a drone writes into its photos: GPS position as EXIF, height and gimbal angles as XMP in DJI's names."""

from __future__ import annotations

from PIL import Image, TiffImagePlugin

from dphr_infer.types import GeoPoint

_GPS_IFD = 0x8825
_LATITUDE_REF, _LATITUDE, _LONGITUDE_REF, _LONGITUDE, _ALTITUDE_REF, _ALTITUDE = range(1, 7)
_ABOVE_SEA_LEVEL = b"\x00"
_SECOND_PARTS = 1_000_000
_XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\x00"
_APP0, _APP1 = 0xE0, 0xE1


def add_flight_data(jpeg: bytes, camera: GeoPoint, height_m: float, heading_deg: float, pitch_deg: float) -> bytes:
    """A JPEG with the position of the camera and where it looked.

    Args:
        height_m:    above the ground, which lies at sea level here.
        heading_deg: clockwise from north, 0..360; written as DJI's -180..180.
        pitch_deg:   -90 looks straight down.
    """
    yaw_deg = (heading_deg + 180.0) % 360.0 - 180.0
    exif, xmp = _exif_segment(camera, height_m), _xmp(height_m, yaw_deg, pitch_deg)
    at = _after_header(jpeg)
    return jpeg[:at] + exif + _segment(_XMP_HEADER + xmp.encode()) + jpeg[at:]


def _degrees(value: float) -> tuple[TiffImagePlugin.IFDRational, ...]:
    """Degrees, minutes and seconds of an absolute value."""
    parts = round(abs(value) * 3600 * _SECOND_PARTS)
    minutes, seconds = divmod(parts, 60 * _SECOND_PARTS)
    degrees, minutes = divmod(minutes, 60)
    rational = TiffImagePlugin.IFDRational
    return rational(degrees, 1), rational(minutes, 1), rational(seconds, _SECOND_PARTS)


def _exif_segment(camera: GeoPoint, height_m: float) -> bytes:
    exif = Image.Exif()
    exif[_GPS_IFD] = {
        _LATITUDE_REF: "N" if camera.latitude_deg >= 0 else "S",
        _LATITUDE: _degrees(camera.latitude_deg),
        _LONGITUDE_REF: "E" if camera.longitude_deg >= 0 else "W",
        _LONGITUDE: _degrees(camera.longitude_deg),
        _ALTITUDE_REF: _ABOVE_SEA_LEVEL,
        _ALTITUDE: TiffImagePlugin.IFDRational(round(height_m * 1000), 1000),
    }
    return _segment(exif.tobytes())


def _xmp(height_m: float, yaw_deg: float, pitch_deg: float) -> str:
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="DJI Meta Data" xmlns:drone-dji="http://www.dji.com/drone-dji/1.0/"\n'
        f'   drone-dji:AbsoluteAltitude="{height_m:+.2f}"\n'
        f'   drone-dji:RelativeAltitude="{height_m:+.2f}"\n'
        '   drone-dji:GimbalRollDegree="+0.00"\n'
        f'   drone-dji:GimbalYawDegree="{yaw_deg:+.2f}"\n'
        f'   drone-dji:GimbalPitchDegree="{pitch_deg:+.2f}">\n'
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
