"""The tables of flights: every figure by kind of map with its interval and count, and what a frame costs."""

from __future__ import annotations

from typing import Any

from bench.record import FLIGHT, BenchRecord, ScenarioRecord
from bench.report.scenarios import LATENCY_HEAD
from dphr_infer.measure.stats import format_ms, format_summary
from export.report.table import Table

# What one core of an Orin takes, in times of a core of this machine: an assumption, from clocks and vector widths of
# its Cortex-A78AE (2.0 to 2.2 GHz, 128 bits) and of server cores (3 to 4 GHz, 256 bits).
ORIN_TIMES = (1.5, 3.0)
_WITHIN = tuple((f"within_{m}_m", f"within {m} m") for m in (1, 5, 10, 25))
_OF_ERRORS = (("rmse_m", "RMSE (ATE), m"), ("median_m", "median, m"), ("p95_m", "p95, m"), *_WITHIN)
_WORDS = {
    "availability": "frames with a fix",
    "available_after_first_fix": "frames over the map with a fix, after the first",
    "flights_with_a_fix": "flights with a fix",
    **{f"fix_{key}": f"fix: {words}" for key, words in _OF_ERRORS},
    **{f"track_{key}": f"track: {words}" for key, words in _OF_ERRORS},
    "first_fix_s": "first fix after, s, median",
    "first_fix_m": "first fix after, m, median",
    "first_fix_most_tiles": "first fix after, tile lengths, most",
    "longest_gap_s": "longest gap over the map, s",
    "longest_gap_m": "longest gap over the map, m",
    "recovered": "recovered after kidnapping",
    "recovery_median_tiles": "recovery, tile lengths, median",
    "recovery_most_tiles": "recovery, tile lengths, most",
    "false_fixes": "false fixes, of all fixes",
    "false_segments": "tile lengths with a false fix, of those with a fix",
    "segments_with_a_false_fix": "tile lengths with a false fix, of all",
    "beyond_protection": "fixes further off than their protection level",
    "protection_infinite": "fixes without a finite protection level",
    "anees": "ANEES of fixes (2 is right)",
    "verified": "photos alone: verified",
    "verified_median_m": "photos alone: verified, median, m",
    "verified_p95_m": "photos alone: verified, p95, m",
    "verified_beyond_10_m": "photos alone: verified, beyond 10 m",
}


def flights_of(record: BenchRecord) -> list[ScenarioRecord]:
    """The scenarios of flights that were held against the truth, one per kind of map."""
    return [scenario for scenario in record.scenarios if scenario.name == FLIGHT and "figures" in scenario.extra]


def figure_cell(figure: dict[str, Any] | None) -> str:
    """A figure with its interval and count: "92.5 % [80.1, 97.4] 37/40", or "1.16 [0.73, 1.63] n 37"."""
    if figure is None:
        return ""
    value, low, high, n, k = (figure[name] for name in ("value", "low", "high", "n", "k"))
    is_share = k is not None
    count = f"{k}/{n}" if is_share else f"n {n}"
    if value is None:
        return f"- {count}"

    def shown(number: float) -> str:
        return f"{100 * number:.1f}" if is_share else f"{number:.2f}" if abs(number) < 10 else f"{number:.0f}"

    ends = ", ".join("?" if end is None else shown(end) for end in (low, high))
    interval = "" if low is None and high is None else f" [{ends}]"
    return f"{shown(value)}{' %' * is_share}{interval} {count}"


def flight_table(record: BenchRecord) -> Table | None:
    """Every figure, a column per kind of map."""
    found = flights_of(record)
    if not found:
        return None
    figures = [scenario.extra["figures"] for scenario in found]
    rows = [
        (words, *(figure_cell(one.get(name)) for one in figures))
        for name, words in _WORDS.items()
        if any(name in one for one in figures)
    ]
    kinds = tuple(scenario.settings["kind"] for scenario in found)
    asked = found[0].settings
    frames = sum(one["availability"]["n"] for one in figures)
    return Table(
        "Flights",
        ("figure", *kinds),
        tuple(rows),
        (
            f"{frames} frames. right: over its own map; half: over half of it; kidnapped: a stretch is left out "
            f"unsaid; wrong: over another's map. Tiles of {asked['tile_m']:g} m, stride {asked['stride_m']:g} m; "
            f"motion {asked['motion']}; {asked['interval_s']:g} s between photos.",
            "A fix is false beyond 10 m where it is registered, beyond one tile side where it is retrieved, and always "
            "on a wrong map. In brackets the 95 % interval: of false fixes, verified photos and promises Clopper and "
            "Pearson's, of other shares Wilson's, of medians and p95 order statistics, all of which take frames as "
            "independent; of RMSE and ANEES by resampling tile lengths; ? where n is too small. The unit that may be "
            "taken as independent is a tile length flown.",
        ),
        kinds,
    )


def flight_stage_table(record: BenchRecord) -> Table | None:
    """What a frame over its own map costs, stage by stage."""
    flights = [scenario for scenario in record.scenarios if scenario.name == FLIGHT]
    found = [scenario for scenario in flights if scenario.stages and scenario.latency is not None]
    if not found:
        return None
    scenario, jetson = found[0], record.machine.is_jetson
    low, high = ORIN_TIMES

    def model(p50_ms: float) -> tuple[str, ...]:
        return () if jetson else (f"{format_ms(low * p50_ms)} to {format_ms(high * p50_ms)}",)

    rows = [(name, *format_summary(one), *model(one.p50_ms)) for name, one in scenario.stages.items()]
    if scenario.latency is not None:
        rows.append(("a frame", *format_summary(scenario.latency), *model(scenario.latency.p50_ms)))
    note = (
        f"Over {'its own map' if scenario.settings.get('kind') == 'right' else 'a map'}, each without those within it. "
        "features: local features of the photo, and of map blocks when first needed; vote: the photo's ground picture, "
        "matches and their vote; filter: Flight.step. The next photo is decoded meanwhile by another thread."
    )
    if not jetson:
        note += (
            f" The last column is a model, not measured: a core of an Orin taken as {low:g} to {high:g} times as slow "
            "as one of this machine, and nothing on its GPU."
        )
    head = ("stage", *LATENCY_HEAD, *(() if jetson else ("Orin p50 ms (model, not measured)",)))
    return Table("A frame of a flight", head, tuple(rows), (note,))
