"""A record as text for a terminal, and as rows that the page shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.record import BenchRecord, MatchRecord
from bench.stats import format_ms, format_summary

LATENCY_HEAD = ("n", "p50 ms", "p90 ms", "p99 ms", "max ms")


@dataclass(frozen=True, slots=True)
class Table:
    """A titled table; cells are text, the first column is its label. `note` says how to read it."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str


def match_label(match: MatchRecord) -> str:
    """What was matched, in a few words."""
    kind = "random" if match.generated else "gallery"
    return f"{match.rows:,} x {match.dim} {match.dtype}, {match.queries} q, k {match.k} ({kind})"


def format_share(match: MatchRecord) -> str:
    """Share of the measured bandwidth; a star where the gallery fits in the cache."""
    digits = 0 if match.bandwidth_share >= 0.1 else 1
    return f"{match.bandwidth_share:.{digits}%}" + ("*" if match.in_cache else "")


def _gigabytes(value: float) -> str:
    return f"{value / 1e9:.1f} GB"


def machine_table(record: BenchRecord) -> Table:
    """The machine and what was measured on it."""
    m, s = record.machine, record.subject
    busy = ": other programs ran too, durations are longer than on an idle machine" if m.load > m.cores / 2 else ""
    rows = (
        ("machine", f"board {m.board}; {m.cpu}; {m.cores} cores; {_gigabytes(m.memory_bytes)} memory"),
        ("power", f"{m.power}; load {m.load:.2f} when the run began{busy}"),
        ("read bandwidth", f"{_gigabytes(record.bandwidth_bytes_per_s)}/s, measured, all cores"),
        ("software", f"{m.system}; Python {m.python}, NumPy {m.numpy}, ONNX Runtime {m.onnxruntime}"),
        ("model", f"{s.encoder} {s.precision}, input {s.input_px[1]}x{s.input_px[0]} px, {s.dim} dimensions"),
        ("bundle", s.bundle_digest),
        ("engine", f"{s.engine}, {s.threads or 'all'} threads; matcher {s.matcher}, top {s.top_k}"),
        ("gallery", f"{s.gallery_rows:,} rows, {s.gallery_dtype}"),
        ("photos", f"{s.n_images} of {s.image_px[1]}x{s.image_px[0]} px, from {s.images_from}"),
        ("heading", f"{s.heading}, {s.views} view{'s' if s.views > 1 else ''} a photo"),
        ("date", record.date),
    )
    return Table("Machine and subject", ("", ""), rows, record.conditions)


def stage_table(record: BenchRecord) -> Table:
    """Each stage, their sum, and the photo in one piece."""
    total = sum(summary.p50_ms for summary in record.stages.values())
    rows = [
        (name, *format_summary(summary), f"{summary.p50_ms / total:.0%}") for name, summary in record.stages.items()
    ]
    rows.append(("end to end", *format_summary(record.end_to_end), ""))
    share = record.difference_p50_ms / record.end_to_end.p50_ms
    return Table(
        "One photo, from file to position",
        ("stage", *LATENCY_HEAD, "share"),
        tuple(rows),
        "End to end minus the sum of its stages, median over photos: "
        f"{record.difference_p50_ms:+.3f} ms ({share:+.1%}).",
    )


def batch_table(record: BenchRecord) -> Table:
    """Throughput by batch size."""
    rows = [
        (
            str(b.batch),
            format_ms(b.embed.p50_ms),
            f"{b.embed_images_per_s:.1f}",
            str(b.embed.n),
            format_ms(b.locate.p50_ms),
            f"{b.locate_images_per_s:.1f}",
            str(b.locate.n),
        )
        for b in record.batches
    ]
    return Table(
        "Throughput by batch size",
        ("batch", "embed p50 ms", "images/s", "n", "locate p50 ms", "images/s", "n"),
        tuple(rows),
        "embed is the engine alone on images at model size; locate is everything but decoding. Rates are of the p50.",
    )


def match_table(record: BenchRecord) -> Table:
    """Matching alone beside its limit."""
    rows = [
        (
            match_label(m),
            *format_summary(m.latency),
            f"{m.read_bytes / 1e6:.1f}",
            format_ms(m.limit_ms),
            format_share(m),
        )
        for m in record.matching
    ]
    note = (
        f"The limit is one read of the gallery at the measured {_gigabytes(record.bandwidth_bytes_per_s)}/s; the share "
        "is limit / p50. q: queries matched at once."
    )
    if any(match.in_cache for match in record.matching):
        note += " * The gallery fits in the last-level cache, where this limit does not bind."
    return Table("Matching alone", ("case", *LATENCY_HEAD, "MB read", "limit ms", "of bandwidth"), tuple(rows), note)


def tables(record: BenchRecord) -> list[Table]:
    """All tables in reading order."""
    return [machine_table(record), stage_table(record), batch_table(record), match_table(record)]


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [list(head), *map(list, rows)] if any(head) else [list(row) for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = []
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        if len(line) == 2:
            cells.append(line[1])
        else:
            cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        text.append("  ".join(cells).rstrip())
    return text


def to_text(record: BenchRecord) -> str:
    """The whole report for a terminal."""
    blocks = []
    for table in tables(record):
        blocks.append("\n".join([table.title, *("  " + line for line in _aligned(table.head, table.rows)), table.note]))
    return "\n\n".join(blocks) + "\n"
