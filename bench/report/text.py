"""A record as tables: text for a terminal, Markdown, and rows that the page shares."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from bench.record import BatchRecord, BenchRecord, MatchRecord
from bench.report.scenarios import accuracy_table, endurance_table, scenario_table, stage_table
from bench.report.table import LATENCY_HEAD, WORDS, Table, gigabytes
from dphr_infer.measure.stats import LatencySummary, format_ms, format_summary

_PEAK = "peak MB"
_EMBED_HEAD = ("embed p50 ms", "images/s", "n")


def match_label(match: MatchRecord) -> str:
    """What was matched, in a few words."""
    kind = "random" if match.generated else "gallery"
    threads = f", {match.threads} threads" if match.threads else ""
    prior = "" if match.prior_m is None else f", prior {match.prior_m:g} m: {match.allowed_rows:,} rows"
    return f"{match.rows:,} x {match.dim} {match.dtype}, {match.queries} q, k {match.k}{threads} ({kind}{prior})"


def format_share(share: float, in_cache: bool = False) -> str:
    """Share of a measured limit; a star where the gallery fits in the cache."""
    return f"{share:.{0 if share >= 0.1 else 1}%}" + ("*" if in_cache else "")


def _megabytes(size_mb: float | None) -> str:
    return "" if size_mb is None else f"{size_mb:.0f}"


def machine_table(record: BenchRecord) -> Table:
    """The machine and what was measured on it."""
    m, s = record.machine, record.subject
    memory = f"{gigabytes(m.memory_bytes)} memory; caches {m.caches}"
    rows = [
        ("machine", f"board {m.board}; {m.cpu}; {m.cores} cores; {memory}; hypervisor {m.hypervisor}"),
        ("power", f"{m.power}; mode {m.power_mode}; clocks {m.clocks}; load {m.load:.2f} when the run began"),
        ("graphics", f"GPU {m.gpu}; driver {m.driver}; CUDA {m.cuda}; TensorRT {m.tensorrt}; JetPack {m.jetpack}"),
        (
            "ceilings",
            f"read bandwidth {gigabytes(record.bandwidth_bytes_per_s)}/s, float32 products "
            f"{record.matmul_flops_per_s / 1e9:.1f} GFLOP/s; measured, at most",
        ),
        ("software", f"{record.program}; {m.system}; Python {m.python}, NumPy {m.numpy}, ONNX Runtime {m.onnxruntime}"),
    ]
    if s.encoder is not None and s.input_px is not None:
        precision = s.precision or "in several precisions"
        rows += [
            ("model", f"{s.encoder} {precision}, input {s.input_px[1]}x{s.input_px[0]} px, {s.dim} dimensions"),
            ("bundle", str(s.bundle_digest)),
        ]
        if s.engine is not None:
            rows.append(("engine", f"{s.engine}, {'several' if s.threads is None else s.threads or 'all'} threads"))
    if s.gallery_rows is not None:
        rows.append(("gallery", f"{s.gallery_rows:,} rows, {s.gallery_dtype}; matcher {s.matcher}, top {s.top_k}"))
    if s.prior is not None:
        rows.append(("prior", s.prior))
    if s.image_px is not None:
        photos = f"{s.n_images} of {s.image_px[1]}x{s.image_px[0]} px, from {s.images_from}"
        rows.append(("photos", f"{photos}; heading {s.heading}, {s.views} view{'s' if s.views != 1 else ''} a photo"))
    if record.peak_memory_bytes is not None:
        rows.append(("peak memory", f"{gigabytes(record.peak_memory_bytes)} of this process while measuring"))
    rows += _power_rows(record)
    rows.append(("own overhead", f"{record.overhead_ns:.0f} ns a sample"))
    rows.append(("date", record.date))
    return Table("Machine and subject", ("", ""), tuple(rows), record.conditions)


def _power_rows(record: BenchRecord) -> list[tuple[str, str]]:
    power = record.power
    if power is None:
        return []
    read = "; ".join(power["sources"]) or "none"
    missing = f"; not read: {'; '.join(power['missing'])}" if power["missing"] else ""
    mean = "" if power["mean_w"] is None else f"mean {power['mean_w']:.2f} W over {', '.join(power['total_rails'])}; "
    return [("sensors", f"{mean}{read}{missing}")]


def batch_kinds(batches: Sequence[BatchRecord]) -> list[str]:
    """What each entry measures beside its batch size: the precision, and of the rest what differs between them."""
    parts = [
        (b.encoder, f"{b.input_width_px}x{b.input_height_px} px", f"{b.threads or 'all'} threads") for b in batches
    ]
    differing = [len(set(column)) > 1 for column in zip(*parts, strict=True)]
    # An engine's name ends in its precision.
    engines_differ = len({b.engine for b in batches}) > len({b.precision for b in batches})
    return [
        ", ".join([b.engine if engines_differ else b.precision, *itertools.compress(words, differing)])
        for b, words in zip(batches, parts, strict=True)
    ]


def batch_table(record: BenchRecord) -> Table:
    """Throughput by batch size, and the embedding's share of its limit."""

    def cells(b: BatchRecord, kind: str) -> tuple[str, ...]:
        limit = b.embed_limit
        limits = ("", "", "") if limit is None else (f"{limit.flops / 1e9:.2f}", format_ms(limit.floor_ms), "")
        if limit is not None:
            limits = (*limits[:2], f"{format_share(limit.share)} {limit.bound}")
        locate = ("", "", "")
        if b.locate is not None and b.locate_images_per_s is not None:
            locate = (format_ms(b.locate.p50_ms), f"{b.locate_images_per_s:.1f}", str(b.locate.n))
        embed = (format_ms(b.embed.p50_ms), f"{b.embed_images_per_s:.1f}", str(b.embed.n))
        return (f"{b.batch} {kind}", *embed, *limits, *locate, _megabytes(b.peak_memory_mb))

    return Table(
        "Throughput by batch size",
        ("batch", *_EMBED_HEAD, "GFLOP", "limit ms", "of limit", "locate p50 ms", "images/s", "n", _PEAK),
        tuple(cells(b, kind) for b, kind in zip(record.batches, batch_kinds(record.batches), strict=True)),
        "embed is the engine alone on images at model size; locate is everything but decoding. Rates are of the p50. "
        "The limit is the later of the graph's operations at the measured rate of float32 products, and of its "
        "weights, input and output at the measured read bandwidth, both by as many threads as the engine has; the last "
        "word says which.",
    )


