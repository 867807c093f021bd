"""Every setting of locating, with its only default: what to look for in a photo, and where the work is done."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dphr_infer.errors import ConfigError
from dphr_infer.types import PRECISIONS, CameraView, Precision

Heading = Literal["as-is", "north", "search"]
HEADINGS: tuple[Heading, ...] = ("as-is", "north", "search")
Scan = Literal["auto", "rows", "int8"]
SCANS: tuple[Scan, ...] = ("auto", "rows", "int8")
Rectify = Literal["auto", "off"]
RECTIFIES: tuple[Rectify, ...] = ("auto", "off")

MAX_ROTATIONS = 360


@dataclass(frozen=True, slots=True)
class LocateSettings:
    """How a photo becomes an estimate. From which similarity on it is believed is the bundle's own calibration."""

    top_k: int = 5
    """Matches per photo; fewer where the gallery or a prior holds fewer tiles."""
    heading: Heading = "as-is"
    """Take the photo as it is; turn north up by its yaw; or search over rotations and keep the most similar."""
    rotations: int = 8
    """Headings that "search" tries, evenly spaced, from 0."""
    refine: bool = False
    """Average the places of the matches within half a tile side of the best, weighted by similarity."""

    def __post_init__(self) -> None:
        _check_choice("heading", self.heading, HEADINGS)
        _check_count("top_k", self.top_k)
        _check_count("rotations", self.rotations, MAX_ROTATIONS)


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
        _check_choice("rectify", self.rectify, RECTIFIES)
        # A view checks its own values: what is not given is filled in by some that pass.
        CameraView(**{"height_m": 100.0, "pitch_deg": -90.0, "fov_deg": 60.0, **self.known})

    @property
    def known(self) -> dict[str, float]:
        """What is given, by the names of `CameraView`."""
        values = {name: getattr(self, name) for name in ("height_m", "pitch_deg", "fov_deg", "yaw_deg", "roll_deg")}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True)
class DeviceSettings:
    """Where a bundle's model runs and where its embeddings are matched. Nothing falls back to another device."""

    device: str = "cpu"
    """One of the table in devices.py: "cpu", "cuda" (TensorRT) or "cuda-onnxruntime"."""
    precision: Precision = "fp32"
    """Which of the bundle's models runs."""
    threads: int | None = None
    """CPU threads of the engine and of the matcher each; None takes every core that the process may use."""
    scan: Scan = "auto"
    """Match by the rows themselves or by int8 codes, which prove the same answers; "auto" goes by size and memory."""

    def __post_init__(self) -> None:
        _check_choice("precision", self.precision, PRECISIONS)
        _check_choice("scan", self.scan, SCANS)
        if self.threads is not None:
            _check_count("threads", self.threads)


def settings_of(given: Mapping[str, Any], *kinds: type) -> tuple[Any, ...]:
    """Keyword arguments -> a value of each of several settings, by the names of their fields.

    Raises:
        ConfigError: a name that none has, or what they refuse.
    """
    names = [{field.name for field in dataclasses.fields(kind)} for kind in kinds]
    known = set().union(*names)
    unknown = sorted(given.keys() - known)
    if unknown:
        raise ConfigError(f"`{unknown[0]}` is no setting; expected one of {', '.join(sorted(known))}.")
    parts = [{key: given[key] for key in given.keys() & own} for own in names]
    try:
        return tuple(kind(**part) for kind, part in zip(kinds, parts, strict=True))
    except TypeError as error:
        raise ConfigError(f"Settings are incomplete or of another type: {error}.") from error


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"`{name}` is {value!r}; expected one of {', '.join(choices)}.")


def _check_count(name: str, value: object, most: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1 or (most is not None and value > most):
        limit = "at least 1" if most is None else f"in 1..{most}"
        raise ConfigError(f"`{name}` is {value!r}; expected a whole number, {limit}.")
