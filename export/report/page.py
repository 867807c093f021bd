"""Tables and bar charts as a page, as Markdown and for a terminal. Knows nothing of bundles; every text is escaped.

The page is one file that needs no network and no script: style and pictures are inside. Charts are drawn as wide as a
phone, so that their letters keep their size there.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape as escape_html

from dphr_infer.errors import printable

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.25rem 1rem 3rem; max-width: 72rem; background: #fff; color: #1c2024;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.45rem; line-height: 1.25; margin: 0 0 .35rem; }
h1, p { overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 2rem 0 .3rem; }
p { margin: .4rem 0 0; max-width: 46rem; }
.lead, .note { color: #4b5259; }
.note { font-size: .88rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 0 2.2rem; }
figure { margin: 1.4rem 0 0; max-width: 26rem; }
figcaption b { display: block; }
figcaption { color: #4b5259; font-size: .88rem; }
figcaption b { color: #1c2024; font-size: 1rem; }
.picture { max-width: 52rem; }
img { display: block; max-width: 100%; height: auto; margin-top: .3rem; }
svg { display: block; width: 100%; height: auto; margin-top: .3rem; font-size: 12px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { text-align: right; vertical-align: top; padding: .28rem 0 .28rem 1.1rem; border-bottom: 1px solid #e3e5e8; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th, td:first-child { color: #4b5259; font-weight: 400; }
th { font-weight: 600; }
td span, th span { white-space: nowrap; }
.facts td + td { text-align: left; overflow-wrap: anywhere; }
.facts td + td span { white-space: normal; }
@media (max-width: 480px) { table { font-size: .82rem; width: 100%; } th, td { padding-left: .6rem; } }
"""
_INK, _QUIET, _LINE = "#1c2024", "#6b7178", "#e3e5e8"
_COLOURS = ("#8a8f98", "#1f6fb2", "#d9730d")
_WIDTH_PX, _LABEL_PX, _TEXT_PX, _ROW_PX, _TITLE_PX = 360, 40, 120, 24, 20
_MARKDOWN = re.compile(r"([\\`*\[\]|<>&])")


@dataclass(frozen=True, slots=True)
class Table:
    """A titled table. The first column is the label of its row; without a head it is a list of facts.

    Attributes:
        note: how to read it; may be empty.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar.

    Attributes:
        label: what it is of; equal labels have one colour.
        length: share of the chart's width, 0 to 1.
        text: its value in words.
        spread: shares of the width between which a thin line shows the spread; None for none.
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


@dataclass(frozen=True, slots=True)
class Chart:
    """Horizontal bars. `ticks` are (share of the width, label) of a scale drawn below; empty where texts suffice."""

    title: str
    caption: str
    groups: tuple[BarGroup, ...]
    ticks: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that lies beside the page as a file, and inside the page too.

    Attributes:
        file: its name; a plain word with .png.
        png: its bytes.
    """

    title: str
    caption: str
    file: str
    png: bytes


@dataclass(frozen=True, slots=True)
class Page:
    """A report in the order of reading: title, a lead sentence, charts, tables, pictures."""

    title: str
    lead: str
    charts: tuple[Chart, ...]
    tables: tuple[Table, ...]
    pictures: tuple[Picture, ...] = ()


def escape(text: str) -> str:
    """Any text as harmless HTML on one line."""
    return escape_html(printable(text))


