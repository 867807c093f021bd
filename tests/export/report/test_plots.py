from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dphr_infer.errors import ExportError
from export.int8.sensitivity import LayerSensitivity
from export.report.plots import MAX_ROWS, Bar, BarGroup, bars_to_svg, plot_sensitivity

ORANGE, BLUE = (217, 115, 13), (31, 111, 178)


def table(rows: int) -> list[LayerSensitivity]:
    return [LayerSensitivity(f"layer{i}", "Conv", 1e-3 / (1 + i), 9) for i in range(rows)]


def draw(path: Path, rows: list[LayerSensitivity], float_layers: tuple[str, ...] = ()) -> np.ndarray:
    plot_sensitivity(rows, path, "a model", float_layers)
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def bars(pixels: np.ndarray, colour: tuple[int, int, int]) -> list[int]:
    """Lengths of the bars of one colour from top to bottom, in pixels."""
    widths = (pixels == colour).all(axis=2).sum(axis=1)
    starts = np.flatnonzero(np.diff(np.concatenate([[0], (widths > 0).astype(int)])) == 1)
    return [int(widths[start + 2]) for start in starts]


def test_the_bars_are_as_long_as_the_losses_and_the_largest_is_first(tmp_path: Path) -> None:
    lengths = bars(draw(tmp_path / "p.png", list(reversed(table(4)))), BLUE)
    assert len(lengths) == 4
    assert [round(lengths[0] / length) for length in lengths] == [1, 2, 3, 4]


def test_layers_given_back_have_another_colour(tmp_path: Path) -> None:
    pixels = draw(tmp_path / "p.png", table(3), ("layer1",))
    legend_entry = 1
    assert len(bars(pixels, ORANGE)) == 1 + legend_entry
    assert len(bars(pixels, BLUE)) == 2 + legend_entry


def test_at_most_40_layers_are_drawn(tmp_path: Path) -> None:
    pixels = draw(tmp_path / "p.png", [LayerSensitivity(f"layer{i}", "Conv", 1e-3, 9) for i in range(60)])
    assert len(bars(pixels, BLUE)) == MAX_ROWS == 40


def test_equal_tables_give_equal_files(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        draw(tmp_path / name, table(5))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_losses_of_zero_are_drawn_and_an_empty_table_is_refused(tmp_path: Path) -> None:
    assert bars(draw(tmp_path / "p.png", [LayerSensitivity("a", "Conv", 0.0, 9)]), BLUE) == []
    with pytest.raises(ExportError, match="0 rows"):
        plot_sensitivity([], tmp_path / "q.png", "a model")
    assert not (tmp_path / "q.png").exists()


def drawn_widths(svg: bytes, colour: str) -> list[float]:
    """Widths of the filled rectangles of one colour, in the order of drawing."""
    paths = re.findall(rf'd="([^"]*)"[^>]*style="fill: {colour}', svg.decode())
    xs = [[float(x) for x in re.findall(r"[ML] ([\d.]+) ", path)] for path in paths]
    return [max(each) - min(each) for each in xs]


def test_bars_of_a_report_are_as_long_as_their_values_with_a_colour_for_each_label() -> None:
    bars = (Bar("a", 1.0, "1 MB", (0.5, 2.0)), Bar("b", 4.0, "4 MB"), Bar("a", 2.0, "2 MB"))
    groups = (BarGroup("first", bars), BarGroup("", (Bar("a", 0.0, "0"),)))
    svg = bars_to_svg(groups, ((2.0, "half"),))
    grey, blue = drawn_widths(svg, "#8a8f98"), drawn_widths(svg, "#1f6fb2")
    assert [round(width / blue[0], 4) for width in (*grey[:2], *blue)] == [0.25, 0.5, 1.0]
    assert svg == bars_to_svg(groups, ((2.0, "half"),)) and svg.startswith(b"<svg")
    assert drawn_widths(bars_to_svg(groups, longest=8.0), "#1f6fb2")[0] == pytest.approx(blue[0] / 2)
