"""A flight over a map, by the code of `dphr-infer flight`, noted frame by frame.

right       over its own map
half        over its own map, of which one half is missing
wrong       over another flight's map: every fix is false
kidnapped   over its own map; a stretch in the middle is left out, and the motion told there is that of one step
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bench.cases.rig import FILTER, ODOMETRY, MeasuredLocalizer, StageClock
from bench.flights.folders import FlightFolder, middle_of
from dphr_infer.cli.flight import told_motion
from dphr_infer.errors import FlightError, ImageError
from dphr_infer.files.gallery import Gallery
from dphr_infer.flight.fix import Fix, Odometry
from dphr_infer.flight.flight import Flight
from dphr_infer.flight.run import FlightFrame, Locating, Motion, SeenMotion, fly
from dphr_infer.geo import east_north_m
from dphr_infer.images.photo import Photo, PhotoLike, each_photo
from dphr_infer.locate.localizer import Localizer
from dphr_infer.locate.stream import OnError
from dphr_infer.measure.clock import now_ms
from dphr_infer.types import GeoPoint, LocationEstimate
from export.calibrate.flights import Kind, told_odometry

KINDS: tuple[Kind, ...] = ("right", "half", "kidnapped", "wrong")
MotionSource = Literal["seen", "truth", "file"]


@dataclass(frozen=True, slots=True, eq=False)
class Flown:
    """A flight over one map.

    Attributes:
        over: whose map.
        frames: {column: a value per frame}; metres are east and north of the middle of the flight's own map:
            photo, time_s; flown_m since the start; east_m, north_m of the truth; on_map: a tile holds it;
            fix: its source, or ""; reason: why there is none; fix_east_m, fix_north_m, error_m, sigma_m, protection_m
            (None where infinite), nees; track_error_m; off; verdict and photo_error_m of the photo alone.
        jump: index of the first frame after the kidnapping; None without one.
        frame_ms, stage_ms: float64 (n,) of each frame and its stages; empty where estimates were flown again.
        skipped: {photo: why it was left out}.
    """

    kind: Kind
    flight: str
    over: str
    tile_m: float
    frames: dict[str, list[Any]]
    jump: int | None
    frame_ms: NDArray[np.float64]
    stage_ms: dict[str, NDArray[np.float64]]
    skipped: dict[str, str]

    def column(self, name: str) -> NDArray[np.float64]:
        """A column of numbers as float64 (n,), NaN for None."""
        return np.array(self.frames[name], np.float64)


class Kept:
    """Estimates of a flight's photos, to fly them again in part; photos are read again, as the localizer does."""

    def __init__(self, localizer: Localizer) -> None:
        self.estimates: dict[str, LocationEstimate] = {}
        self.views, self._read = localizer.views, localizer.read

    def locate_photos(
        self, photos: PhotoLike | Iterable[PhotoLike], *, on_error: OnError | None = None
    ) -> Iterator[tuple[Photo, LocationEstimate]]:
        """See `Locating`; a photo without an estimate is left out."""
        for path in each_photo(photos):
            if str(path) in self.estimates:
                yield self._read(str(path)), self.estimates[str(path)]


def told(points: Sequence[GeoPoint], tile_m: float, seed: int) -> list[Odometry]:
    """Motion of n points as an odometer tells it that errs as a calibration's do, n - 1 steps."""
    steps = np.diff(_metres(points[0], points), axis=1).T
    return list(told_odometry(steps, tile_m, np.random.default_rng(seed)))


def motion_of(source: MotionSource, folder: FlightFolder, localizer: MeasuredLocalizer, seed: int) -> Motion:
    """What tells a flight's motion, from its first photo on.

    Raises:
        ConfigError: there is no motion.csv, or it is wrong.
    """
    tile_m = localizer.gallery.origin.tile_m
    if source == "seen":
        return SeenMotion(localizer.views.attitude, tile_m)
    if source == "file":
        return told_motion(folder.folder / "motion.csv", folder.paths)
    steps = dict(zip((path.name for path in folder.paths[1:]), told(folder.truths, tile_m, seed), strict=True))
    return lambda photo: steps.get(Path(photo.source).name)