def match_table(record: BenchRecord) -> Table:
    """Matching alone beside its limit."""
    rows = [
        (
            match_label(m),
            *format_summary(m.latency),
            f"{m.read_bytes / 1e6:.1f}",
            format_ms(m.limit_ms),
            format_share(m.bandwidth_share, m.in_cache),
            _megabytes(m.peak_memory_mb),
        )
        for m in record.matching
    ]
    note = (
        "The limit is one read of the rows at the bandwidth of as many threads as the matcher has, at most "
        f"{gigabytes(record.bandwidth_bytes_per_s)}/s; the share is limit / p50. q: queries matched at once. A float16 "
        "gallery is widened to float32 once where that takes 1 GiB at most: the matcher then reads twice the bytes "
        "that the limit counts."
    )
    if any(match.in_cache for match in record.matching):
        note += " * What is read fits in the last-level cache, where this limit does not bind."
    head = ("case", *LATENCY_HEAD, "MB read", "limit ms", "of bandwidth", _PEAK)
    return Table("Matching alone", head, tuple(rows), note)


def startup_table(record: BenchRecord) -> Table | None:
    """Cold and warm starts."""
    start = record.startup_ms
    if start is None:
        return None
    rows = [
        ("dphr-infer locate, cold", "1", format_ms(start["cold"]), "", "", "", format_ms(start["cold"])),
        ("dphr-infer locate, warm", *format_summary(LatencySummary(**start["warm"]))),
    ]
    note = (
        "From the start of the process until the position of one photo is printed. Cold: bundle, gallery and photo "
        "were dropped from the file cache first. Until the process has ended: "
        f"{format_ms(start['exit_p50'])} ms at the median."
    )
    if start["peak_memory_bytes"] is not None:
        note += f" Peak memory of a process: {start['peak_memory_bytes'] / 1e6:.0f} MB."
    if record.cold_first_ms is not None:
        first = format_ms(record.cold_first_ms)
        note += f" The first photo in this process, engine and matcher just opened: {first} ms."
    return Table("Start-up", ("process", *LATENCY_HEAD), tuple(rows), note)


