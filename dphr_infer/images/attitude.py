"""How a photo's camera looked at the ground: settings before metadata, and what stands in where both are silent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from dphr_infer.errors import ConfigError, ImageError
from dphr_infer.images.metadata import PhotoMetadata
from dphr_infer.images.rectify import CameraView

Rectify = Literal["auto", "off"]
RECTIFIES: tuple[Rectify, ...] = ("auto", "off")

# Of the camera that stands in: any narrow field of view, seen straight down, has nearly the same geometry.
_ASSUMED_FOV_DEG = 30.0
_VALUES = ("height_m", "pitch_deg", "fov_deg", "yaw_deg", "roll_deg")


@dataclass(frozen=True, slots=True)
class CameraSettings:
    """What is known of the camera; each value stands before the photo's metadata."""

    rectify: Rectify = "auto"
    """Bring photos to a view from straight above, north up, where height, pitch, field of view and yaw are known."""
    height_m: float | None = None
    """Of the camera above the ground, in metres; None takes the metadata's height above take-off."""
    pitch_deg: float | None = None
    """Of the optical axis: -90 straight down, 0 at the horizon."""
    fov_deg: float | None = None
    """Field of view across the picture's width."""
    yaw_deg: float | None = None
    """Compass direction of the optical axis; straight down, of the picture's top edge."""
    roll_deg: float | None = None
    """About the optical axis; positive where the right side points below the horizon. Unknown, it is taken as 0."""

    def __post_init__(self) -> None:
        if self.rectify not in RECTIFIES:
            raise ConfigError(f"`rectify` is {self.rectify!r}; expected one of {', '.join(RECTIFIES)}.")
        given = {name: getattr(self, name) for name in _VALUES if getattr(self, name) is not None}
        straight = {"height_m": 100.0, "pitch_deg": -90.0, "fov_deg": 60.0}
        try:  # its own checks, on what is given alone
            CameraView(**{**straight, **given})
        except ImageError as error:
            raise ConfigError(str(error)) from None


@dataclass(frozen=True, slots=True)
class Attitude:
    """A camera's view, and how much of it is known.

    Attributes:
        view: what is known, completed by what stands in.
        sources: for people, where each value comes from, by the names of `CameraView`.
        missing: what would be needed to rectify; empty where the view is known.
    """

    view: CameraView
    sources: dict[str, str]
    missing: tuple[str, ...] = ()

    @property
    def known(self) -> bool:
        """Whether height, pitch, field of view and yaw are."""
        return not self.missing

    @property
    def yaw_known(self) -> bool:
        """Whether north is."""
        return "yaw" not in self.missing


def attitude_of(
    metadata: PhotoMetadata, settings: CameraSettings, width_px: int, height_px: int, tile_m: float
) -> Attitude:
    """The attitude of a photo.

    Where something is missing, or the camera looks too near the horizon, a camera stands in that looks straight down
    from where its picture's shorter side shows one tile; a yaw that is known is kept.

    Args:
        metadata: of the photo.
        settings: before it.
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
        given = getattr(settings, name)
        read = metadata.sources.get("relative_altitude_m" if name == "height_m" else name, "metadata")
        if given is not None:
            values[name], sources[name] = given, "given"
        elif value is not None:
            values[name], sources[name] = value, read
        elif name == "roll_deg":
            values[name], sources[name] = 0.0, "taken as 0"
        else:
            sources[name] = f"unknown{'' if read == 'metadata' else f' ({read})'}"
    words = {"height_m": "height", "pitch_deg": "pitch", "fov_deg": "field of view", "yaw_deg": "yaw"}
    missing = tuple(word for name, word in words.items() if name not in values)
    if not missing:
        try:
            return Attitude(CameraView(**values), sources)
        except ImageError as error:
            sources["pitch_deg"] += f"; not usable: {error}"
            missing = ("a usable view",)
    ground = tile_m * width_px / min(width_px, height_px)
    height_m = ground / 2 / math.tan(math.radians(_ASSUMED_FOV_DEG / 2))
    return Attitude(CameraView(height_m, -90.0, _ASSUMED_FOV_DEG, values.get("yaw_deg", 0.0)), sources, missing)
