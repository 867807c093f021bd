"""What each command of dphr-infer is asked for: its arguments, as tyro reads them.

This file loads nothing heavier than tyro: the first answer must not wait for NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from dphr_infer.errors import ConfigError
from dphr_infer.indexing.settings import IndexSettings
from dphr_infer.locate.settings import CameraSettings, DeviceSettings, LocateSettings
from dphr_infer.register.settings import RegisterSettings
from dphr_infer.types import Format, Prior
from dphr_infer.watch.settings import SourceSettings

Signer = Annotated[Path | None, arg(name="require-signature", metavar="PUBLIC.pem")]


@dataclass(frozen=True)
class Index:
    """Embed the tiles of a georeferenced map into a gallery."""

    bundle: Annotated[Positional[Path], arg(metavar="BUNDLE")]
    """Folder made by dphr-export."""
    map: Annotated[Positional[Path], arg(metavar="MAP.tif")]
    """Georeferenced raster, 8 bits, 3 bands or more."""
    out: Path
    """The gallery file to write."""
    tiles: IndexSettings
    with_map: Annotated[Path | None, arg(metavar="PACK")] = None
    """Write the map's pixels there too, for registration on the drone: an MBTiles file."""
    on: DeviceSettings = field(default_factory=DeviceSettings)
    signer: Signer = None
    """Refuse a bundle that this Ed25519 key has not signed."""


@dataclass(frozen=True)
class Search:
    """What `locate`, `flight` and `watch` ask alike."""

    settings: LocateSettings = field(default_factory=LocateSettings)
    camera: CameraSettings = field(default_factory=CameraSettings)
    map: Path | None = None
    """The gallery's map, or a map pack of it: photos are registered on its pixels, and accepted only if verified."""
    verify: bool = True
    """With --map; --no-verify leaves retrieval alone and takes the map for the pictures."""
    register: RegisterSettings = field(default_factory=RegisterSettings)
    near: Annotated[str | None, arg(metavar="LAT,LON")] = None
    """Match only tiles around this place; --near=LAT,LON in the south."""
    within: Annotated[float | None, arg(metavar="M")] = None
    """Radius around --near in metres."""
    on: DeviceSettings = field(default_factory=DeviceSettings)
    signer: Signer = None
    """Refuse a bundle that this Ed25519 key has not signed."""

    @property
    def prior(self) -> Prior | None:
        """Of --near and --within.

        Raises:
            ConfigError: one without the other, or no place.
        """
        if self.near is None and self.within is None:
            return None
        if self.near is None or self.within is None:
            raise ConfigError("--near and --within belong together: a place, and the radius around it in metres.")
        try:
            latitude_deg, longitude_deg = (float(part) for part in self.near.split(","))
        except ValueError:
            raise ConfigError(f"--near is {self.near!r}; expected LAT,LON in degrees, e.g. 46.8426,-91.9946.") from None
        return Prior(latitude_deg, longitude_deg, self.within)


@dataclass(frozen=True)
class Locate:
    """Locate photos on a gallery.

    The list says of each photo: latitude and longitude, WGS84 degrees of the ground at the photo's centre; similarity,
    the cosine of the photo's embedding and the best tile's, in [-1, 1] (higher is nearer; its usual height depends on
    the model); verdict, "verified" on the map, "retrieved" where similarity and margin reach what the bundle was
    calibrated to (dphr-infer doctor BUNDLE prints it), or "none" with its reason (ignore these); radius, the circle of
    95 % of a verified place, else the spread of the best matches: an indication of the error, not a bound.
    """

    bundle: Annotated[Positional[Path], arg(metavar="BUNDLE")]
    """The bundle that made the gallery."""
    gallery: Annotated[Positional[Path], arg(metavar="GALLERY")]
    """File made by dphr-infer index."""
    photos: Annotated[Positional[tuple[Path, ...]], arg(metavar="PHOTO…")]
    """Photos, or folders of photos."""
    search: Search = field(default_factory=Search)
    format: Format = "table"
    """Of the list of photos."""
    out: Annotated[str, arg(metavar="FILE")] = "-"
    """Write the list there; - prints it."""
    truth: Path | None = None
    """CSV with the columns photo,latitude_deg,longitude_deg[,corner…]."""
    verbose: bool = False
    """Say of each photo, on stderr, each value of its attitude and where it comes from, and where the camera hung."""
    summary: Annotated[str | None, arg(metavar="JSON")] = None
    """Write the summary's numbers there; - prints them."""
    picture: Path | None = None
    """Folder to draw the map and each photo beside its matches into."""

    def __post_init__(self) -> None:
        if not self.photos:
            raise ConfigError("No photo is named: give at least one, or a folder of photos.")
        if self.picture is not None and self.search.map is None:
            raise ConfigError("--picture needs --map, the map that the gallery was made from.")


