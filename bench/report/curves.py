"""The page's pictures across cases: the roofline, matching by gallery size, and the machine over time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bench.record import ENDURANCE, BenchRecord, MatchRecord
from bench.report.plots import BLUE, COLOURS, GREY, Plot, plain_log_axis

if TYPE_CHECKING:
    from bench.report.plots import Axes

_FEWEST_SIZES = 2
_FEWEST_READINGS = 3
_TALL_IN = 3.6


def roofline_points(record: BenchRecord) -> list[tuple[str, float, float, str]]:
    """(label, operations a byte, operations a second, kind) of every batch and every search.

    A search of Q queries over N rows of D values is 2 Q N D operations on the rows' bytes; a batch is the operations
    and least bytes counted from the graph.
    """
    points = []
    for entry in record.batches:
        if (limit := entry.embed_limit) is not None:
            rate = 1e3 * limit.flops / entry.embed.p50_ms
            points.append((f"{entry.batch}", limit.flops / limit.least_bytes, rate, "embed, by batch"))
    for match in record.matching:
        read_rows = match.rows if match.allowed_rows is None else match.allowed_rows
        flops = 2 * match.queries * read_rows * match.dim
        rate = 1e3 * flops / match.latency.p50_ms
        points.append((f"{match.queries}", flops / match.read_bytes, rate, f"match {match.dtype}, by queries"))
    return points


def roofline_plot(record: BenchRecord) -> Plot:
    """Every case under the two measured ceilings."""
    points = roofline_points(record)
    ridge = record.matmul_flops_per_s / record.bandwidth_bytes_per_s
    intensities = np.geomspace(min(0.1, *(p[1] for p in points)), max(10 * ridge, *(1.5 * p[1] for p in points)), 200)
    roof = np.minimum(record.matmul_flops_per_s, intensities * record.bandwidth_bytes_per_s) / 1e9

    def paint(axes: Axes) -> None:
        axes.plot(intensities, roof, color=GREY, label="measured ceiling")
        for kind, colour in zip(dict.fromkeys(p[3] for p in points), COLOURS, strict=False):
            mine = [p for p in points if p[3] == kind]
            axes.plot([p[1] for p in mine], [p[2] / 1e9 for p in mine], "o", color=colour, label=kind, markersize=5)
        plain_log_axis(axes, (1.0,))
        plain_log_axis(axes, (1.0,), along="y")
        axes.grid()
        axes.set_xlabel("operations a byte (logarithmic)")
        axes.set_ylabel("GFLOP/s (logarithmic)")
        axes.legend(frameon=False, fontsize=8, loc="lower right")

    caption = (
        f"Ceilings as measured: {record.bandwidth_bytes_per_s / 1e9:.1f} GB/s read, "
        f"{record.matmul_flops_per_s / 1e9:.0f} GFLOP/s in float32 products. What the cache holds may lie above."
    )
    return Plot("Roofline", caption, "roofline", paint, _TALL_IN)


def _curves(matching: tuple[MatchRecord, ...]) -> dict[str, list[MatchRecord]]:
    """Searches that differ in their rows alone, for those of at least two sizes; sorted by rows."""
    found: dict[str, list[MatchRecord]] = {}
    for match in matching:
        if match.prior_m is None:
            threads = f", {match.threads} threads" if match.threads else ""
            label = f"{match.dtype}, D {match.dim}, {match.queries} q, k {match.k}{threads}"
            found.setdefault(label, []).append(match)
    sized = {label: sorted(curve, key=lambda m: m.rows) for label, curve in found.items()}
    return {label: curve for label, curve in sized.items() if len({m.rows for m in curve}) >= _FEWEST_SIZES}


def gallery_size_plot(matching: tuple[MatchRecord, ...]) -> Plot | None:
    """Latency by gallery size, beside one read of the rows; None where no two sizes compare."""
    curves = _curves(matching)
    if not curves:
        return None
    shown = dict(list(curves.items())[: len(COLOURS)])

    def paint(axes: Axes) -> None:
        for (label, curve), colour in zip(shown.items(), COLOURS, strict=False):
            rows = [m.rows for m in curve]
            axes.plot(rows, [m.latency.p50_ms for m in curve], "o-", color=colour, label=label, markersize=4)
            axes.plot(rows, [m.limit_ms for m in curve], "--", color=colour, linewidth=0.8, alpha=0.7)
        axes.set_xscale("log")
        axes.minorticks_off()
        plain_log_axis(axes, (1.0, 3.0), along="y")
        axes.grid()
        axes.set_xlabel("gallery rows (logarithmic)")
        axes.set_ylabel("p50, ms (logarithmic)")
        axes.legend(frameon=False, fontsize=8, loc="upper left")

    left = len(curves) - len(shown)
    caption = "Dashed: one read of the rows at the measured bandwidth." + (f" {left} more not drawn." * bool(left))
    return Plot("Matching by gallery size", caption, "gallery-size", paint, _TALL_IN)


def _readings(timeline: tuple[dict[str, Any], ...], key: str) -> dict[str, tuple[list[float], list[float]]]:
    """{name: (minutes, values)} of one kind of reading."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    for reading in timeline:
        for name, value in reading[key].items():
            minutes, values = found.setdefault(name, ([], []))
            minutes.append(reading["t_s"] / 60)
            values.append(value)
    return {name: series for name, series in found.items() if len(series[0]) >= _FEWEST_READINGS}


