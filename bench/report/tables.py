"""A record as tables: machine, batches, matching, start-up, peers; those of the scenarios are in scenarios.py."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from bench.record import BatchRecord, BenchRecord, MatchRecord
from bench.report.flights import flight_stage_table, flight_table
from bench.report.scenarios import LATENCY_HEAD, WORDS, accuracy_table, endurance_table, scenario_table, stage_table
from dphr_infer.measure.stats import LatencySummary, format_ms, format_summary
from export.report.table import Table

_PEAK = "peak MB"
UNKNOWN = "unknown"
_EMBED_HEAD = ("embed p50 ms", "images/s", "n")


def match_label(match: MatchRecord) -> str:
    """What was matched, in a few words."""
    kind = ("random" if match.generated else "gallery") + (f", {match.matcher}" if match.matcher else "")
    threads = f", {match.threads} threads" if match.threads else ""
    prior = "" if match.prior_m is None else f", prior {match.prior_m:g} m: {match.allowed_rows:,} rows"
    return f"{match.rows:,} x {match.dim} {match.dtype}, {match.queries} q, k {match.k}{threads} ({kind}{prior})"


def format_share(share: float, in_cache: bool = False) -> str:
    """Share of a measured limit; a star where the gallery fits in the cache."""
    return f"{share:.{0 if share >= 0.1 else 1}%}" + ("*" if in_cache else "")


def gigabytes(value: float) -> str:
    """Bytes in words."""
    return f"{value / 1e9:.1f} GB"


def _megabytes(size_bytes: int | None) -> str:
    return "" if size_bytes is None else f"{size_bytes / 1e6:.0f}"


def _machine_rows(record: BenchRecord) -> list[tuple[str, str]]:
    m, state = record.machine, record.state
    jetson = f"; Jetson Linux {m.l4t}, JetPack {m.jetpack}" if m.is_jetson else ""
    memory = f"{gigabytes(m.memory_bytes)} memory; caches {m.caches or UNKNOWN}"
    versions = ", ".join(f"{name} {version}" for name, version in m.packages.items())
    return [
        ("machine", f"{m.board or UNKNOWN}{jetson}; {m.cpu}; {m.cores} cores; {memory}"),
        (
            "state",
            f"governor {m.governor or UNKNOWN}; nvpmodel {m.power_mode or 'none'}; "
            f"hypervisor {m.hypervisor or 'none'}; clocks {state.clocks or UNKNOWN}; load {state.load:.2f} when the "
            "run began",
        ),
        (
            "graphics",
            f"GPU {m.gpu or 'none'}; driver {m.driver or 'none'}; CUDA toolkit {m.cuda or 'none'}, driver up to "
            f"{m.cuda_served or UNKNOWN}; TensorRT's library {m.tensorrt or 'none'}",
        ),
        (
            "ceilings",
            f"read bandwidth {gigabytes(record.bandwidth_bytes_per_s)}/s, float32 products "
            f"{record.matmul_flops_per_s / 1e9:.1f} GFLOP/s; measured, at most",
        ),
        ("software", f"{record.program}; {m.system}; Python {m.python}, {versions}"),
    ]


def machine_table(record: BenchRecord) -> Table:
    """The machine and what was measured on it."""
    s, rows = record.subject, _machine_rows(record)
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
    if s.map is not None:
        rows.append(("map", f"{s.map}: photos are registered on it"))
    if s.image_px is not None:
        photos = f"{s.n_images} of {s.image_px[1]}x{s.image_px[0]} px, from {s.images_from}"
        rows.append(("photos", f"{photos}; heading {s.heading}, {s.views} view{'s' if s.views != 1 else ''} per photo"))
    if record.peak_memory_bytes is not None:
        rows.append(("peak memory", f"{gigabytes(record.peak_memory_bytes)} of this process while measuring"))
    rows += _power_rows(record)
    rows.append(("own overhead", f"{record.overhead_ns:.0f} ns per sample"))
    rows.append(("date", record.date))
    return Table("Machine and subject", (), tuple(rows), (record.conditions,))


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
        return (f"{b.batch} {kind}", *embed, *limits, *locate, _megabytes(b.peak_memory_bytes))

    return Table(
        "Throughput by batch size",
        ("batch", *_EMBED_HEAD, "GFLOP", "limit ms", "of limit", "locate p50 ms", "images/s", "n", _PEAK),
        tuple(cells(b, kind) for b, kind in zip(record.batches, batch_kinds(record.batches), strict=True)),
        (
            "embed is the engine alone on images at model size; locate is everything but decoding. Rates are of the "
            "p50. The limit is the later of the graph's operations at the measured rate of float32 products, and of "
            "its weights, input and output at the measured read bandwidth, both by as many threads as the engine has; "
            "the last word says which.",
        ),
    )


def _gpu_cells(match: MatchRecord) -> tuple[str, str, str]:
    """The GPU's own time; what int8 scans that were widened took on the host is not known, since it widens in none."""
    if match.gpu_ms is None:
        return "", "", ""
    host = "" if match.widened or match.rescanned else f"{1e3 * (match.latency.p50_ms - match.gpu_ms):.1f}"
    return format_ms(match.gpu_ms), host, str(match.widened)


def match_table(record: BenchRecord) -> Table:
    """Matching alone beside its limit."""
    on_gpu = any(match.gpu_ms is not None for match in record.matching)
    rows = [
        (
            match_label(m),
            *format_summary(m.latency),
            f"{m.read_bytes / 1e6:.1f}",
            format_ms(m.limit_ms),
            format_share(m.bandwidth_share, m.in_cache),
            _megabytes(m.peak_memory_bytes),
            *(_gpu_cells(m) if on_gpu else ()),
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
    head: tuple[str, ...] = ("case", *LATENCY_HEAD, "MB read", "limit ms", "of bandwidth", _PEAK)
    if on_gpu:
        head = (*head, "GPU ms", "host us", "widened")
        note += " GPU ms: by its events, copies included; host us: what the p50 takes beyond that."
    return Table("Matching alone", head, tuple(rows), (note,))


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
    return Table("Start-up", ("process", *LATENCY_HEAD), tuple(rows), (note,))


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
        (
            "All take turns, call by call, on the same input. Times ours: median of the ratios of the calls of one "
            "turn; above 1 is slower than ours. Recall: share of our answers that the peer gave, in any order.",
        ),
        WORDS,
    )


def left_out_table(record: BenchRecord) -> Table | None:
    """What was asked for and not measured."""
    if not record.left_out:
        return None
    return Table("Not measured", (), tuple(record.left_out.items()))


def tables(record: BenchRecord) -> list[Table]:
    """All tables that have something to say, in reading order; the machine's is the last."""
    found = [
        accuracy_table(record),
        flight_table(record),
        flight_stage_table(record),
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