def peer_table(record: BenchRecord) -> Table | None:
    """Others beside ours."""
    if not record.peers:
        return None
    rows = []
    for peer in record.peers:
        label = f"{peer.task}: {peer.name} {peer.version}"
        if peer.latency is None or peer.times_ours is None or peer.times_ours_quartiles is None:
            rows.append((label, "", "", "", "", peer.failure))
            continue
        low, high = peer.times_ours_quartiles
        recall = "" if peer.recall is None else f"{peer.recall:.4f}"
        ratio = f"{peer.times_ours:.2f} ({low:.2f}..{high:.2f})"
        rows.append((label, str(peer.latency.n), format_ms(peer.latency.p50_ms), ratio, recall, ""))
    return Table(
        "Peers",
        ("peer", "n", "p50 ms", "times ours (quartiles)", "recall", "found"),
        tuple(rows),
        "All take turns, call by call, on the same input. Times ours: median of the ratios of the calls of one turn; "
        "above 1 is slower than ours. Recall: share of our answers that the peer gave, in any order.",
    )


def left_out_table(record: BenchRecord) -> Table | None:
    """What was asked for and not measured."""
    if not record.left_out:
        return None
    return Table("Not measured", ("", ""), tuple(record.left_out.items()), "")


def tables(record: BenchRecord) -> list[Table]:
    """All tables that have something to say, in reading order; the machine's is the last."""
    found = [
        accuracy_table(record),
        stage_table(record),
        scenario_table(record),
        endurance_table(record),
        batch_table(record) if record.batches else None,
        match_table(record) if record.matching else None,
        startup_table(record),
        peer_table(record),
        left_out_table(record),
        machine_table(record),
    ]
    return [table for table in found if table is not None]


def verdict(record: BenchRecord) -> list[str]:
    """What a reader must know before any figure; empty where all is well."""
    lines = [f"INVALID: {reason}." for reason in record.invalid_reasons]
    if record.interrupted:
        lines.append("INTERRUPTED: the run was ended early; what was measured until then follows.")
    if record.failure:
        lines.append(f"ENDED EARLY: {record.failure} What was measured until then follows.")
    return lines + [f"NOTE: {flag}" for flag in record.flags]


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [list(head), *map(list, rows)] if any(head) else [list(row) for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = []
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        if len(line) == 2:
            cells.append(line[1])
        else:
            cells += [
                cell.ljust(width) if title in WORDS else cell.rjust(width)
                for cell, width, title in zip(line[1:], widths[1:], head[1:], strict=True)
            ]
        text.append("  ".join(cells).rstrip())
    return text


def to_text(record: BenchRecord) -> str:
    """The whole report for a terminal; the verdict stands first and last."""
    said = "\n".join(verdict(record))
    *measured, machine = tables(record)
    blocks = [said] if said else []
    for table in (machine, *measured):
        lines = ["  " + line for line in _aligned(table.head, table.rows)]
        blocks.append("\n".join(line for line in (table.title, *lines, table.note) if line))
    return "\n\n".join([*blocks, *([said] if said else [])]) + "\n"


def to_markdown(record: BenchRecord) -> str:
    """The whole report as Markdown."""

    def cell(text: str) -> str:
        return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")

    blocks = ["# Latency: " + headline(record), *(f"**{cell(line)}**" for line in verdict(record))]
    for table in tables(record):
        head = table.head if any(table.head) else ("", "")
        lines = ["| " + " | ".join(map(cell, head)) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
        lines += ["| " + " | ".join(map(cell, row)) + " |" for row in table.rows]
        blocks += [f"## {table.title}", "\n".join(lines), *([table.note] if table.note else [])]
    return "\n\n".join(blocks) + "\n"


def headline(record: BenchRecord) -> str:
    """The one figure that a reader looks for, with its count; INVALID stands before it."""
    sign = "" if record.valid else "INVALID: "
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
    return f"{sign}nothing was measured"
