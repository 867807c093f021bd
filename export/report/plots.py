"""The exporter's pictures. The only file of it that imports matplotlib."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable
from pathlib import Path

from dphr_infer.errors import ExportError, MissingPackageError, printable
from dphr_infer.files.atomic import atomic_file
from export.int8.sensitivity import LayerSensitivity, rank

MAX_ROWS = 40
# Blue stays int8, orange goes back to half precision: apart in grey and for the colour-blind too.
_INT8, _HALF, _GREY = "#1f6fb2", "#d9730d", "#8a8f98"
_WIDTH_IN, _ROW_IN, _FRAME_IN = 8.0, 0.2, 1.3
_DPI = 130


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
        axes.grid(axis="x", color="#e3e5e8", linewidth=0.8)
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
