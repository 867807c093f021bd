"""What `dphr-infer flight` does, once its arguments are read."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dphr_infer.cli.locate import open_search
from dphr_infer.cli.requests import Flight as Request
from dphr_infer.cli.requests import Search
from dphr_infer.cli.terminal import as_options
from dphr_infer.cuda.topk.plan import MAX_K
from dphr_infer.errors import ConfigError, FlightError, ImageError, printable
from dphr_infer.evaluate.flight_picture import FlownFrame, draw_flight
from dphr_infer.evaluate.seen_from import ATTITUDE_COLUMNS, CAMERA_COLUMNS, attitude_columns, camera_columns
from dphr_infer.evaluate.truth import Truth, check_truths, read_truth
from dphr_infer.files.gallery import Gallery, open_gallery
from dphr_infer.files.outputs import check_outputs, output_of
from dphr_infer.flight.fix import Odometry
from dphr_infer.flight.flight import Flight
from dphr_infer.flight.run import Motion, SeenMotion, confirmed_ranks, fly, promise_line
from dphr_infer.flight.settings import calibrated
from dphr_infer.geo import distance_m
from dphr_infer.images.photo import Photo, PhotoLike, each_photo
from dphr_infer.locate.localizer import Localizer
from dphr_infer.maps.open_map import open_map
from dphr_infer.measure.progress import Progress
from dphr_infer.types import GeoPoint

_NO_PIXELS = np.empty((0, 0, 3), np.uint8)
_MOTION_COLUMNS = ("photo", "east_m", "north_m", "sigma_m")
_COLUMNS = (
    *("photo", "time_s", "fix", "reason", "latitude_deg", "longitude_deg", "sigma_m", "protection_m", "error_m"),
    *("track_latitude_deg", "track_longitude_deg", "off", "moved_east_m", "moved_north_m"),
    *("verdict", "verdict_reason"),
    *CAMERA_COLUMNS,
    *ATTITUDE_COLUMNS,
)


class _Row(FlownFrame):
    """A frame of the list."""

    __slots__ = ()

    @property
    def error_m(self) -> float | None:
        return None if self.truth is None or self.fix is None else distance_m(self.fix.point, self.truth)

    def values(self) -> dict[str, Any]:
        step, fix, moved = self.frame.step, self.fix, self.frame.odometry
        track = None if step.track is None else step.track.point
        return {
            "photo": self.frame.photo.source.encode("utf-8", "backslashreplace").decode(),
            "time_s": round(step.time_s, 3),
            "fix": "none" if fix is None else fix.source,
            "reason": "" if fix is not None else self.kind,
            "latitude_deg": None if fix is None else round(fix.point.latitude_deg, 7),
            "longitude_deg": None if fix is None else round(fix.point.longitude_deg, 7),
            "sigma_m": None if fix is None else round(fix.sigma_m, 2),
            "protection_m": None if fix is None or math.isinf(fix.protection_m) else round(fix.protection_m, 1),
            "error_m": None if self.error_m is None else round(self.error_m, 1),
            "track_latitude_deg": None if track is None else round(track.latitude_deg, 7),
            "track_longitude_deg": None if track is None else round(track.longitude_deg, 7),
            "off": round(step.off, 4),
            "moved_east_m": None if moved is None else round(moved.east_m, 2),
            "moved_north_m": None if moved is None else round(moved.north_m, 2),
            "verdict": self.frame.estimate.verdict,
            "verdict_reason": self.frame.estimate.reason,
            **camera_columns(self.frame.camera, self.frame.camera_covariance_m2, self._camera_reason()),
            **attitude_columns(self.frame.estimate.attitude),
        }

    def _camera_reason(self) -> str:
        if self.frame.camera is not None:
            return ""
        attitude = self.frame.estimate.attitude
        return "no fix" if self.fix is None or attitude is None else f"attitude {attitude.reason}"


def run(request: Request) -> None:
    """Take the photos of a flight in order; print or write its frames and their summary.

    Raises:
        ConfigError: no times, a motion file that is wrong, or an output would replace an input.
        ImageError: at the end, if a photo could not be read or was refused.
        GalleryError, MapError, StorageError: as of the parts.
    """
    localizer = open_search(
        enough_matches(request.search, open_gallery(request.gallery)), request.bundle, request.gallery
    )
    paths = [Path(path) for path in each_photo(request.photos)]
    truths = {} if request.truth is None else read_truth(request.truth)
    if request.truth is not None:
        check_truths(truths, request.truth, paths, localizer.gallery)
    out = output_of(request.out)
    inputs: dict[str, Path | Sequence[Path]] = {"the gallery": request.gallery, "a photo": paths}
    outputs = {"--out": out.path, "--picture": request.picture}
    check_outputs({name: path for name, path in outputs.items() if path is not None}, inputs, request.bundle)
    motion: Motion = SeenMotion(localizer.views.attitude, localizer.gallery.origin.tile_m)
    if request.motion is not None:
        motion = told_motion(request.motion, paths)
    calibration = localizer.bundle.manifest.calibration
    flight = Flight(localizer.gallery, calibrated(calibration), request.search.prior)
    with localizer:
        rows = list(_rows(localizer, flight, paths, _clock(request.interval_s), motion, truths))
    if rows:
        out.write({"table": _table, "csv": _csv, "geojson": _geojson}[request.format](rows))
        ranks = confirmed_ranks(flight, (row.frame for row in rows))
        on_map = localizer.registrar is not None
        lines = [*_summary(rows), "  " + promise_line(calibration, localizer.gallery, ranks, on_map)]
        print("\n".join(lines), file=sys.stderr if out.path is None and request.format != "table" else sys.stdout)
        _draw(rows, localizer.gallery, request)
    if len(rows) < len(paths):
        raise ImageError(f"{len(paths) - len(rows)} of {len(paths)} photos were left out; see above.")


def _draw(rows: Sequence[_Row], gallery: Gallery, request: Request) -> None:
    if request.picture is None or request.search.map is None:
        return
    with open_map(request.search.map, gallery) as pixels:
        outermost = (f(of) for f in (np.argmin, np.argmax) for of in (gallery.latitude_deg, gallery.longitude_deg))
        draw_flight(rows, pixels, [gallery.point(int(row)) for row in outermost], request.picture)


def enough_matches(search: Search, gallery: Gallery) -> Search:
    """With as many matches as the filter can use; see `Flight.step`."""
    wanted = math.ceil((gallery.origin.tile_m / gallery.origin.stride_m) ** 2)
    settings = dataclasses.replace(search.settings, top_k=max(search.settings.top_k, min(wanted, MAX_K)))
    return dataclasses.replace(search, settings=settings)


def _rows(
    localizer: Localizer,
    flight: Flight,
    paths: Sequence[Path],
    clock: Callable[[Photo], float],
    motion: Motion,
    truths: dict[str, Truth],
) -> Iterator[_Row]:
    with Progress("frames", len(paths), "frames") as progress:

        def skip(photo: PhotoLike, error: FlightError | ImageError) -> None:
            name, text = photo.source if isinstance(photo, Photo) else str(photo), as_options(str(error))
            print(printable(text if name in text else f"{name}: {text}"), file=sys.stderr)
            progress.advance()

        for frame in fly(localizer, flight, paths, clock, motion, skip):
            truth = truths.get(Path(frame.photo.source).name)
            # The list is written at the end: kept pixels would make memory grow with the flight.
            listed = dataclasses.replace(frame, photo=dataclasses.replace(frame.photo, image=_NO_PIXELS))
            yield _Row(listed, None if truth is None else truth.point)
            progress.advance()


def _clock(interval_s: float | None) -> Callable[[Photo], float]:
    taken = 0

    def by_interval(photo: Photo) -> float:
        nonlocal taken
        taken += 1
        return (interval_s or 0.0) * taken

    def by_metadata(photo: Photo) -> float:
        if photo.metadata.time_s is None:
            raise ImageError(
                f"{photo.source} does not say when it was taken (EXIF DateTimeOriginal). Give the time between two "
                "photos: --interval-s"
            )
        return photo.metadata.time_s

    if interval_s is None:
        return by_metadata
    if not 0 < interval_s < math.inf:
        raise ConfigError(f"--interval-s is {interval_s:g}; expected seconds above 0 and finite.")
    return by_interval


def told_motion(path: Path, photos: Sequence[Path]) -> Motion:
    """Of a CSV file with a line for each photo; a photo without one has no known motion.

    Raises:
        ConfigError: it cannot be read, lacks a column, holds no metres, or names none of the photos.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as text ({error}).") from error
    reader = csv.DictReader(io.StringIO(text))
    lacking = [column for column in _MOTION_COLUMNS if column not in (reader.fieldnames or ())]
    if lacking:
        raise ConfigError(f"{path} lacks the column {lacking[0]}; expected {','.join(_MOTION_COLUMNS)}.")
    told: dict[str, Odometry] = {}
    for number, row in enumerate(reader, start=2):
        try:
            east_m, north_m, sigma_m = (float(row[name] or "") for name in _MOTION_COLUMNS[1:])
            told[row["photo"]] = Odometry(east_m, north_m, np.eye(2) * sigma_m**2)
        except (ValueError, TypeError, FlightError) as error:
            raise ConfigError(f"{path} line {number} holds no motion in metres ({error}).") from error
    if not told.keys() & {photo.name for photo in photos}:
        raise ConfigError(f"{path} names none of the {len(photos)} photos, such as {photos[0].name}.")
    return lambda photo: told.get(Path(photo.source).name)


