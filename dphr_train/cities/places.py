"""Plans and pictures of places: who photographs what from where, drawn from seeds; and the rendering of such a plan."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import ConfigError
from dphr_infer.files.atomic import atomic_file
from dphr_infer.types import CameraView, GeoPoint
from dphr_train.cities.acquisition import Acquisition, Conditions, Window, acquire, whole_city, window_around
from dphr_train.cities.buildings import Building
from dphr_train.cities.camera import Pose, drone_rays, satellite_rays, seen_corners
from dphr_train.cities.city import BORDER_M, City, build_city, choose_places
from dphr_train.cities.config import CitiesConfig, DroneConditions
from dphr_train.cities.exif import add_flight_data
from dphr_train.cities.raycast import render
from dphr_train.cities.sensor import expose, to_jpeg, to_png

Role = Literal["train", "test"]

SATELLITE_WIDTH_M = 160.0
SATELLITE_TILT_DEG = 5.0
SATELLITE_SEED = 1  # acquisition of the one satellite pass of a city
FLIGHT_SEED = 2  # acquisition of the survey flight
PLACE_SEED = 1000  # plus the building's object id: acquisition of a place's drone flight

_PLACE_SPACING_M = 50.0
_MIXED_SUN_DEG = (25.0, 62.0)
_LOW_SUN_DEG = (8.0, 15.0)
_SATELLITE_JITTER_M = 8.0
_SUN_REACH_M = 160.0  # shadows are followed this far beyond the picture
_AMBIENT_REACH_M = 10.0
_FARTHEST_M = 900.0  # haze hides what lies beyond
# Cities lie on the central meridian of UTM zone 32, apart from each other, so that UTM's grid north is north.
_MERIDIAN_DEG = 9.0
_LATITUDES_DEG = {"train": 44.0, "test": 52.0}
_LATITUDE_STEP_DEG = 0.05
_ROLES = {"train": 1, "test": 2}


@dataclass(frozen=True, slots=True)
class Shot:
    """One drone picture: number of the view, camera, and the files it is written to, relative to the root."""

    number: int
    pose: Pose
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SatelliteShot:
    """One satellite picture: its centre on the ground (m) and the files it is written to."""

    x: float
    y: float
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PlacePlan:
    """Everything that is photographed of one place. All drone pictures share one acquisition."""

    place_id: str
    building: Building
    satellite: SatelliteShot
    conditions: Conditions
    shots: tuple[Shot, ...]

    def targets(self) -> Iterable[str]:
        """Every file of the place."""
        yield from self.satellite.targets
        for shot in self.shots:
            yield from shot.targets


@dataclass(frozen=True, slots=True, eq=False)
class Studio:
    """What all places of a city share while they are rendered."""

    city: City
    satellite: Acquisition
    tilt_azimuth_deg: float
    image_px: int
    supersampling: int
    root: Path


def open_city(config: CitiesConfig, role: Role, index: int) -> City:
    """Build a city of the benchmark: training city `index`, or the one test city (index 0)."""
    entropy = np.random.SeedSequence([config.seed, _ROLES[role], index])
    origin = GeoPoint(_LATITUDES_DEG[role] + _LATITUDE_STEP_DEG * (index % 150), _MERIDIAN_DEG)
    return build_city(int(entropy.generate_state(1)[0]), config.city_m, origin)


def satellite_conditions(city: City) -> Conditions:
    """The one satellite pass of a city: near noon, summer, clear."""
    rng = np.random.default_rng([city.seed, 7])
    return Conditions(SATELLITE_SEED, rng.uniform(140, 200), rng.uniform(45, 62), haze_m=3500.0, car_share=0.8)


def satellite_tilt_azimuth_deg(city: City) -> float:
    """The direction in which the satellite looked during its pass."""
    return float(np.random.default_rng([city.seed, 8]).uniform(0, 360))


def open_studio(config: CitiesConfig, city: City, root: Path) -> Studio:
    """Fly the satellite pass over a city and compile every kernel that places need."""
    satellite = acquire(city, whole_city(city), satellite_conditions(city))
    studio = Studio(city, satellite, satellite_tilt_azimuth_deg(city), config.image_px, config.supersampling, root)
    render(satellite, satellite_rays(city.size_m / 2, city.size_m / 2, 1.0, 5.0, 0.0, 300.0), 1, 1, 1)
    return studio


def pick_buildings(city: City, count: int) -> list[Building]:
    """`count` places of a city, at least 50 m apart.

    Raises:
        ConfigError: the city has room for fewer.
    """
    chosen = choose_places(city, count, _PLACE_SPACING_M, np.random.default_rng([city.seed, 6]))
    if len(chosen) < count:
        raise ConfigError(
            f"A city of {city.size_m:.0f} m has room for {len(chosen)} places {_PLACE_SPACING_M:.0f} m apart, but "
            f"{count} are asked of it (places keep {BORDER_M:.0f} m from its edge). Raise city-m, raise train-cities "
            "or ask for fewer places."
        )
    return chosen


def drone_conditions(building: Building, rng: np.random.Generator) -> Conditions:
    """Sun, season and weather of a drone flight: anything from early morning to autumn clouds."""
    return Conditions(
        PLACE_SEED + building.object_id,
        rng.uniform(0, 360),
        rng.uniform(*_MIXED_SUN_DEG),
        autumn=float(rng.choice((0, 0, 0.3, 0.7))),
        dryness=rng.uniform(0, 0.6),
        cloudiness=float(rng.choice((0, 0, 0.5, 0.9))),
        haze_m=rng.uniform(1200, 6000),
        car_share=rng.uniform(0.5, 1.2),
    )


def shift_conditions(mixed: Conditions, to: DroneConditions) -> Conditions:
    """The same flight in another light: seed, cars and the sun's direction stay, no random number is drawn.

    A low sun keeps the order of the elevations: 25 to 62 degrees become 8 to 15.
    """
    if to == "low-sun":
        share = (mixed.sun_elevation_deg - _MIXED_SUN_DEG[0]) / (_MIXED_SUN_DEG[1] - _MIXED_SUN_DEG[0])
        return replace(mixed, sun_elevation_deg=_LOW_SUN_DEG[0] + share * (_LOW_SUN_DEG[1] - _LOW_SUN_DEG[0]))
    if to == "autumn":
        return replace(mixed, autumn=1.0, dryness=0.8)
    if to == "overcast":
        return replace(mixed, cloudiness=1.0, haze_m=800.0)
    return mixed


def satellite_shot(building: Building, rng: np.random.Generator, targets: tuple[str, ...]) -> SatelliteShot:
    """The satellite tile of a place, slightly off its centre."""
    east, south = rng.uniform(-_SATELLITE_JITTER_M, _SATELLITE_JITTER_M, 2).tolist()
    return SatelliteShot(building.x + east, building.y + south, targets)


def view_window(city: City, poses: Iterable[Pose], aspect: float, conditions: Conditions) -> Window:
    """The smallest window that holds all that the pictures show and what casts shadows into them."""
    corners: list[tuple[float, float]] = []
    for pose in poses:
        for level in (0.0, city.highest_m):
            corners += seen_corners(pose, aspect, level, _FARTHEST_M)
    azimuth, slope = math.radians(conditions.sun_azimuth_deg), math.tan(math.radians(conditions.sun_elevation_deg))
    reach = min(_SUN_REACH_M, city.highest_m / slope)
    east, south = reach * math.sin(azimuth), -reach * math.cos(azimuth)
    x, y = [corner[0] for corner in corners], [corner[1] for corner in corners]
    return window_around(
        city,
        min(x) + min(0.0, east) - _AMBIENT_REACH_M,
        min(y) + min(0.0, south) - _AMBIENT_REACH_M,
        max(x) + max(0.0, east) + _AMBIENT_REACH_M,
        max(y) + max(0.0, south) + _AMBIENT_REACH_M,
    )


def render_place(studio: Studio, plan: PlacePlan) -> None:
    """Write the pictures of a place that are not there yet. The bytes of each depend on its own seed alone."""
    if _missing(studio.root, plan.satellite.targets):
        _write(studio.root, plan.satellite.targets, _satellite_bytes(studio, plan))
    wanted = [shot for shot in plan.shots if _missing(studio.root, shot.targets)]
    if not wanted:
        return
    window = view_window(studio.city, [shot.pose for shot in plan.shots], 1.0, plan.conditions)
    acquisition = acquire(studio.city, window, plan.conditions)
    for shot in wanted:
        radiance = render(acquisition, drone_rays(shot.pose), studio.image_px, studio.image_px, studio.supersampling)
        rng = np.random.default_rng([studio.city.seed, plan.building.object_id, 4, shot.number])
        _write(studio.root, shot.targets, drone_jpeg(studio.city, shot.pose, radiance, rng))


def drone_jpeg(city: City, pose: Pose, radiance: NDArray[np.float32], rng: np.random.Generator) -> bytes:
    """A drone's photo of radiance float32 (h, w, 3), with EXIF and XMP as a DJI drone writes them."""
    view = CameraView(pose.height_m, pose.pitch_deg, pose.fov_deg, pose.heading_deg)
    jpeg = to_jpeg(expose(radiance, rng, "drone"), rng)
    return add_flight_data(jpeg, city.point(pose.x, pose.y), view, radiance.shape[1])


def _satellite_bytes(studio: Studio, plan: PlacePlan) -> bytes:
    shot, px = plan.satellite, studio.image_px
    top_m = studio.city.highest_m + 10.0
    rays = satellite_rays(shot.x, shot.y, SATELLITE_WIDTH_M, SATELLITE_TILT_DEG, studio.tilt_azimuth_deg, top_m)
    rng = np.random.default_rng([studio.city.seed, plan.building.object_id, 5])
    picture = expose(render(studio.satellite, rays, px, px, studio.supersampling), rng, "satellite")
    return to_png(picture) if shot.targets[0].endswith(".png") else to_jpeg(picture, rng)


def _missing(root: Path, targets: tuple[str, ...]) -> bool:
    return not all((root / target).exists() for target in targets)


def _write(root: Path, targets: tuple[str, ...], data: bytes) -> None:
    for target in targets:
        if not (root / target).exists():
            with atomic_file(root / target) as temporary:
                temporary.write_bytes(data)
