"""A survey flight over the test city: a satellite mosaic with its georeference, oblique photos, and the truth."""

from __future__ import annotations

import csv
import math
import mmap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import ConfigError
from dphr_infer.files.atomic import atomic_file
from dphr_infer.measure.progress import Progress
from dphr_train.cities.acquisition import Acquisition, Conditions, acquire, whole_city
from dphr_train.cities.camera import Pose, drone_rays, pose_over, satellite_rays
from dphr_train.cities.city import City
from dphr_train.cities.config import CitiesConfig
from dphr_train.cities.geotiff import write_geotiff
from dphr_train.cities.places import (
    FLIGHT_SEED,
    SATELLITE_TILT_DEG,
    drone_jpeg,
    open_city,
    satellite_conditions,
    satellite_tilt_azimuth_deg,
    shift_conditions,
)
from dphr_train.cities.raycast import render
from dphr_train.cities.sensor import expose
from dphr_train.cities.workers import each_forked
from dphr_train.cities.writer import claim_folder

TRUTH_INSIDE_M = 100.0  # what a photo shows in its centre lies at least this far inside the mosaic
PHOTO_ASPECT = 3 / 4

_EDGE_M = 50.0  # the mosaic keeps this distance from the edge of the city
_MIN_MOSAIC_M = 2 * TRUTH_INSIDE_M + 100.0
_STRIP_PX = 64
_HEIGHT_M, _HEIGHT_SWING_M = 180.0, 30.0
PITCH_DEG = -46.0
_PITCHES_DEG = (-90.0, -25.0)
_VERTICAL_FOV_DEG = 41.0
_LEGS = 3
_TURNS = 2.5
_TRUTH_COLUMNS = (
    "photo", "latitude_deg", "longitude_deg", "camera_latitude_deg", "camera_longitude_deg",
    "height_m", "heading_deg", "pitch_deg", "fov_deg",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Photo:
    """One photo of the flight and its camera."""

    number: int
    pose: Pose

    @property
    def name(self) -> str:
        """File name of the photo."""
        return f"frame-{self.number:03d}.jpg"


@dataclass(frozen=True, slots=True, eq=False)
class _Mosaic:
    """A mosaic while strips of it are rendered; `radiance` float32 (px, px, 3) lies in memory shared by processes."""

    city: City
    satellite: Acquisition
    radiance: NDArray[np.float32]
    gsd_m: float
    supersampling: int


@dataclass(frozen=True, slots=True, eq=False)
class _Flight:
    city: City
    acquisition: Acquisition
    config: CitiesConfig
    folder: Path


def write_flight(
    config: CitiesConfig,
    out: Path,
    frames: int = 60,
    mosaic_m: float = 1000.0,
    gsd_m: float = 0.625,
    pitches_deg: tuple[float, ...] = (PITCH_DEG,),
) -> None:
    """Write `mosaic.tif`, `photos/frame-000.jpg` and on, and `truth.csv` over the test city of a configuration.

    The mosaic is the city's satellite acquisition. The photos are another acquisition with its own sun, season and
    cars; they are 4:3, image_px high, and carry EXIF and XMP as a DJI drone writes them. The truth is where the middle
    of a photo meets *flat ground*: a building or tree in the way is not considered, so what is seen in the very middle
    may stand some metres nearer to the camera. `fov_deg` is across the photo's width. Resumes like the benchmarks.

    Args:
        frames:   number of photos.
        mosaic_m: side of the mosaic, around the middle of the city.
        gsd_m:    metres per pixel of the mosaic.
        pitches_deg: of the camera, one photo after the other in turn; -90 straight down.

    Raises:
        ConfigError: the mosaic does not fit the city, or is too small for truth 100 m inside it; or a pitch is out of
            range.
        DatasetError: `out` holds something else or was begun with other settings.
        StorageError: the disk refused.
    """
    _check(config, frames, mosaic_m, gsd_m, pitches_deg)
    settings = {"frames": frames, "mosaic_m": mosaic_m, "gsd_m": gsd_m}
    if pitches_deg != (PITCH_DEG,):
        settings |= {f"pitch_{number}_deg": pitch for number, pitch in enumerate(pitches_deg)}
    claim_folder(out, "flight", config, settings)
    mosaic, truth = out / "mosaic.tif", out / "truth.csv"
    photos = out / "photos"
    if mosaic.exists() and truth.exists() and len(list(photos.glob("frame-*.jpg"))) == frames:
        return
    city = open_city(config, "test", 0)
    flight = plan_flight(city, frames, mosaic_m, pitches_deg)
    missing = [photo for photo in flight if not (photos / photo.name).exists()]
    if not mosaic.exists():
        _write_mosaic(config, city, mosaic, mosaic_m, gsd_m)
    if missing:
        acquisition = acquire(city, whole_city(city), shift_conditions(_conditions(city), config.conditions))
        render(acquisition, drone_rays(flight[0].pose), 1, 1, 1)  # compiles the kernels before the fork
        shared = _Flight(city, acquisition, config, photos)
        with Progress("photos", frames, "photos") as progress:
            progress.resume_at(frames - len(missing))
            for _ in each_forked(_write_photo, shared, missing, config.workers):
                progress.advance()
    _write_truth(truth, city, flight)


def _check(config: CitiesConfig, frames: int, mosaic_m: float, gsd_m: float, pitches_deg: tuple[float, ...]) -> None:
    if not pitches_deg or not all(_PITCHES_DEG[0] <= pitch <= _PITCHES_DEG[1] for pitch in pitches_deg):
        raise ConfigError(
            f"The camera's pitches are {pitches_deg}; expected at least one, each from {_PITCHES_DEG[0]:g} to "
            f"{_PITCHES_DEG[1]:g} degrees."
        )
    if not 1 <= frames <= 1000:
        raise ConfigError(f"frames is {frames}; it has to lie between 1 and 1000.")
    if not 0.1 <= gsd_m <= 5.0:
        raise ConfigError(f"The mosaic's GSD is {gsd_m}; it has to lie between 0.1 and 5 metres per pixel.")
    most = config.city_m - 2 * _EDGE_M
    if not _MIN_MOSAIC_M <= mosaic_m <= most:
        raise ConfigError(
            f"The mosaic is {mosaic_m:g} m wide; a city of {config.city_m} m takes {_MIN_MOSAIC_M:g} to {most:g} m, "
            f"because the flight stays {TRUTH_INSIDE_M:g} m inside the mosaic and the mosaic {_EDGE_M:g} m inside the "
            "city. Raise city-m."
        )


def _conditions(city: City) -> Conditions:
    """The flight's own day, before a shift: afternoon sun, early autumn, some haze."""
    rng = np.random.default_rng([city.seed, 9])
    return Conditions(
        FLIGHT_SEED, rng.uniform(220, 270), rng.uniform(30, 45), autumn=0.3, dryness=0.3, haze_m=2500.0, car_share=0.9
    )


def plan_flight(city: City, frames: int, mosaic_m: float, pitches_deg: tuple[float, ...]) -> list[Photo]:
    """A zigzag from north to south over the inner part of the mosaic, turning all the while."""
    inner = mosaic_m - 2 * TRUTH_INSIDE_M - 2.0
    low = city.size_m / 2 - inner / 2
    horizontal_fov = 2 * math.degrees(math.atan(math.tan(math.radians(_VERTICAL_FOV_DEG / 2)) / PHOTO_ASPECT))
    photos = []
    for number in range(frames):
        share = number / max(1, frames - 1)
        x, y = low + inner * abs((share * _LEGS) % 2 - 1), low + inner * share
        height = _HEIGHT_M + _HEIGHT_SWING_M * math.sin(share * 9)
        pitch = pitches_deg[number % len(pitches_deg)]
        pose = pose_over(x, y, height, share * 360 * _TURNS, pitch, horizontal_fov)
        photos.append(Photo(number, pose))
    return photos


def _write_mosaic(config: CitiesConfig, city: City, path: Path, mosaic_m: float, gsd_m: float) -> None:
    side = round(mosaic_m / gsd_m)
    satellite = acquire(city, whole_city(city), satellite_conditions(city))
    shared = mmap.mmap(-1, side * side * 3 * 4)  # anonymous: seen by the forked processes
    radiance = np.frombuffer(shared, np.float32).reshape(side, side, 3)
    mosaic = _Mosaic(city, satellite, radiance, gsd_m, config.supersampling)
    render(satellite, satellite_rays(city.size_m / 2, city.size_m / 2, 1.0, 0.0, 0.0, 300.0), 1, 1, 1)
    strips = list(range(0, side, _STRIP_PX))
    with Progress("mosaic", len(strips), "strips") as progress:
        for _ in each_forked(_render_strip, mosaic, strips, config.workers):
            progress.advance()
    picture = expose(radiance, np.random.default_rng([city.seed, 10]), "satellite")
    write_geotiff(path, picture, city.origin, gsd_m)


def _render_strip(mosaic: _Mosaic, first_row: int) -> None:
    """Fill rows first_row .. first_row + 63 of the mosaic."""
    side, city = mosaic.radiance.shape[0], mosaic.city
    rows = min(_STRIP_PX, side - first_row)
    north = city.size_m / 2 - side * mosaic.gsd_m / 2
    middle_y = north + (first_row + rows / 2) * mosaic.gsd_m
    azimuth, top_m = satellite_tilt_azimuth_deg(city), city.highest_m + 10.0
    rays = satellite_rays(city.size_m / 2, middle_y, side * mosaic.gsd_m, SATELLITE_TILT_DEG, azimuth, top_m)
    strip = render(mosaic.satellite, rays, side, rows, mosaic.supersampling)
    mosaic.radiance[first_row : first_row + rows] = strip


def _write_photo(flight: _Flight, photo: Photo) -> None:
    pose, height_px = photo.pose, flight.config.image_px
    width_px = round(height_px / PHOTO_ASPECT)
    radiance = render(flight.acquisition, drone_rays(pose), width_px, height_px, flight.config.supersampling)
    rng = np.random.default_rng([flight.city.seed, 11, photo.number])
    with atomic_file(flight.folder / photo.name) as temporary:
        temporary.write_bytes(drone_jpeg(flight.city, pose, radiance, rng))


def _write_truth(path: Path, city: City, flight: list[Photo]) -> None:
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(_TRUTH_COLUMNS)
        for photo in flight:
            pose, seen = photo.pose, city.point(*photo.pose.aim())
            camera = city.point(pose.x, pose.y)
            degrees = (seen.latitude_deg, seen.longitude_deg, camera.latitude_deg, camera.longitude_deg)
            angles = (pose.height_m, pose.heading_deg, pose.pitch_deg, pose.fov_deg)
            out.writerow([photo.name, *(f"{value:.8f}" for value in degrees), *(f"{value:.4f}" for value in angles)])
