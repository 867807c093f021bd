"""A record for a terminal, as Markdown and as one HTML page, by the table and the page of every report."""

from __future__ import annotations

from collections.abc import Sequence

from bench.record import BenchRecord
from bench.report.curves import curve_plots
from bench.report.flight_plots import flight_plots
from bench.report.flights import flights_of
from bench.report.plots import Plot, run_plots
from bench.report.tables import tables
from dphr_infer.errors import printable
from dphr_infer.measure.stats import format_ms
from export.report import page as pages
from export.report.page import Notice, Page, Section, page_to_markdown
from export.report.table import to_text as table_to_text


def verdict(record: BenchRecord) -> list[Notice]:
    """What a reader must know before any figure; empty where all is well."""
    lines = [Notice(f"INVALID: {reason}.", grave=True) for reason in record.invalid_reasons]
    if record.interrupted:
        lines.append(Notice("INTERRUPTED: the run was ended early; what was measured until then follows."))
    if record.failure:
        lines.append(Notice(f"ENDED EARLY: {record.failure} What was measured until then follows."))
    return lines + [Notice(f"NOTE: {flag}") for flag in record.flags]


def headline(record: BenchRecord) -> str:
    """The one figure that a reader looks for, with its count; INVALID stands before it."""
    sign = "" if record.valid else "INVALID: "
    for flights in flights_of(record):
        figures, kind = flights.extra["figures"], flights.settings["kind"]
        available, median, false = (figures.get(n) for n in ("availability", "fix_median_m", "false_fixes"))
        off = "" if median is None or median["value"] is None else f", {median['value']:.2g} m off (median)"
        return (
            f"{sign}{kind} map: a fix in {available['value']:.0%} of {available['n']} frames{off}, {false['k']} of "
            f"{false['n']} false"
        )
    for scenario in record.scenarios:
        if scenario.latency is not None and scenario.name in ("single-stream", "endurance"):
            latency = scenario.latency
            return f"{sign}a photo located in {format_ms(latency.p50_ms)} ms (median of {latency.n})"
    if record.batches:
        batch, embed = record.batches[0].batch, record.batches[0].embed
        return f"{sign}a batch of {batch} embedded in {format_ms(embed.p50_ms)} ms (median of {embed.n})"
    if record.matching:
        m = max(record.matching, key=lambda match: match.rows)
        queries = "1 query" if m.queries == 1 else f"{m.queries} queries"
        median = f"{format_ms(m.latency.p50_ms)} ms (median of {m.latency.n})"
        return f"{sign}{queries} matched with {m.rows:,} x {m.dim} rows in {median}"
    for scenario in record.scenarios:
        if (other := scenario.latency) is not None:
            return f"{sign}{scenario.name} in {format_ms(other.p50_ms)} ms (median of {other.n})"
    return f"{sign}nothing was measured"


def all_plots(record: BenchRecord) -> list[Plot]:
    """Every picture that the record has figures for, in reading order."""
    return [*flight_plots(record), *run_plots(record), *curve_plots(record)]


def _page(record: BenchRecord, plots: Sequence[Plot] = ()) -> Page:
    subject = record.subject
    what = f"{subject.encoder} {subject.precision}, " if subject.encoder else ""
    rows = f"{subject.gallery_rows:,} gallery rows, " if subject.gallery_rows is not None else ""
    machine = f"{record.machine.cpu}, {record.machine.cores} cores"
    title = headline(record)
    sections = [Section(pictures=tuple(plot.to_picture() for plot in plots))] if plots else []
    return Page(
        title[0].upper() + title[1:],
        f"{what}{rows}{machine}; {record.date}.",
        (*sections, Section(tables=tuple(tables(record)))),
        tuple(verdict(record)),
    )


def to_text(record: BenchRecord) -> str:
    """The whole report for a terminal; the verdict stands first and last."""
    said = "\n".join(printable(notice.text) for notice in verdict(record))
    *measured, machine = map(table_to_text, tables(record))
    return "\n\n".join(block for block in (said, machine, *measured, said) if block) + "\n"


def to_markdown(record: BenchRecord) -> str:
    """The whole report as Markdown."""
    return page_to_markdown(_page(record))


def to_html(record: BenchRecord) -> str:
    """One HTML file that loads nothing.

    Raises:
        MissingPackageError: matplotlib or Jinja2 is not installed.
    """
    return pages.to_html(_page(record, all_plots(record)))