@dataclass(frozen=True)
class Flight:
    """Follow the photos of a flight in time: a fix for each, or the reason why there is none.

    A photo alone may be silent or, rarely, wrong; a filter over the flight weighs its matches, its registration on the
    map and the motion since the photo before. The list says of each frame: fix, "registered" on the map's pixels or
    "retrieved" from the matches; sigma, its standard deviation; protection, the radius that holds 95 % of all
    probability. A frame without a fix says why: starting, no-motion, off-map, ambiguous or no-match.
    """

    bundle: Annotated[Positional[Path], arg(metavar="BUNDLE")]
    """The bundle that made the gallery."""
    gallery: Annotated[Positional[Path], arg(metavar="GALLERY")]
    """File made by dphr-infer index."""
    photos: Annotated[Positional[tuple[Path, ...]], arg(metavar="PHOTO…")]
    """Photos in the order of time, or a folder of them by name."""
    search: Search = field(default_factory=Search)
    interval_s: float | None = None
    """Seconds between two photos; without, each says when it was taken (EXIF)."""
    motion: Annotated[Path | None, arg(metavar="CSV")] = None
    """Motion since the photo before, with the columns photo,east_m,north_m,sigma_m; without, it is seen in the photos,
    which needs their attitude and that they share ground."""
    format: Format = "table"
    """Of the list of frames."""
    out: Annotated[str, arg(metavar="FILE")] = "-"
    """Write the list there; - prints it."""
    truth: Path | None = None
    """CSV with the columns photo,latitude_deg,longitude_deg."""
    picture: Annotated[Path | None, arg(metavar="PNG")] = None
    """Draw the flight on its map there: track, fixes, protection circles, truth, and where it was silent."""

    def __post_init__(self) -> None:
        if not self.photos:
            raise ConfigError("No photo is named: give at least one, or a folder of photos.")
        if self.picture is not None and self.search.map is None:
            raise ConfigError("--picture needs --map, the gallery's map or a map pack of it.")


@dataclass(frozen=True)
class Watch:
    """Locate frames as a folder, a film or a camera gives them."""

    bundle: Annotated[Positional[Path], arg(metavar="BUNDLE")]
    """The bundle that made the gallery."""
    gallery: Annotated[Positional[Path], arg(metavar="GALLERY")]
    """File made by dphr-infer index."""
    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """A folder that fills, a video file, a camera's URL (rtsp://, http://) or device (0, /dev/video0), or a GStreamer
    pipeline."""
    frames: SourceSettings = field(default_factory=SourceSettings)
    search: Search = field(default_factory=Search)
    format: Format = "table"
    """Of the lines; geojson is a Feature per line."""


@dataclass(frozen=True)
class Inspect:
    """Say what a bundle, a gallery or a map pack holds."""

    path: Annotated[Positional[Path], arg(metavar="BUNDLE|GALLERY|PACK")]
    """A bundle's folder, a gallery file, or a map pack."""


@dataclass(frozen=True)
class Doctor:
    """Say what is installed, and run a bundle's self-test."""

    bundle: Annotated[Positional[Path | None], arg(metavar="[BUNDLE]")] = None
    """The bundle whose self-test to run."""
    signer: Signer = None
    """Refuse a bundle that this Ed25519 key has not signed."""
