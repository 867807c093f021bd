"""The demo's closing table: what each step measured, and where the pictures are."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dphr_infer.measure.progress import format_duration

MODELS = ("fresh", "shipped")
_DIRECTIONS = ("drone->satellite", "satellite->drone")


@dataclass(frozen=True, slots=True)
class Results:
    """What the steps wrote, by model where there are two.

    Attributes:
        retrieval: {model: {direction: {protocol: figures}}} on the unseen city.
        flight, brighton: {model: dphr_infer.evaluate.scoring.LocateSummary as JSON}, by retrieval alone.
        flight_verified, brighton_verified: the same on the map.
        bench: the report of `python -m bench`.
        step_seconds: what each step took when it last ran.
        wall_seconds: what this call took, with all that was reused.
    """

    retrieval: dict[str, Any]
    flight: dict[str, Any]
    brighton: dict[str, Any]
    flight_verified: dict[str, Any]
    brighton_verified: dict[str, Any]
    bench: dict[str, Any]
    step_seconds: dict[str, float]
    wall_seconds: float

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)


def read_results(out: Path, step_seconds: dict[str, float], wall_seconds: float) -> Results:
    """Read what the steps wrote below `out`."""

    def read(name: str) -> Any:
        return json.loads((out / name).read_text())

    return Results(
        retrieval={"fresh": read("evaluation.json"), "shipped": read("evaluation-shipped.json")},
        flight={model: read(f"flight-{model}.json") for model in MODELS},
        brighton={model: read(f"brighton-{model}.json") for model in MODELS},
        flight_verified={model: read(f"flight-{model}-verified.json") for model in MODELS},
        brighton_verified={model: read(f"brighton-{model}-verified.json") for model in MODELS},
        bench=read("bench.json"),
        step_seconds=step_seconds,
        wall_seconds=wall_seconds,
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _metres(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} m"


def _rows(results: Results) -> list[tuple[str, list[str]]]:
    rows: list[tuple[str, list[str]]] = []

    def add(label: str, values: list[str]) -> None:
        rows.append((label, values))

    for direction in _DIRECTIONS:
        for protocol in ("matched", "full"):
            reports = [results.retrieval[model][direction][protocol] for model in MODELS]
            sizes = f"{reports[0]['n_queries']} in {reports[0]['n_gallery']}"
            cells = [
                f"{100 * r['recall_at']['1']:.1f} / {100 * r['recall_at']['5']:.1f} / {100 * r['ap']:.1f}"
                for r in reports
            ]
            add(f"{direction}, {protocol} gallery ({sizes}): R@1 / R@5 / AP", cells)
    for name, summaries, on_map in (
        ("flight", results.flight, results.flight_verified),
        ("Brighton", results.brighton, results.brighton_verified),
    ):
        s, v = ([one[model] for model in MODELS] for one in (summaries, on_map))
        photos = f"{name}, {s[0]['n_photos']} photos"
        add(f"{photos}: median error, best match", [_metres(x["median_error_m"]) for x in s])
        add(f"{photos}: within 40 m, best match", [_percent(x["share_within_40_m"]) for x in s])
        add(f"{photos}: median error, nearest of the top 5", [_metres(x["oracle_median_error_m"]) for x in s])
        add(f"{photos}: within 40 m, nearest of the top 5", [_percent(x["oracle_share_within_40_m"]) for x in s])
        add(f"{photos}: accepted without the map", [_percent(x["accepted_share"]) for x in s])
        add(f"{photos}: median error of the accepted", [_metres(x["accepted_median_error_m"]) for x in s])
        if s[0]["n_with_footprint"]:
            add(f"{photos}: R@1 by footprint overlap", [_percent(x["recall_at_1"]) for x in s])
        add(f"{photos}: verified on the map", [_percent(x["accepted_share"]) for x in v])
        add(f"{photos}: median error of the verified", [_metres(x["accepted_median_error_m"]) for x in v])
    return rows


def format_summary(results: Results, out: Path) -> str:
    """The closing table and the paths, as text for a terminal or a log."""
    rows = _rows(results)
    width = max(len(label) for label, _ in rows) + 2
    lines = ["", f"{'':<{width}}{'trained now':>24}{'shipped bundle':>24}"]
    lines += [f"{label:<{width}}" + "".join(f"{value:>24}" for value in values) for label, values in rows]
    lines += ["", "Pictures and pages:"]
    named = (
        (out / "failures.png", "worst failures of the model trained now: query, truth, top 5"),
        (out / "failures-shipped.png", "the same of the shipped bundle"),
        (out / "train/curves.png", "training curves"),
        (out / "flight-shipped", "the flight: photos beside their matches, and the map with estimates and truth"),
        (out / "brighton-shipped", "the same for the real photos"),
        (out / "flight-shipped-verified", "and where they lie once verified"),
        (out / "bench.html", "latency report"),
    )
    lines += [f"  {path!s:<{width - 2}}{what}" for path, what in named]
    spent = sum(results.step_seconds.values())
    lines += [
        "",
        f"All steps together take {format_duration(spent)}; this run took {format_duration(results.wall_seconds)}.",
    ]
    return "\n".join(lines)