def kidnapped(folder: FlightFolder) -> tuple[list[int], int]:
    """Photos that are flown, and the place of the first after the jump: a third of the flight, then from where in the
    third quarter it is farthest away.
    """
    n = len(folder.paths)
    leave = max(1, n // 3)
    landings = range(max(leave + 1, n // 2), max(leave + 2, n // 2 + 1, 3 * n // 4))
    east_m, north_m = _metres(folder.truths[leave - 1], folder.truths)
    landing = max((i for i in landings if i < n), key=lambda i: math.hypot(east_m[i], north_m[i]), default=leave)
    return [*range(leave), *range(landing, n)], leave


def fly_over(
    folder: FlightFolder,
    localizer: Locating,
    gallery: Gallery,
    flight: Flight,
    motion: Motion,
    clock: StageClock,
    *,
    kind: Kind,
    over: str,
    interval_s: float,
    keep: Kept | None = None,
) -> Flown:
    """Fly one flight.

    Args:
        localizer: open, or estimates that were kept; of those no times are noted.
        gallery: of the map, or of half of it.
        flight: over it, not yet begun.
        clock: of the localizer.
        keep: gets the estimates.
    """
    order, jump = kidnapped(folder) if kind == "kidnapped" else (list(range(len(folder.paths))), None)
    truth, skipped = _Truth(folder, order, jump, gallery), dict[str, str]()
    clock.time(flight, "step", FILTER)
    times_s = itertools.count(0.0, interval_s)

    def skip(photo: PhotoLike, error: FlightError | ImageError) -> None:
        skipped[Path(photo.source if isinstance(photo, Photo) else str(photo)).name] = str(error)

    paths = [folder.paths[i] for i in order]
    coming = fly(localizer, flight, paths, lambda _: next(times_s), clock.wrap(motion, ODOMETRY), skip)
    rows, frame_ms, spent = list[dict[str, Any]](), list[float](), list[dict[str, float]]()
    clock.take()
    begun_ms = now_ms()
    for frame in coming:
        if not isinstance(localizer, Kept):
            frame_ms.append(now_ms() - begun_ms)
            spent.append(clock.take())
        rows.append(truth.judge(frame))
        if keep is not None:
            keep.estimates[frame.photo.source] = frame.estimate
        begun_ms = now_ms()
    return Flown(
        kind,
        folder.name,
        over,
        gallery.origin.tile_m,
        {name: [row[name] for row in rows] for name in rows[0]} if rows else {},
        jump,
        np.array(frame_ms),
        {name: np.array([one.get(name, 0.0) for one in spent]) for name in sorted({n for one in spent for n in one})},
        skipped,
    )


def _metres(origin: GeoPoint, points: Sequence[GeoPoint]) -> NDArray[np.float64]:
    """float64 (2, n), east and north of an origin."""
    latitude, longitude = (np.array([getattr(p, name) for p in points]) for name in ("latitude_deg", "longitude_deg"))
    return np.stack(east_north_m(origin, latitude, longitude))


class _Truth:
    """Where the photos of a flight are, in metres from the middle of its own map."""

    def __init__(self, folder: FlightFolder, order: Sequence[int], jump: int | None, gallery: Gallery) -> None:
        self._middle = middle_of(folder.gallery)
        places = _metres(self._middle, [folder.truths[i] for i in order]).T
        steps = np.hypot(*np.diff(places, axis=0).T)
        if jump is not None and jump > 1:
            steps[jump - 1] = steps[jump - 2]  # the stretch that was left out was not flown
        flown = np.concatenate([[0.0], np.cumsum(steps)])
        on_map = [_holds(gallery, folder.truths[i]) for i in order]
        names = [folder.paths[i].name for i in order]
        self._known = {name: rest for name, *rest in zip(names, places, flown, on_map, strict=True)}

    def judge(self, frame: FlightFrame) -> dict[str, Any]:
        """A row of `Flown.frames`."""
        place, flown_m, on_map = self._known[Path(frame.photo.source).name]
        return {**_judged(frame, place, self._middle), "flown_m": round(float(flown_m), 1), "on_map": on_map}


def _holds(gallery: Gallery, point: GeoPoint) -> bool:
    east_m, north_m = east_north_m(point, gallery.latitude_deg, gallery.longitude_deg)
    return bool((np.maximum(np.abs(east_m), np.abs(north_m)) <= gallery.origin.tile_m / 2).any())


def _judged(frame: FlightFrame, truth: NDArray[np.float64], middle: GeoPoint) -> Mapping[str, Any]:
    """One frame against the truth, float64 (2,) metres east and north of the middle."""

    def off_by(point: GeoPoint) -> NDArray[np.float64]:
        return _metres(middle, [point])[:, 0] - truth

    step, fix, alone = frame.step, frame.step.fix, frame.estimate
    row: dict[str, Any] = {
        "photo": Path(frame.photo.source).name,
        "time_s": round(step.time_s, 3),
        "east_m": round(float(truth[0]), 2),
        "north_m": round(float(truth[1]), 2),
        "fix": "",
        "reason": "",
        **dict.fromkeys(("fix_east_m", "fix_north_m", "error_m", "sigma_m", "protection_m", "nees")),
        "track_error_m": None if step.track is None else round(float(np.hypot(*off_by(step.track.point))), 2),
        "off": round(step.off, 4),
        "verdict": alone.verdict,
        "photo_error_m": round(float(np.hypot(*off_by(alone.point))), 2),
    }
    if not isinstance(fix, Fix):
        return {**row, "reason": fix.reason}
    error = off_by(fix.point)
    fixed = truth + error
    return {
        **row,
        "fix": fix.source,
        "fix_east_m": round(float(fixed[0]), 2),
        "fix_north_m": round(float(fixed[1]), 2),
        "error_m": round(float(np.hypot(*error)), 2),
        "sigma_m": round(fix.sigma_m, 2),
        "protection_m": None if math.isinf(fix.protection_m) else round(fix.protection_m, 2),
        "nees": round(float(error @ np.linalg.solve(fix.covariance, error)), 3),
    }
