"""The picture of a comparison: each metric's change, its interval, and the pairs of runs that it comes from."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from bench.compare.report import Comparison, short_names
from bench.report.plots import BLUE, GREY, ORANGE, RED, Plot

if TYPE_CHECKING:
    from bench.report.plots import Axes

_LINE_IN = 0.42
_FRAME_IN = 1.1


def change_plot(comparison: Comparison, fail_above: float | None) -> Plot:
    """Changes in percent, a line per metric; coloured where pairs of runs leave no doubt."""
    changes = [change for change in comparison.changes if 0 < change.ratio < math.inf]
    names = short_names([change.name for change in changes])

    n_runs = next((change.n[0] for change in changes if change.run_ratios), 0)

    def paint(axes: Axes) -> None:
        for place, change in enumerate(changes):
            if change.run_ratios:
                axes.plot([100 * (r - 1) for r in change.run_ratios], [place] * len(change.run_ratios), "|", color=GREY)
            colour = {"slower": RED, "faster": BLUE}.get(change.verdict, "black")
            if change.low is not None and change.high is not None:
                ends = [100 * (change.low - 1), 100 * (change.high - 1)]
                axes.plot(ends, [place, place], color=colour, linewidth=2.5)
            hollow = "white" if change.no_interval else colour
            axes.plot(100 * (change.ratio - 1), place, "o", color=colour, markerfacecolor=hollow)
        axes.axvline(0, color=GREY, linewidth=1)
        if fail_above is not None:
            axes.axvline(100 * fail_above, color=ORANGE, linewidth=1, linestyle="--")
        axes.set_yticks(range(len(changes)), [name.replace(" (", "\n(", 1) for name in names])
        axes.invert_yaxis()
        axes.margins(y=0.5 / max(1, len(changes)))
        axes.grid(axis="x")
        marks = "bar: 95 % interval" + ("; ticks: pairs of runs" if n_runs else "")
        axes.set_xlabel(f"slower, % (negative: faster)\n{marks}")

    pairs = f"; ticks are its {n_runs} pairs of runs" if n_runs else ""
    caption = f"Change of the p50 with its interval{pairs}. Of pairs, red: slower; blue: faster. Hollow: no interval."
    name = Path(comparison.candidate).name
    return Plot(
        f"{name} beside {Path(comparison.baseline).name}",
        caption,
        f"changes-{name}",
        paint,
        _FRAME_IN + _LINE_IN * max(2, len(changes)),
    )
