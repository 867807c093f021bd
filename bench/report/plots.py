"""The page's pictures of one run, and how any picture is drawn."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.record import CAMERA, FILTER_STEP, FLIGHT, MULTI_STREAM, OFFLINE, SINGLE_STREAM, BenchRecord, ScenarioRecord
from bench.report.tables import batch_kinds, format_share
from dphr_infer.errors import ConfigError, MissingPackageError
from dphr_infer.files.atomic import atomic_file
from dphr_infer.measure.stats import format_ms
from export.report.page import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Axes

END_TO_END = "end to end"
BLUE, ORANGE, GREY, RED = "#1f6fb2", "#d9730d", "#8a8f98", "#b3261e"
COLOURS = (BLUE, ORANGE, "#2e7d32", RED, "#6a4c93", GREY)
INK = "#a1540a"
_SIZE_IN = (4.7, 3.1)
_SHEET_COLUMNS = 2
_SHEET_DPI = 110
_TITLE_IN = 0.35
_MAX_BINS = 50
_SKEWED = 4.0
_HEADROOM = 1.15
_TURN_LABELS = 0.75
_STYLE: dict[str, Any] = {
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.axisbelow": True,
    "grid.color": "#e3e5e8",
    "svg.fonttype": "path",
}


@dataclass(frozen=True, slots=True, eq=False)
class Plot:
    """A picture.

    Attributes:
        title, caption: what it shows, also for those who cannot see it.
        name: of the picture among others of a page.
        paint: puts it on axes.
        height_in: inches; the width is the same for all.
    """

    title: str
    caption: str
    name: str
    paint: Callable[[Axes], None]
    height_in: float = _SIZE_IN[1]

    def to_picture(self) -> Picture:
        """As a picture of a page, in SVG; the same each time.

        Raises:
            MissingPackageError: matplotlib is not installed.
        """
        check_drawing()
        import matplotlib
        from matplotlib.figure import Figure

        with matplotlib.rc_context({**_STYLE, "svg.hashsalt": self.name}):
            figure = Figure(figsize=(_SIZE_IN[0], self.height_in), layout="constrained")
            self.paint(figure.subplots())
            text = io.StringIO()
            figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
        svg = text.getvalue()
        return Picture(self.title, self.caption, svg[svg.index("<svg") :].encode())


def check_drawing() -> None:
    """Whether pictures can be drawn.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingPackageError("matplotlib", "bench", "Drawing the pictures") from error


def write_sheet(path: Path, title: str, plots: Sequence[Plot]) -> None:
    """All plots on one sheet, as PNG.

    Raises:
        ConfigError: there is no plot.
        MissingPackageError: matplotlib is not installed.
        StorageError: it cannot be written.
    """
    if not plots:
        raise ConfigError(f"{path} would be an empty sheet: nothing with a picture was measured.")
    check_drawing()
    import matplotlib
    from matplotlib.figure import Figure

    columns = min(_SHEET_COLUMNS, len(plots))
    lines = [plots[first : first + columns] for first in range(0, len(plots), columns)]
    heights = [max(plot.height_in for plot in line) + _TITLE_IN for line in lines]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(columns * _SIZE_IN[0], sum(heights) + _TITLE_IN), layout="constrained")
        figure.suptitle(title, fontsize=12)
        cells = figure.subfigures(len(lines), columns, squeeze=False, height_ratios=heights)
        for line, row in zip(lines, cells, strict=True):
            for plot, cell in zip(line, row, strict=False):
                cell.suptitle(plot.title, fontsize=10.5, fontweight="bold")
                plot.paint(cell.subplots())
        with atomic_file(path) as temporary:
            figure.savefig(temporary, format="png", dpi=_SHEET_DPI, metadata={"Software": None})


def plain_log_axis(axes: Axes, steps: tuple[float, ...], along: str = "x") -> None:
    """A logarithmic axis with few ticks, written as plain numbers: those of matplotlib overlap on a small picture."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    axis = axes.xaxis if along == "x" else axes.yaxis
    (axes.set_xscale if along == "x" else axes.set_yscale)("log")
    axis.set_major_locator(LogLocator(subs=steps, numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.minorticks_off()


def distribution_plot(scenario: ScenarioRecord) -> Plot:
    """Histogram of a scenario's samples, with its percentiles; the scenario has a latency."""
    samples, summary = np.array(scenario.samples_ms), scenario.latency
    if summary is None:
        raise ValueError(f"{scenario.name} has no samples to draw")
    skewed = samples.max() > _SKEWED * summary.p50_ms
    what = {CAMERA: "age of the answer", MULTI_STREAM: "a batch", OFFLINE: "a batch"}.get(scenario.name, END_TO_END)
    marks = (
        ("p50", summary.p50_ms, 1.0),
        ("p90", summary.p90_ms, 0.9),
        ("p99", summary.p99_ms, 0.8),
        ("p99.9", summary.p999_ms, 0.7),
    )

    def paint(axes: Axes) -> None:
        bins = min(_MAX_BINS, 2 + int(2 * len(samples) ** 0.5))
        spread = np.geomspace if skewed else np.linspace
        axes.hist(samples, spread(samples.min(), max(samples.max(), samples.min() * 1.01), bins).tolist(), color=BLUE)
        if skewed:
            plain_log_axis(axes, (1.0, 2.0, 5.0))
        top = _HEADROOM * axes.get_ylim()[1]
        axes.set_ylim(top=top)
        axes.yaxis.get_major_locator().set_params(integer=True)
        left, right = axes.get_xlim()
        for label, value, height in marks:
            if value is not None:
                axes.axvline(value, color=ORANGE, linewidth=1)
                place = math.log(value / left) / math.log(right / left) if skewed else (value - left) / (right - left)
                side = "right" if place > _TURN_LABELS else "left"
                axes.annotate(f" {label} {format_ms(value)} ", (value, top * height), color=INK, va="top", ha=side)
        axes.set_xlabel(f"{what}, ms" + (" (logarithmic)" if skewed else ""))
        axes.set_ylabel("samples")

    caption = f"{summary.n} samples of {what}."
    return Plot(f"Latency distribution, {scenario.name}", caption, f"distribution-{scenario.name}", paint)


