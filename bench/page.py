"""A record as one HTML page that needs no network: style and pictures are inside."""

from __future__ import annotations

from html import escape

from bench.plots import Plot, plots
from bench.record import BenchRecord
from bench.report import Table, tables
from bench.stats import format_ms

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
.facts td { white-space: normal; text-align: left; overflow-wrap: anywhere; vertical-align: top; }
.facts td:first-child { color: #4b5259; white-space: nowrap; }
.note { color: #4b5259; font-size: .88rem; max-width: 50rem; }
"""


def _table(table: Table) -> str:
    facts = not any(table.head)
    head = "" if facts else "<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in table.head) + "</tr>"
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    body = f"<table{' class=facts' if facts else ''}>{head}{rows}</table>"
    return f'<h2>{escape(table.title)}</h2><div class="scroll">{body}</div><p class="note">{escape(table.note)}</p>'


def _figure(plot: Plot) -> str:
    svg = plot.svg.replace("<svg", f'<svg role="img" aria-label="{escape(plot.title)}"', 1)
    return f"<figure><figcaption><b>{escape(plot.title)}</b>{escape(plot.caption)}</figcaption>{svg}</figure>"


def to_html(record: BenchRecord) -> str:
    """The page as text.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    subject, end = record.subject, record.end_to_end
    lead = (
        f"{subject.encoder} {subject.precision}, {subject.gallery_rows:,} gallery rows, {record.machine.cpu}, "
        f"{record.machine.cores} cores, power {record.machine.power}; median of {end.n} calls, {record.date}."
    )
    machine, *measured = tables(record)
    title = f"A photo located in {format_ms(end.p50_ms)}\u00a0ms (median of {end.n})"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>"
        f'<h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>'
        f'<div class="plots">{"".join(map(_figure, plots(record)))}</div>'
        f"{''.join(map(_table, measured))}{_table(machine)}</body></html>\n"
    )