def _table(rows: Sequence[_Row]) -> str:
    width = max(5, *(len(printable(Path(row.frame.photo.source).name)) for row in rows))
    lines = [f"{'photo':{width}}        time  fix           latitude   longitude     sigma  protection    error"]
    for row in rows:
        name, step, fix = printable(Path(row.frame.photo.source).name), row.frame.step, row.fix
        start = f"{name:{width}}  {step.time_s % 86400:8.1f} s"
        if fix is None:
            own = f" ({row.frame.estimate.reason})" if row.frame.estimate.reason else ""
            lines.append(f"{start}  none: {row.values()['reason']}{own}")
            continue
        error = "      -" if row.error_m is None else f"{row.error_m:5.1f} m"
        lines.append(
            f"{start}  {fix.source:10}  {fix.point.latitude_deg:10.6f}  {fix.point.longitude_deg:10.6f}  "
            f"{fix.sigma_m:6.1f} m  {fix.protection_m:8.1f} m  {error}"
        )
    return "\n".join(lines) + "\n"


def _csv(rows: Sequence[_Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.values() for row in rows)
    return text.getvalue()


def _geojson(rows: Sequence[_Row]) -> str:
    """A point for each fix, and a line for the track."""

    def feature(kind: str, coordinates: Any, properties: dict[str, Any]) -> dict[str, Any]:
        return {"type": "Feature", "geometry": {"type": kind, "coordinates": coordinates}, "properties": properties}

    def position(point: GeoPoint) -> list[float]:
        return [round(point.longitude_deg, 7), round(point.latitude_deg, 7)]

    features = [feature("Point", position(row.fix.point), row.values()) for row in rows if row.fix is not None]
    track = [position(row.frame.step.track.point) for row in rows if row.frame.step.track is not None]
    if len(track) > 1:
        features.append(feature("LineString", track, {"what": "track: never fuse it, the fixes are in it"}))
    return json.dumps({"type": "FeatureCollection", "features": features}, indent=1) + "\n"


def _summary(rows: Sequence[_Row]) -> list[str]:
    fixes = [row for row in rows if row.fix is not None]
    silent = Counter(row.values()["reason"] for row in rows if row.fix is None)
    why = f"; none: {', '.join(f'{reason} {count}' for reason, count in silent.most_common())}" if silent else ""
    lines = [f"{len(rows)} frames, {len(fixes)} with a fix ({len(fixes) / len(rows):.0%}){why}"]
    errors = sorted(row.error_m for row in fixes if row.error_m is not None)
    if errors:
        p95 = errors[min(len(errors) - 1, math.ceil(0.95 * len(errors)) - 1)]
        beyond = sum(row.error_m > row.fix.protection_m for row in fixes if row.error_m is not None and row.fix)
        lines.append(
            f"  error of {len(errors)} fixes: median {statistics.median(errors):.1f} m, p95 {p95:.1f} m, largest "
            f"{errors[-1]:.1f} m; {beyond} beyond their protection level"
        )
    return lines
