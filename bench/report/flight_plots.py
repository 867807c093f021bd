"""The pictures of flights: errors, promises, silence and false fixes, the ground; and the time of the filter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.record import FILTER_STEP, BenchRecord, ScenarioRecord
from bench.report.flights import flights_of
from bench.report.plots import BLUE, COLOURS, GREY, ORANGE, RED, Plot, plain_log_axis, stage_plot

if TYPE_CHECKING:
    from bench.report.plots import Axes

_KIND_COLOURS = dict(zip(("right", "half", "kidnapped", "wrong"), (BLUE, COLOURS[2], COLOURS[4], RED), strict=True))
_LEAST_M = 0.05
_ROW_IN, _FRAME_IN = 0.13, 1.0
_SQUARE_IN = 4.2


def _column(flights: list[dict[str, Any]], name: str) -> NDArray[np.float64]:
    return np.concatenate([np.array(one["frames"][name], np.float64) for one in flights])


def _judged(scenarios: list[ScenarioRecord]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Kinds whose fixes have an error, and their flights."""
    found = [(one.settings["kind"], one.extra["flights"]) for one in scenarios if one.settings["kind"] != "wrong"]
    return [(kind, flights) for kind, flights in found if np.isfinite(_column(flights, "error_m")).any()]


def error_plot(scenarios: list[ScenarioRecord]) -> Plot | None:
    """The share of fixes within a distance of the truth."""
    judged = _judged(scenarios)
    if not judged:
        return None

    def paint(axes: Axes) -> None:
        for kind, flights in judged:
            errors = _column(flights, "error_m")
            errors = np.sort(np.maximum(errors[np.isfinite(errors)], _LEAST_M))
            shares = np.arange(1, len(errors) + 1) / len(errors)
            axes.step(errors, 100 * shares, color=_KIND_COLOURS[kind], label=f"{kind}, n {len(errors)}", where="post")
        plain_log_axis(axes, (1.0,))
        axes.grid()
        axes.set_ylim(0, 101)
        axes.set_xlabel("error of the fix, m (logarithmic)")
        axes.set_ylabel("% of the fixes")
        axes.legend(frameon=False, loc="upper left")

    return Plot("Error of fixes", "Share of the fixes within a distance of the truth.", "flight-errors", paint)


def stanford_plot(scenarios: list[ScenarioRecord]) -> Plot | None:
    """Error against protection level."""
    judged = _judged(scenarios)
    pairs = [(kind, _column(flights, "error_m"), _column(flights, "protection_m")) for kind, flights in judged]
    pairs = [(kind, e[np.isfinite(e) & np.isfinite(p)], p[np.isfinite(e) & np.isfinite(p)]) for kind, e, p in pairs]
    pairs = [pair for pair in pairs if len(pair[1])]
    if not pairs:
        return None

    def paint(axes: Axes) -> None:
        for kind, errors, levels in pairs:
            axes.plot(np.maximum(errors, _LEAST_M), levels, ".", color=_KIND_COLOURS[kind], label=kind, alpha=0.7)
        plain_log_axis(axes, (1.0,))
        plain_log_axis(axes, (1.0, 2.0, 5.0), along="y")
        low = _LEAST_M
        high = 1.3 * max(max(float(e.max()), float(p.max())) for _, e, p in pairs)
        axes.plot([low, high], [low, high], color=GREY, linewidth=1)
        axes.fill_between([low, high], [low, low], [low, high], color=RED, alpha=0.08, linewidth=0)
        axes.set_xlim(low, high)
        axes.set_ylim(0.8 * min(float(p.min()) for _, _, p in pairs), high)
        axes.set_xlabel("error, m (logarithmic)")
        axes.set_ylabel("protection level, m (logarithmic)")
        axes.legend(frameon=False, loc="upper left")

    caption = "Error of each fix against its protection level; below the line, in red, the level promised too much."
    return Plot("Promise and error (Stanford plot)", caption, "flight-stanford", paint)


