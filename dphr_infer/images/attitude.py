"""How a photo's camera looked at the ground: settings before metadata, and what stands in where both are silent."""

from __future__ import annotations

import math
from collections.abc import Mapping

from dphr_infer.errors import ConfigError
from dphr_infer.images.metadata import PhotoMetadata
from dphr_infer.types import Attitude, CameraView

# Of the camera that stands in: any narrow field of view, seen straight down, has nearly the same geometry.
_ASSUMED_FOV_DEG = 30.0


def attitude_of(
    metadata: PhotoMetadata, known: Mapping[str, float], width_px: int, height_px: int, tile_m: float
) -> Attitude:
    """The attitude of a photo.

    Where something is missing, or the camera looks too near the horizon, a camera stands in that looks straight down
    from where its picture's shorter side shows one tile; a yaw that is known is kept.

    Args:
        metadata: of the photo.
        known: before it, by the names of `CameraView`.
        width_px, height_px: of the picture.
        tile_m: side of the gallery's tiles.
    """
    found = {
        "height_m": metadata.relative_altitude_m,
        "pitch_deg": metadata.pitch_deg,
        "fov_deg": metadata.fov_deg,
        "yaw_deg": metadata.yaw_deg,
        "roll_deg": metadata.roll_deg,
    }
    values, sources = {}, {}
    for name, value in found.items():
        given = known.get(name)
        read = metadata.sources.get("relative_altitude_m" if name == "height_m" else name, "metadata")
        if given is not None:
            values[name], sources[name] = given, "given"
        elif value is not None and math.isfinite(value):
            values[name], sources[name] = value, read
        elif name == "roll_deg":
            values[name], sources[name] = 0.0, "taken as 0"
        else:
            sources[name] = f"unknown{'' if read == 'metadata' else f' ({read})'}"
    words = {"height_m": "height", "pitch_deg": "pitch", "fov_deg": "field of view", "yaw_deg": "yaw"}
    missing = tuple(word for name, word in words.items() if name not in values)
    if metadata.stored_turned and not {"pitch_deg", "yaw_deg"} <= known.keys():
        missing += ("a picture that is stored upright",)
    if not missing:
        try:
            return Attitude(CameraView(**values), sources, values=values)
        except ConfigError as error:
            sources["view"] = f"not usable: {error}"
            missing = ("a usable view",)
    ground = tile_m * width_px / min(width_px, height_px)
    height_m = ground / 2 / math.tan(math.radians(_ASSUMED_FOV_DEG / 2))
    stand_in = CameraView(height_m, -90.0, _ASSUMED_FOV_DEG, values.get("yaw_deg", 0.0) % 360)
    return Attitude(stand_in, sources, missing, values)
