"""A located frame as one line, written at once: what `locate` lists of a photo, and when, how fast and how old."""

from __future__ import annotations

import csv
import io
import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TextIO

from dphr_infer.errors import ConfigError, printable
from dphr_infer.evaluate.listing import to_csv, to_geojson
from dphr_infer.evaluate.scoring import LocatedPhoto
from dphr_infer.evaluate.truth import truth_of
from dphr_infer.types import FORMATS, Format, LocationEstimate
from dphr_infer.watch.frames import Frame

_HEAD = "   frame   latitude   longitude  similarity    verdict  radius   latency       age  name"


class FrameLines:
    """Writes located frames, each as one line that is flushed.

    table    for people; a head line first
    csv      frame, captured_at, position_s, latency_ms, age_ms and the columns of `dphr-infer locate`; a head line
    geojson  newline-delimited: each line a Feature (RFC 7946) as `dphr-infer locate` lists it, with those five more

    Args:
        form: one of these.
        out: where to.

    Raises:
        ConfigError: the form is unknown.
    """

    def __init__(self, form: Format, out: TextIO) -> None:
        if form not in FORMATS:
            raise ConfigError(f"Format {form!r} is unknown; choose one of {', '.join(FORMATS)}.")
        self._form, self._out, self._begun = form, out, False

    def write(self, frame: Frame, estimate: LocationEstimate, latency_ms: float, age_ms: float) -> None:
        """Write the line of a frame.

        Args:
            frame: what was located.
            estimate: its place.
            latency_ms: from taking the frame out of the queue to the estimate.
            age_ms: from the frame's arrival to the estimate.
        """
        times = {
            "frame": frame.number,
            "captured_at": None if frame.captured_at is None else _utc(frame.captured_at),
            "position_s": None if frame.position_s is None else round(frame.position_s, 3),
            "latency_ms": round(latency_ms, 2),
            "age_ms": round(age_ms, 2),
        }
        if self._form == "table":
            lines = [_HEAD, _table_line(frame, estimate, latency_ms, age_ms)]
        else:
            # A path would fold the two slashes of a URL into one.
            name = {"photo": frame.name.encode("utf-8", "backslashreplace").decode()}
            truth = truth_of(Path(frame.name), frame.metadata, {})
            photo = LocatedPhoto(Path(frame.name), frame.metadata, estimate, truth)
            lines = _csv_lines(photo, times, name) if self._form == "csv" else ["", _feature_line(photo, times, name)]
        if not self._begun and lines[0]:
            self._out.write(lines[0] + "\n")
        self._begun = True
        self._out.write(lines[1] + "\n")
        self._out.flush()


def _utc(unix_s: float) -> str:
    """RFC 3339, to the millisecond."""
    moment = datetime.fromtimestamp(unix_s, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _table_line(frame: Frame, estimate: LocationEstimate, latency_ms: float, age_ms: float) -> str:
    point, why = estimate.point, f": {estimate.reason}" if estimate.reason else ""
    return (
        f"{frame.number:8d}  {point.latitude_deg:9.6f}  {point.longitude_deg:10.6f}  {estimate.similarity:10.4f}  "
        f"{estimate.verdict:>9}  {estimate.radius_m:4.0f} m  {latency_ms:6.1f} ms  "
        f"{age_ms:6.0f} ms  {printable(Path(frame.name).name)}"
        f"{why}"
    )


def _csv_lines(photo: LocatedPhoto, times: dict[str, Any], name: dict[str, str]) -> list[str]:
    """The head line and the line of one photo."""
    (listed,) = csv.DictReader(io.StringIO(to_csv([photo]), newline=""))
    row = {**times, **listed, **name}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(row)
    head_end = text.tell()
    writer.writerow(row.values())
    whole = text.getvalue()
    return [whole[: head_end - 1], whole[head_end:-1]]


def _feature_line(photo: LocatedPhoto, times: dict[str, Any], name: dict[str, str]) -> str:
    (feature,) = json.loads(to_geojson([photo]))["features"]
    feature["properties"] = {**times, **feature["properties"], **name}
    return json.dumps(feature)
