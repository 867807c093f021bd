"""A record as one HTML page that needs no network: style and pictures are inside."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from bench.record import BenchRecord
from bench.report.curves import curve_plots
from bench.report.plots import Plot, run_plots
from bench.report.table import WORDS, Table
from bench.report.text import headline, tables, verdict

_STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; padding: 1.2rem 1rem 3rem; max-width: 66rem; background: #fff; color: #1c2024;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .4rem; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.lead { margin: 0; color: #4b5259; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); gap: 1rem 2rem; }
figure { margin: 1rem 0 0; }
figure svg { width: 100%; height: auto; display: block; }
figcaption { color: #4b5259; font-size: .88rem; }
figcaption b { display: block; color: #1c2024; font-size: 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { text-align: right; padding: .3rem .75rem; border-bottom: 1px solid #e3e5e8; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th { font-weight: 600; color: #4b5259; }
.words { text-align: left; white-space: normal; min-width: 16rem; }
.facts td { white-space: normal; text-align: left; overflow-wrap: anywhere; vertical-align: top; }
.facts td:first-child { color: #4b5259; white-space: nowrap; }
.verdict { margin: 1rem 0 0; padding: .6rem .9rem; border-left: .3rem solid #8a8f98; background: #f3f4f5; }
.invalid { border-color: #b3261e; background: #fceeed; color: #8c1d18; font-weight: 600; }
.note { color: #4b5259; font-size: .88rem; max-width: 50rem; }
"""


def _row(tag: str, cells: Sequence[str], marks: Sequence[str]) -> str:
    inner = "".join(f"<{tag}{mark}>{escape(cell)}</{tag}>" for cell, mark in zip(cells, marks, strict=True))
    return f"<tr>{inner}</tr>"


def _table(table: Table) -> str:
    facts = not any(table.head)
    marks = [" class=words" if title in WORDS else "" for title in table.head]
    head = "" if facts else _row("th", table.head, marks)
    rows = "".join(_row("td", row, marks) for row in table.rows)
    body = f"<table{' class=facts' if facts else ''}>{head}{rows}</table>"
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return f'<h2>{escape(table.title)}</h2><div class="scroll">{body}</div>{note}'


def _verdict(line: str) -> str:
    kind = "verdict invalid" if line.startswith("INVALID") else "verdict"
    return f'<p class="{kind}">{escape(line)}</p>'


def _figure(plot: Plot) -> str:
    svg = plot.to_svg().replace("<svg", f'<svg role="img" aria-label="{escape(plot.title)}"', 1)
    return f"<figure><figcaption><b>{escape(plot.title)}</b>{escape(plot.caption)}</figcaption>{svg}</figure>"


def all_plots(record: BenchRecord) -> list[Plot]:
    """Every picture that the record has figures for, in reading order."""
    return [*run_plots(record), *curve_plots(record)]


def to_html(record: BenchRecord) -> str:
    """The page as text.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    subject = record.subject
    what = f"{subject.encoder} {subject.precision}, " if subject.encoder else ""
    rows = f"{subject.gallery_rows:,} gallery rows, " if subject.gallery_rows is not None else ""
    machine = f"{record.machine.cpu}, {record.machine.cores} cores, power {record.machine.power}"
    lead = f"{what}{rows}{machine}; {record.date}."
    *measured, facts = tables(record)
    title = headline(record)
    title = title[0].upper() + title[1:].replace(" ms", "\u00a0ms")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>"
        f'<h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>{"".join(map(_verdict, verdict(record)))}'
        f'<div class="plots">{"".join(map(_figure, all_plots(record)))}</div>'
        f"{''.join(map(_table, measured))}{_table(facts)}</body></html>\n"
    )
