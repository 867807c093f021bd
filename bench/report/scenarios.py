"""The tables of the scenarios, of accuracy and of endurance."""

from __future__ import annotations

from bench.record import (
    CAMERA,
    ENDURANCE,
    FILTER_STEP,
    FLIGHT,
    GPU_FRAME,
    MULTI_STREAM,
    OFFLINE,
    SINGLE_STREAM,
    BenchRecord,
    ScenarioRecord,
)
from dphr_infer.measure.stats import format_ms, format_summary
from export.report.table import Table

LATENCY_HEAD = ("n", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms")
# Columns of these titles hold words; all others but the first hold figures.
WORDS = ("found",)
_STOPPED = {
    "noise": "its p50 was steady",
    "time": "the time was over",
    "interrupt": "it was interrupted",
    "whole": "all was flown",
}
_WINDOWS_SHOWN = 10
OVER = {
    "right": "their own maps",
    "half": "half of their maps",
    "kidnapped": "their maps, a stretch left out",
    "wrong": "another's map",
}


def accuracy_table(record: BenchRecord) -> Table | None:
    """The gates, and whether they held."""
    found = record.accuracy
    if found is None:
        return None
    rows = [
        (
            f"self-test of {found.selftest_images} images: least cosine",
            f"{found.selftest_min_cosine:.6f}",
            f"{found.selftest_least_cosine:g}",
            "good" if found.selftest_min_cosine >= found.selftest_least_cosine else "INVALID",
        )
    ]
    if found.recall is not None and found.least_recall is not None:
        rows.append(
            (
                f"photos within {found.within_m:g} m of their truth, of {found.photos_with_truth}",
                f"{found.recall:.1%}",
                f"{found.least_recall:.1%}",
                "good" if found.recall >= found.least_recall else "INVALID",
            )
        )
    note = "By the engine and gallery that are timed, in this run."
    if found.median_error_m is not None:
        note += f" Median error {found.median_error_m:.1f} m."
    if found.recall is None and not any(scenario.name == FLIGHT for scenario in record.scenarios):
        note += " No truth was given, so no recall is known."
    return Table("Is it right?", ("check", "measured", "at least", ""), tuple(rows), (note,))


def difference_note(scenario: ScenarioRecord) -> str:
    """The difference of the whole and its parts, in a sentence."""
    difference_ms = scenario.extra.get("difference_p50_ms")
    if difference_ms is None or scenario.latency is None:
        return ""
    share = difference_ms / scenario.latency.p50_ms
    return f"End to end minus the sum of its stages, median over photos: {difference_ms:+.3f} ms ({share:+.1%})."


def stage_table(record: BenchRecord) -> Table | None:
    """Each stage of a photo, and the photo in one piece."""
    scenario = record.scenario(SINGLE_STREAM)
    if scenario is None or scenario.latency is None:
        return None
    total = sum(summary.p50_ms for summary in scenario.stages.values())
    rows = [
        (name, *format_summary(summary), f"{summary.p50_ms / total:.0%}") for name, summary in scenario.stages.items()
    ]
    rows.append(("end to end", *format_summary(scenario.latency), ""))
    return Table(
        "One photo, from file to position",
        ("stage", *LATENCY_HEAD, "share"),
        tuple(rows),
        (
            f"{difference_note(scenario)} Measured until {_STOPPED[scenario.extra['stopped']]}{_noise(scenario)}. "
            f"Stages are of the host's clock.{_gpu_note(scenario)}",
        ),
    )


def _gpu_note(scenario: ScenarioRecord) -> str:
    stages = scenario.extra.get("gpu_stage_p50_ms")
    if not stages:
        return ""
    parts = ", ".join(f"{stage} {format_ms(value)}" for stage, value in stages.items())
    return f" On the GPU, by its events: {parts} ms at the median, of a photo that is not turned."


def _noise(scenario: ScenarioRecord) -> str:
    noise = scenario.extra.get("noise")
    return f"; the p50 is known to ±{noise:.1%}" if noise is not None and noise < 1 else ""


def _settings(scenario: ScenarioRecord) -> str:
    asked = scenario.settings
    if scenario.name == GPU_FRAME:
        return f"{asked['frame']} {asked['precision']}, {asked['rows']:,} rows"
    if scenario.name == FLIGHT and "kind" not in asked:
        return "the photos in order, motion seen"
    if scenario.name == FLIGHT:
        return f"{asked['flights']} over {OVER[asked['kind']]}, motion {asked['motion']}"
    return {
        FILTER_STEP: f"{asked.get('cells', 0):,} cells, {asked.get('step_tiles', 0):g} tiles apart",
        SINGLE_STREAM: "one photo after the other",
        MULTI_STREAM: f"batches of {asked.get('batch')}",
        OFFLINE: f"all photos, {asked.get('batch')} at a time",
        CAMERA: f"{asked.get('rate_hz', 0):g} Hz, age of the answer",
        ENDURANCE: f"{asked.get('minutes', 0):g} minutes",
    }[scenario.name]


def _found(scenario: ScenarioRecord) -> str:
    extra = scenario.extra
    parts = []
    if "photos_per_s" in extra:
        parts.append(f"{extra['photos_per_s']:.1f} photos/s")
    if scenario.name == CAMERA:
        jitter = extra["jitter"]
        parts.append(f"{extra['missed']} of {extra['frames']} frames missed ({extra['missed_share']:.1%})")
        parts.append(f"{extra['answers_per_s']:.1f} answers/s")
        if jitter is not None:
            parts.append(f"jitter p50 {format_ms(jitter['p50_ms'])}, max {format_ms(jitter['max_ms'])} ms")
    if scenario.name == GPU_FRAME:
        stages = ", ".join(f"{name} {format_ms(summary.p50_ms)}" for name, summary in scenario.stages.items())
        parts.append(f"on the GPU {stages} ms, the wall {extra['wall_to_stages']:.2f} of their sum")
        parts.append(f"first {format_ms(extra['first_ms'])} ms")
    if scenario.name == ENDURANCE and extra["drift_share"] is not None:
        parts.append(f"drift of the p50 {extra['drift_share']:+.1%}")
    if scenario.name == FILTER_STEP:
        parts.append(f"{extra['tracked_share']:.0%} of the steps with a track")
    if extra.get("energy_per_photo_mj") is not None:
        parts.append(f"{extra['energy_per_photo_mj']:.1f} mJ per photo")
    if extra.get("throttled_discarded"):
        parts.append(f"{extra['throttled_discarded']} throttled samples discarded")
    parts.append(f"ended as {_STOPPED[extra['stopped']]}")
    return ", ".join(parts)


def scenario_table(record: BenchRecord) -> Table | None:
    """All scenarios, one a row."""
    if not record.scenarios:
        return None
    rows = []
    for scenario in record.scenarios:
        figures = [""] * len(LATENCY_HEAD) if scenario.latency is None else format_summary(scenario.latency)
        rows.append((f"{scenario.name}: {_settings(scenario)}", *figures, _found(scenario)))
    return Table(
        "Scenarios",
        ("scenario", *LATENCY_HEAD, "found"),
        tuple(rows),
        (
            "A sample is a photo from file to position; in multi-stream and offline a batch of them; with a camera the "
            "age of an answer, from the moment when its frame was due, decoded in the reader's thread as by dphr-infer "
            "watch. One frame may wait; where a newer comes, the older is missed. Jitter: difference of the ages of "
            "successive answers.",
        ),
        WORDS,
    )


def endurance_table(record: BenchRecord) -> Table | None:
    """Some of the windows of the endurance scenario, first and last among them."""
    scenario = record.scenario(ENDURANCE)
    if scenario is None:
        return None
    windows = scenario.extra["windows"]
    step = max(1, len(windows) // _WINDOWS_SHOWN)
    rows = []
    for window in [*windows[:-1:step], windows[-1]]:
        p50 = "" if window["p50_ms"] is None else format_ms(window["p50_ms"])
        size = window.get("resident_bytes")
        memory = "" if size is None else f"{size / 1e6:.0f}"
        rows.append((f"{window['t_s'] / 60:.1f} min", str(window["n"]), p50, str(window["discarded"]), memory))
    extra = scenario.extra
    note = "Each window is a thirtieth of the time."
    if extra["drift_share"] is not None:
        note += f" Last third over first third: {extra['drift_share']:+.1%}."
    if extra.get("memory_growth_share") is not None:
        note += f" Resident memory (MB, at most), likewise: {extra['memory_growth_share']:+.1%}."
    if extra["slope_share_per_hour"] is not None:
        note += f" Slope {extra['slope_share_per_hour']:+.1%} per hour."
    if extra["spread_share"] is not None:
        note += f" The quartiles of the windows lie {extra['spread_share']:.1%} apart: a smaller drift means nothing."
    return Table(
        "Endurance", ("middle of the window", "n", "p50 ms", "throttled, discarded", "MB"), tuple(rows), (note,)
    )