def stage_plot(scenario: ScenarioRecord) -> Plot:
    """Median of each stage, and of the whole; the scenario has a latency."""
    whole_ms = 0.0 if scenario.latency is None else scenario.latency.p50_ms
    names = [*scenario.stages, END_TO_END]
    values = [*(summary.p50_ms for summary in scenario.stages.values()), whole_ms]

    def paint(axes: Axes) -> None:
        bars = axes.barh(names, values, color=[BLUE] * len(scenario.stages) + [GREY])
        axes.bar_label(bars, [f" {format_ms(value)}" for value in values])
        axes.invert_yaxis()
        axes.margins(x=0.18)
        axes.set_xlabel("p50, ms")

    return Plot("Stages", "Median of each stage, and of the whole.", "stages", paint)


def throughput_plot(record: BenchRecord) -> Plot:
    """Images a second by batch size."""
    sizes = sorted({entry.batch for entry in record.batches})
    curves: dict[str, list[tuple[int, float]]] = {}
    kinds = batch_kinds(record.batches)
    several = len(set(kinds)) > 1
    for entry, kind in zip(record.batches, kinds, strict=True):
        words = f" {kind}" if several else ""
        curves.setdefault(f"embed{words}", []).append((entry.batch, entry.embed_images_per_s))
        if entry.locate_images_per_s is not None:
            curves.setdefault(f"locate{words}", []).append((entry.batch, entry.locate_images_per_s))
    shown = dict(list(curves.items())[: len(COLOURS)])

    def paint(axes: Axes) -> None:
        for (label, points), colour in zip(shown.items(), COLOURS, strict=False):
            mark = "s-" if label.startswith("locate") else "o-"
            axes.plot(*zip(*sorted(points), strict=True), mark, color=colour, label=label)
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.margins(x=0.06, y=0.12)
        axes.set_ylim(bottom=0)
        axes.grid(axis="y")
        axes.set_xlabel("batch")
        axes.set_ylabel("images/s")
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)

    left = len(curves) - len(shown)
    caption = "Images a second at the median, by batch size." + (f" {left} more not drawn." if left else "")
    return Plot("Throughput", caption, "throughput", paint, _SIZE_IN[1] + 0.2 * (len(shown) // 2))


def match_plot(record: BenchRecord) -> Plot:
    """Matching beside one read of the gallery at the measured bandwidth."""
    matching = record.matching
    labels = [
        f"{m.rows:,} {m.dtype}\n{m.queries} quer{'y' if m.queries == 1 else 'ies'}"
        + ("" if m.prior_m is None else f", prior {m.prior_m:g} m")
        for m in matching
    ]
    rows = np.arange(len(matching))

    def paint(axes: Axes) -> None:
        measured = [m.latency.p50_ms for m in matching]
        bars = axes.barh(rows - 0.19, measured, 0.36, color=BLUE, label="measured p50")
        axes.barh(rows + 0.19, [m.limit_ms for m in matching], 0.36, color=GREY, label="bandwidth limit")
        shares = [f" {format_share(m.bandwidth_share, m.in_cache)}" for m in matching]
        axes.bar_label(bars, shares)
        plain_log_axis(axes, (1.0, 3.0))
        axes.set_yticks(rows, labels)
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.set_xlabel("ms (logarithmic)")
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=2)

    caption = "p50 beside one read of the gallery; the figure is the share of the measured bandwidth."
    if any(match.in_cache for match in matching):
        caption += " * In cache: the limit does not bind."
    return Plot("Matching against its limit", caption, "match", paint, max(_SIZE_IN[1], 0.55 * len(matching)))


def run_plots(record: BenchRecord) -> list[Plot]:
    """The pictures that the record has figures for, in reading order.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    drawn = [one for one in record.scenarios if one.latency is not None and one.name not in (FLIGHT, FILTER_STEP)]
    found = [distribution_plot(scenario) for scenario in drawn]
    single = record.scenario(SINGLE_STREAM)
    if single is not None and single.latency is not None:
        found.insert(1, stage_plot(single))
    if record.batches:
        found.append(throughput_plot(record))
    if record.matching:
        found.append(match_plot(record))
    return found
