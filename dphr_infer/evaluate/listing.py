"""Located photos as text: a table for people, CSV for spreadsheets, GeoJSON for maps, and the summary."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from dphr_infer.errors import printable
from dphr_infer.evaluate.scoring import NEAR_M, LocatedPhoto, LocateSummary
from dphr_infer.evaluate.seen_from import (
    ATTITUDE_COLUMNS,
    CAMERA_COLUMNS,
    COVARIANCE_COLUMNS,
    attitude_columns,
    camera_columns,
    covariance_columns,
)
from dphr_infer.types import Format

_COLUMNS = (
    "photo",
    "latitude_deg",
    "longitude_deg",
    "similarity",
    "accepted",
    "verdict",
    "reason",
    "radius_m",
    "rotation_deg",
    "error_m",
    "truth_source",
    *COVARIANCE_COLUMNS,
    *CAMERA_COLUMNS,
    *("gps_latitude_deg", "gps_longitude_deg"),
    *ATTITUDE_COLUMNS,
)


def _properties(photo: LocatedPhoto) -> dict[str, Any]:
    estimate, gps = photo.estimate, photo.metadata.camera
    return {
        # As given; a byte that is no UTF-8 becomes an escape, for neither CSV nor JSON can carry it.
        "photo": str(photo.path).encode("utf-8", "backslashreplace").decode(),
        "latitude_deg": round(estimate.point.latitude_deg, 7),
        "longitude_deg": round(estimate.point.longitude_deg, 7),
        "similarity": round(estimate.similarity, 4),
        "accepted": estimate.accepted,
        "verdict": estimate.verdict,
        "reason": estimate.reason,
        "radius_m": round(estimate.radius_m, 1),
        "rotation_deg": round(estimate.rotation_deg, 1),
        "error_m": None if photo.error_m is None else round(photo.error_m, 1),
        "truth_source": None if photo.truth is None else photo.truth.source,
        **covariance_columns(estimate.covariance_m2),
        **camera_columns(estimate.camera, estimate.camera_covariance_m2, estimate.camera_reason),
        "gps_latitude_deg": None if gps is None else round(gps.latitude_deg, 7),
        "gps_longitude_deg": None if gps is None else round(gps.longitude_deg, 7),
        **attitude_columns(estimate.attitude),
    }


def to_table(photos: Sequence[LocatedPhoto]) -> str:
    """One aligned line for each photo, under a head; behind it why it is not to be used."""
    names = [printable(photo.path.name) for photo in photos]
    width = max([len("photo"), *map(len, names)])
    lines = [f"{'photo':{width}}   latitude   longitude  similarity    verdict  radius    error"]
    for name, photo in zip(names, photos, strict=True):
        estimate = photo.estimate
        error = "      -" if photo.error_m is None else f"{photo.error_m:5.1f} m"
        why = f"  {estimate.reason}" if estimate.reason else ""
        radius = f"{estimate.radius_m:.{0 if estimate.radius_m >= 10 else 1}f}"
        lines.append(
            f"{name:{width}}  {estimate.point.latitude_deg:9.6f}  {estimate.point.longitude_deg:10.6f}  "
            f"{estimate.similarity:10.4f}  {estimate.verdict:>9}  {radius:>4} m  {error}{why}"
        )
    return "\n".join(lines) + "\n"


def to_csv(photos: Sequence[LocatedPhoto]) -> str:
    """CSV with a head line; what is unknown is empty, accepted is true or false."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for photo in photos:
        row = _properties(photo)
        writer.writerow({**row, "accepted": "true" if row["accepted"] else "false"})
    return text.getvalue()


def to_geojson(photos: Sequence[LocatedPhoto]) -> str:
    """A FeatureCollection (RFC 7946) with a point for each photo; positions are longitude, latitude.

    Its properties are the columns of the CSV but the position, and "places", the top k, best first.
    """
    features = []
    for photo in photos:
        feature, properties = photo.estimate.to_geojson(), _properties(photo)
        del properties["longitude_deg"], properties["latitude_deg"]  # they are the geometry
        feature["properties"] = {**properties, "places": feature["properties"]["places"]}
        features.append(feature)
    return json.dumps({"type": "FeatureCollection", "features": features}, indent=1) + "\n"


def to_text(photos: Sequence[LocatedPhoto], form: Format) -> str:
    """Located photos in one of the formats."""
    return {"table": to_table, "csv": to_csv, "geojson": to_geojson}[form](photos)


def summary_lines(summary: LocateSummary) -> list[str]:
    """The summary for people; a number without photos to stand on is left out."""
    line = (
        f"{summary.n_photos} photos located; truth of {summary.n_truth_from_file} from the file, "
        f"{summary.n_truth_from_metadata} from metadata, {summary.n_photos - summary.n_with_truth} unknown"
    )
    if summary.n_truth_unused:
        line += f"; {summary.n_truth_unused} rows of the truth file unused"
    lines = [line]
    for label, median, share in (
        ("best match", summary.median_error_m, summary.share_within_40_m),
        (f"best of the top {summary.top_k}", summary.oracle_median_error_m, summary.oracle_share_within_40_m),
    ):
        if median is not None and share is not None:
            lines.append(f"  {label}: median error {median:.1f} m, {share:.0%} within {NEAR_M:.0f} m")
    if summary.accepted_share is not None:
        text = f"  accepted: {summary.accepted_share:.0%}"
        if summary.accepted_median_error_m is not None:
            text += f", median error of the accepted {summary.accepted_median_error_m:.1f} m"
        lines.append(text)
    if summary.recall_at_1 is not None and summary.recall_at_k is not None:
        lines.append(
            f"  right tile (overlap of half the smaller area, n = {summary.n_with_footprint}): R@1 "
            f"{summary.recall_at_1:.1%}, R@{summary.top_k} {summary.recall_at_k:.1%}"
        )
    return lines