def _text(x: float, y: float, words: str, fill: str = _INK, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{fill}" text-anchor="{anchor}">{escape(words)}</text>'


def _bar(bar: Bar, top: float, colour: str) -> str:
    left, width = _LABEL_PX, _WIDTH_PX - _LABEL_PX - _TEXT_PX
    middle = top + _ROW_PX / 2
    length = min(1.0, max(0.0, bar.length)) * width
    parts = [
        _text(0, middle + 4, bar.label),
        f'<rect x="{left}" y="{top + 4:.1f}" width="{length:.1f}" height="{_ROW_PX - 8}" rx="2" fill="{colour}"/>',
        _text(_WIDTH_PX, middle + 4, bar.text, anchor="end"),
    ]
    if bar.spread is not None:
        low, high = (left + min(1.0, max(0.0, share)) * width for share in bar.spread)
        parts.append(f'<path d="M{low:.1f} {middle:.1f}H{high:.1f}" stroke="{_INK}" stroke-width="1.5"/>')
    return "".join(parts)


def to_svg(chart: Chart) -> str:
    """A chart as SVG, 360 px wide; what it shows is in its aria-label for those who cannot see it."""
    labels = list(dict.fromkeys(bar.label for group in chart.groups for bar in group.bars))
    parts: list[str] = []
    y = 0.0
    for group in chart.groups:
        if group.title:
            parts.append(_text(_LABEL_PX, y + 15, group.title, _QUIET))
            y += _TITLE_PX
        for bar in group.bars:
            parts.append(_bar(bar, y, _COLOURS[labels.index(bar.label) % len(_COLOURS)]))
            y += _ROW_PX
        y += 6
    lines = []
    for share, label in chart.ticks:
        x = _LABEL_PX + share * (_WIDTH_PX - _LABEL_PX - _TEXT_PX)
        lines.append(f'<path d="M{x:.1f} 0V{y:.1f}" stroke="{_LINE}"/>' + _text(x, y + 13, label, _QUIET, "middle"))
    height = y + (18 if chart.ticks else 0)
    spoken = "; ".join(
        f"{group.title + ', ' if group.title else ''}{bar.label}: {bar.text}"
        for group in chart.groups
        for bar in group.bars
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH_PX} {height:.0f}" role="img" aria-label="{escape(f"{chart.title}: {spoken}")}">'
        f"{''.join(lines + parts)}</svg>"
    )


def _figure(chart: Chart) -> str:
    caption = f"<figcaption><b>{escape(chart.title)}</b>{escape(chart.caption)}</figcaption>"
    return f"<figure>{caption}{to_svg(chart)}</figure>"


def _html_picture(picture: Picture) -> str:
    caption = f"<figcaption><b>{escape(picture.title)}</b>{escape(picture.caption)}</figcaption>"
    source = f"data:image/png;base64,{base64.b64encode(picture.png).decode('ascii')}"
    return f'<figure class="picture">{caption}<img src="{source}" alt="{escape(picture.title)}"></figure>'


def _words(cell: str) -> str:
    """A cell that breaks between words only: a browser would break 2.21–11.0 at its dash."""
    return " ".join(f"<span>{escape(word)}</span>" for word in cell.split(" "))


def _html_table(table: Table) -> str:
    facts = not any(table.head)
    head = "" if facts else "<tr>" + "".join(f"<th>{_words(cell)}</th>" for cell in table.head) + "</tr>"
    rows = "".join("<tr>" + "".join(f"<td>{_words(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    body = f"<table{' class=facts' if facts else ''}>{head}{rows}</table>"
    return f'<h2>{escape(table.title)}</h2><div class="scroll">{body}</div>{note}'


def to_html(page: Page) -> str:
    """The page as one HTML file."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(page.title)}</title><style>{_STYLE}</style></head><body>"
        f'<h1>{escape(page.title)}</h1><p class="lead">{escape(page.lead)}</p>'
        f'<div class="charts">{"".join(map(_figure, page.charts))}</div>'
        f"{''.join(map(_html_table, page.tables))}{''.join(map(_html_picture, page.pictures))}</body></html>\n"
    )


def _markdown(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", printable(text))


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown whose columns stand below each other in a terminal too; control characters are escaped."""
    lines = [[_markdown(cell) for cell in row] for row in (head, *rows)]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(head))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    text = []
    for line in (lines[0], rule, *lines[1:]):
        first, *others = line
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        text.append("| " + " | ".join(cells) + " |")
    return "\n".join(text)


def to_markdown(page: Page) -> str:
    """The page without its charts, as Markdown."""
    blocks = [f"# {_markdown(page.title)}", _markdown(page.lead)]
    for table in page.tables:
        blocks.append(f"## {_markdown(table.title)}")
        if any(table.head):
            blocks.append(markdown_table(table.head, table.rows))
        else:
            blocks.append("\n".join(f"- {_markdown(row[0])}: {_markdown(', '.join(row[1:]))}" for row in table.rows))
        if table.note:
            blocks.append(_markdown(table.note))
    for picture in page.pictures:
        blocks += [f"## {_markdown(picture.title)}", f"![{_markdown(picture.title)}]({picture.file})"]
        blocks.append(_markdown(picture.caption))
    return "\n\n".join(blocks) + "\n"
