"""The exporter's pictures: bars of a report, as SVG, and what each layer costs in int8, as PNG.

The only file of the exporter that imports matplotlib.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dphr_infer.errors import ExportError, MissingPackageError, printable
from dphr_infer.files.atomic import atomic_file
from export.int8.sensitivity import LayerSensitivity, rank

MAX_ROWS = 40
# Blue stays int8, orange goes back to half precision: apart in grey and for the colour-blind too.
_INT8, _HALF, _GREY = "#1f6fb2", "#d9730d", "#8a8f98"
_LINE = "#e3e5e8"
_WIDTH_IN, _ROW_IN, _FRAME_IN = 8.0, 0.2, 1.3
_DPI = 130
_BARS_WIDTH_IN, _BAR_IN, _GAP, _TEXT_SHARE = 3.8, 0.24, 0.7, 0.65
_COLOURS = (_GREY, _INT8, _HALF)
_STYLE: dict[str, Any] = {
    "text.parse_math": False,
    "font.size": 9.0,
    "axes.edgecolor": _GREY,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.bottom": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "dphr",
}


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar.

    Attributes:
        label: what it is of; equal labels have one colour.
        length: in the unit of its chart.
        text: its value in words, written behind it.
        spread: lengths between which a thin line shows the spread; None for none.
    """

    label: str
    length: float
    text: str
    spread: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class BarGroup:
    """Bars under one small title, which may be empty."""

    title: str
    bars: tuple[Bar, ...]


def spoken(groups: Iterable[BarGroup]) -> str:
    """The values of bars in words, for those who cannot see the picture."""
    named = [(f"{group.title}, " if group.title else "", bar) for group in groups for bar in group.bars]
    return "; ".join(f"{title}{bar.label}: {bar.text}" for title, bar in named)


def bars_to_svg(groups: Iterable[BarGroup], ticks: tuple[tuple[float, str], ...] = (), longest: float = 0.0) -> bytes:
    """Horizontal bars from top to bottom, as SVG that is the same each time.

    Args:
        ticks: (length, label) of a scale drawn below; empty where the texts suffice.
        longest: the axis ends there, or at the longest bar or spread where that is longer.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError("matplotlib", "export", "Drawing a report's bars") from error
    named = [(group, bar) for group in groups for bar in group.bars]
    labels = list(dict.fromkeys(bar.label for _, bar in named))
    places = _places([group for group, _ in named])
    ends = [max(bar.length, *(bar.spread or (0.0,))) for _, bar in named]
    axis_end = max(longest, *ends) or 1.0
    height_in = _BAR_IN * (places[-1] + 1 + 1.5 * bool(ticks))
    with rc_context(dict[Any, Any](_STYLE)):
        figure = Figure(figsize=(_BARS_WIDTH_IN, height_in), layout="constrained")
        axes = figure.subplots()
        for (group, bar), place, end in zip(named, places, ends, strict=True):
            colour = _COLOURS[labels.index(bar.label) % len(_COLOURS)]
            axes.barh(place, bar.length, color=colour, height=0.7)
            if bar.spread is not None:
                axes.plot(bar.spread, (place, place), color="black", linewidth=1.2)
            axes.annotate(
                bar.text, (end, place), (4, 0), textcoords="offset points", va="center", annotation_clip=False
            )
            if group.title and bar is group.bars[0]:
                axes.text(0, place - 0.55, group.title, color=_GREY, va="bottom")
        axes.set_yticks(places, [bar.label for _, bar in named])
        axes.set_ylim(places[-1] + 0.5, -0.5)
        axes.set_xlim(0, axis_end * (1 + _TEXT_SHARE))
        axes.set_xticks([length for length, _ in ticks], [label for _, label in ticks])
        axes.grid(axis="x", color=_LINE)
        axes.tick_params(length=0)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    svg = text.getvalue()
    return svg[svg.index("<svg") :].encode()


def _places(groups: list[BarGroup]) -> list[float]:
    """Places of bars along the axis: a group with a title leaves room for it, and each group a gap before it."""
    places: list[float] = []
    place = -1.0
    for number, group in enumerate(groups):
        begins = number == 0 or group is not groups[number - 1]
        place += 1 + begins * ((_GAP if group.title else 0) + 0.3 * bool(number))
        places.append(place)
    return places


def plot_sensitivity(
    table: Iterable[LayerSensitivity], path: Path, title: str, float_layers: Collection[str] = ()
) -> None:
    """Draw the layers' cosine losses as bars, largest first, at most 40, as a PNG.

    Args:
        title: any text, as the names of layers: none of it is read as a formula, and what cannot be shown is escaped.
        float_layers: drawn in another colour, as given back to half precision.

    Raises:
        ExportError: the table is empty.
        MissingPackageError: matplotlib is not installed.
        StorageError: the file cannot be written.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
    except ImportError as error:
        raise MissingPackageError("matplotlib", "export", "Drawing the sensitivity of layers") from error
    ranked = rank(table)
    if not ranked:
        raise ExportError("The sensitivity table has 0 rows: there is nothing to draw. Measure it first.")
    rows = ranked[:MAX_ROWS]
    with rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a box stands for a character that the font lacks
        figure = Figure(figsize=(_WIDTH_IN, _FRAME_IN + _ROW_IN * len(rows)), dpi=_DPI, layout="constrained")
        axes = figure.subplots()
        places = range(len(rows))
        colours = [_HALF if row.layer in float_layers else _INT8 for row in rows]
        bars = axes.barh(places, [row.cosine_loss for row in rows], color=colours, height=0.7)
        axes.bar_label(bars, [f"{row.cosine_loss:.1e}" for row in rows], padding=3, fontsize=7)
        names = [printable(row.layer + row.op.removeprefix(row.op.split()[0])) for row in rows]
        axes.set_yticks(places, names, fontsize=7.5)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.margins(x=0.08)
        axes.grid(axis="x", color=_LINE, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="both", color=_GREY)
        axes.set_xlabel("1 - mean cosine with this layer alone in int8")
        shown = "" if len(rows) == len(ranked) else f" (worst {len(rows)} of {len(ranked)} layers)"
        axes.set_title(f"{printable(title)}{shown}", loc="left", fontsize=10)
        if float_layers:
            patches = (Patch(color=_HALF, label="given back to half precision"), Patch(color=_INT8, label="int8"))
            figure.legend(handles=list(patches), loc="outside lower right", ncols=2, fontsize=8, frameon=False)
        with atomic_file(path) as part:
            figure.savefig(part, format="png", metadata={"Software": None})