def silence_plot(scenarios: list[ScenarioRecord]) -> Plot:
    """Each flight in a row: where it has a fix, where it is silent, where its fix is false."""
    rows = [(one.settings, flight) for one in scenarios for flight in one.extra["flights"]]

    def paint(axes: Axes) -> None:
        for place, (settings, flight) in enumerate(rows):
            flown_m, fixed, false = (np.array(values) for values in _states(settings, flight))
            for mask, colour, mark in ((~fixed, "#b6bbc2", "|"), (fixed & ~false, BLUE, "|"), (false, RED, "x")):
                axes.plot(flown_m[mask], np.full(mask.sum(), place), mark, color=colour, markersize=5)
            if flight["jump"] is not None and flight["jump"] < len(flown_m):
                axes.plot(flown_m[flight["jump"]], place, "^", color=ORANGE, markersize=4)
        kinds = [settings["kind"] for settings, _ in rows]
        firsts = [kinds.index(kind) for kind in dict.fromkeys(kinds)]
        axes.set_yticks([first + (kinds.count(kinds[first]) - 1) / 2 for first in firsts], dict.fromkeys(kinds))
        for first in firsts[1:]:
            axes.axhline(first - 0.5, color=GREY, linewidth=0.6)
        axes.invert_yaxis()
        axes.set_xlabel("metres flown")

    caption = (
        "A row per flight and map. Blue: a fix; grey: silent; red: a false fix; triangle: the end of a kidnapping."
    )
    return Plot("Fixes and silence", caption, "flight-silence", paint, _FRAME_IN + _ROW_IN * max(12, len(rows)))


def _states(settings: dict[str, Any], flight: dict[str, Any]) -> tuple[list[float], list[bool], list[bool]]:
    """Metres flown, whether there is a fix, whether it is false, as `figures.is_false` has it."""
    frames = flight["frames"]
    fixed = [bool(source) for source in frames["fix"]]
    return frames["flown_m"], fixed, frames["false"]


def ground_plot(scenario: ScenarioRecord) -> Plot:
    """The first flight of a kind on the ground: truth, fixes with their protection, silent stretches."""
    flight = scenario.extra["flights"][0]
    frames = {name: np.array(flight["frames"][name], np.float64) for name in ("east_m", "north_m", "protection_m")}
    fixes = np.array([flight["frames"]["fix_east_m"], flight["frames"]["fix_north_m"]], np.float64)
    fixed, false = (np.array(values) for values in _states(scenario.settings, flight)[1:])

    def paint(axes: Axes) -> None:
        east_m, north_m = frames["east_m"], frames["north_m"]
        axes.plot(east_m, north_m, "-", color=GREY, linewidth=1, label="truth")
        axes.plot(east_m[~fixed], north_m[~fixed], "o", color="white", markeredgecolor=GREY, label="silent")
        axes.plot(*fixes[:, fixed & ~false], ".", color=BLUE, label="fix")
        if false.any():
            axes.plot(*fixes[:, false], "x", color=RED, label="false fix")
        from matplotlib.patches import Circle

        for east, north, radius_m in zip(*fixes, frames["protection_m"], strict=True):
            if np.isfinite([east, radius_m]).all():
                axes.add_patch(Circle((east, north), radius_m, fill=False, color=BLUE, linewidth=0.7))
        axes.set_aspect("equal", "datalim")
        axes.set_xlabel("metres east of the map's middle")
        axes.set_ylabel("metres north")
        axes.legend(frameon=False, fontsize=8, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))

    kind = scenario.settings["kind"]
    caption = f"Flight {flight['flight']}, {kind}. Circles: the protection level of each fix."
    return Plot(f"On the ground, {kind}", caption, f"flight-ground-{kind}", paint, _SQUARE_IN)


def filter_plot(record: BenchRecord) -> Plot | None:
    """A step of the filter by the number of cells."""
    steps = [(one.settings["cells"], one.latency) for one in record.scenarios if one.name == FILTER_STEP]
    points = sorted((cells, latency.p50_ms, latency.max_ms) for cells, latency in steps if latency is not None)
    if len(points) < 2:
        return None
    cells, medians, most = zip(*points, strict=True)

    def paint(axes: Axes) -> None:
        axes.plot(cells, medians, "o-", color=BLUE, label="p50")
        axes.plot(cells, most, "o--", color=ORANGE, label="max")
        axes.axhline(100, color=GREY, linewidth=0.8)
        axes.annotate("10 Hz", (cells[0], 100), va="bottom", color=GREY)
        axes.set_xscale("log")
        plain_log_axis(axes, (1.0, 3.0), along="y")
        axes.minorticks_off()
        axes.grid()
        axes.set_xlabel("cells of the map (logarithmic)")
        axes.set_ylabel("a step, ms (logarithmic)")
        axes.legend(frameon=False, loc="upper left")

    return Plot("The flight's filter", "Time of a step by the number of cells.", "filter", paint)


def flight_plots(record: BenchRecord) -> list[Plot]:
    """The pictures that the record has figures for, in reading order."""
    scenarios = flights_of(record)
    found = [error_plot(scenarios), stanford_plot(scenarios), filter_plot(record)]
    if scenarios:
        found += [silence_plot(scenarios), ground_plot(scenarios[0])]
        timed = [one for one in scenarios if one.stages and one.latency is not None]
        found += [stage_plot(timed[0])] if timed else []
    return [plot for plot in found if plot is not None]