def timeline_plots(record: BenchRecord) -> list[Plot]:
    """Temperatures, clocks and power over the run, one picture for each that was read."""
    kinds = (("temperature_c", "Temperatures", "°C"), ("clock_mhz", "Clocks", "MHz"), ("power_w", "Power", "W"))
    found = []
    for key, title, unit in kinds:
        series = _readings(record.timeline, key)
        if not series:
            continue
        # Cores of one machine run together: the widest-ranging few tell the story.
        widest = sorted(series, key=lambda name: max(series[name][1]) - min(series[name][1]), reverse=True)
        shown = sorted(widest[: len(COLOURS)])

        def paint(axes: Axes, shown: list[str] = shown, unit: str = unit, series: dict = series) -> None:  # type: ignore[type-arg]
            for name, colour in zip(shown, COLOURS, strict=False):
                axes.plot(*series[name], color=colour, label=name, linewidth=1.2)
            axes.set_xlabel("minutes since the recording began")
            axes.set_ylabel(unit)
            axes.grid(axis="y")
            axes.legend(frameon=False, fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))

        left = len(series) - len(shown)
        caption = f"{len(record.timeline)} readings." + (f" {left} of {len(series)} not drawn." if left else "")
        found.append(Plot(title, caption, f"timeline-{key}", paint))
    return found


def endurance_plot(record: BenchRecord) -> Plot | None:
    """The p50 of each window of the endurance scenario."""
    scenario = record.scenario(ENDURANCE)
    if scenario is None:
        return None
    windows = [window for window in scenario.extra["windows"] if window["p50_ms"] is not None]
    if len(windows) < _FEWEST_READINGS:
        return None

    def paint(axes: Axes) -> None:
        axes.plot([w["t_s"] / 60 for w in windows], [w["p50_ms"] for w in windows], "o-", color=BLUE, markersize=4)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("minutes")
        axes.set_ylabel("p50, ms")
        axes.grid(axis="y")

    caption = f"Median of each of {len(windows)} windows of the endurance scenario."
    return Plot("Latency over time", caption, "endurance", paint)


def curve_plots(record: BenchRecord) -> list[Plot]:
    """The pictures that the record has figures for, in reading order.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    found = [endurance_plot(record), gallery_size_plot(record.matching)]
    if roofline_points(record):
        found.append(roofline_plot(record))
    return [plot for plot in (*found, *timeline_plots(record)) if plot is not None]
