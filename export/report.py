"""The report of a bundle, and several beside each other: `measure_bundle`, `write_report`, `compare_bundles`.

`write_report` writes report.html (one page, no network), report.md and report.json. report.json is JSON in ASCII with
sorted keys; what was not measured is null:

    format        "dphr-report"
    version       1
    bundle        {"name" of the folder, "digest" sha256 of manifest.json, "encoder", "dim", "height_px", "width_px"}
    precisions    list in the order fp32, fp16, int8, of {"precision", "size_bytes", "size_share" of fp32's bytes,
                  "parity" as in the manifest (drops are fractions), "latency": list of {"batch", "n" rounds, "ms",
                  "ratio_to_fp32"}}; "ms" and "ratio_to_fp32" are {"median", "p10", "p90"}
    engines       list of the fields of `to_tensorrt.EngineReport`: {"precision", "flavour", "version", "gpu",
                  "plan_bytes", "layers" {precision: number}, "seconds", "peak_bytes", "warnings"}
    quantisation  as in the manifest
    origin        as in the manifest
    machine       {"cpu", "cores", "system", "onnxruntime", "threads", where 0 is one a core}
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

from dphr_infer.atomic import atomic_folder
from dphr_infer.bundle import PRECISIONS
from dphr_infer.errors import ExportError
from export.report_measure import (
    BATCHES,
    BundleReport,
    Latency,
    PrecisionReport,
    Spread,
    measure_bundle,
)
from export.report_page import Bar, BarGroup, Chart, Page, Table, markdown_table, to_html, to_markdown

__all__ = ["BundleReport", "compare_bundles", "measure_bundle", "to_json", "to_page", "write_report"]

FORMAT = "dphr-report"
VERSION = 1
_NONE = "–"
_COMPARED = ("size MB", "of fp32", "min cosine", "mean cosine", "R@1 drop", "AP drop", *(f"b{b} ms" for b in BATCHES))
# A cosine is drawn by its nines: 0.9 is one, 0.99 two. Beyond eight, float32 rounds.
_MAX_NINES = 8
_NINES = ((1, "0.9"), (3, "0.999"), (6, "0.999999"))


def to_json(report: BundleReport) -> str:
    """The exact text of report.json; see the head of this file."""
    content = {"format": FORMAT, "version": VERSION, **dataclasses.asdict(report)}
    return json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n"


def _megabytes(value: float, sign: str = "") -> str:
    return f"{value / 1e6:{sign}.2f}"


def _milliseconds(value: float) -> str:
    digits = 2 if value <= 0 else min(4, max(0, 2 - math.floor(math.log10(value))))
    return f"{value:.{digits}f}"


def _points(fraction: float, sign: str = "") -> str:
    return f"{round(100 * fraction, 2) + 0.0:{sign}.2f}"  # + 0.0 turns a rounded -0.0 into 0.0


def _range(value: Spread, unit: str = "") -> str:
    return f"{_milliseconds(value.median)}{unit} ({_milliseconds(value.p10)}–{_milliseconds(value.p90)})"


def _nines(cosine: float) -> float:
    """Share of the chart's width for a cosine; below 0 there is nothing to draw."""
    distance = max(1 - cosine, 10.0**-_MAX_NINES)
    return max(0.0, -math.log10(distance)) / _MAX_NINES


def _by_precision(report: BundleReport, title: str, rows: Sequence[tuple[str, ...]], note: str) -> Table:
    return Table(title, ("", *(entry.precision for entry in report.precisions)), tuple(rows), note)


def precision_table(report: BundleReport) -> Table:
    """Size and parity, a column for each precision."""
    entries = report.precisions
    parities = [entry.parity for entry in entries]
    rows = [
        ("size, MB", *(_megabytes(entry.size_bytes) for entry in entries)),
        ("share of fp32", *(_NONE if e.size_share is None else f"{e.size_share:.1%}" for e in entries)),
        ("smallest cosine", *(_NONE if p is None else f"{p.min_cosine:.7f}" for p in parities)),
        ("mean cosine", *(_NONE if p is None else f"{p.mean_cosine:.7f}" for p in parities)),
        ("R@1 drop, points", *(_NONE if p is None else _points(p.recall_drop) for p in parities)),
        ("AP drop, points", *(_NONE if p is None else _points(p.ap_drop) for p in parities)),
        ("images", *(_NONE if p is None else str(p.n_images) for p in parities)),
    ]
    note = (
        "Cosine, R@1 and AP compare the file that ships with the model it came from, in float32, on the images of the "
        "export's evaluation set. A negative drop is a gain."
    )
    return _by_precision(report, "Size and distance to the reference", rows, note)


def latency_table(report: BundleReport) -> Table:
    """Median and spread for each batch size, and as a ratio to fp32, a column for each precision."""
    entries = report.precisions
    rows = [(f"batch {batch}, ms", *(_range(_at(entry, batch).ms) for entry in entries)) for batch in BATCHES]
    if entries[0].precision == "fp32" and len(entries) > 1:
        for batch in BATCHES:
            ratios = (_at(entry, batch).ratio_to_fp32 for entry in entries[1:])
            cells = (_NONE if ratio is None else _range(ratio, "×") for ratio in ratios)
            rows.append((f"batch {batch}, to fp32", "1", *cells))
    rounds = ", ".join(str(_at(entries[0], batch).n) for batch in BATCHES)
    machine = report.machine
    note = (
        f"Median (10th–90th percentile) of a whole batch on {machine.cpu}, {machine.threads or machine.cores} threads, "
        f"ONNX Runtime {machine.onnxruntime}; {rounds} rounds. Each round runs every precision once, and a ratio is of "
        "one round, so that the machine's noise hits all alike. On a CPU ONNX Runtime computes most of half precision "
        "in float32: these durations say nothing of a GPU."
    )
    return _by_precision(report, "Latency on this machine's CPU", rows, note)


def _at(entry: PrecisionReport, batch: int) -> Latency:
    return next(latency for latency in entry.latency if latency.batch == batch)


def engine_table(report: BundleReport) -> Table:
    """The engine builds that were given."""
    rows = tuple(
        (
            build.precision,
            f"{build.flavour} {build.version}, {build.gpu}",
            "in cache" if build.seconds is None else f"{build.seconds:.1f}",
            _megabytes(build.plan_bytes),
            ", ".join(f"{count} {precision}" for precision, count in build.layers.items()),
        )
        for build in report.engines
    )
    head = ("model", "built by, for", "seconds", "plan, MB", "layers")
    note = "A plan runs only with the version that built it, and on the kind of GPU that it was built for."
    return Table("Engine builds", head, rows, note)


def _quantisation_table(report: BundleReport) -> Table:
    q = report.quantisation
    if q is None:
        return Table("Quantisation", ("", ""), (("int8", "the bundle holds no int8 model"),), "")
    rows = (
        ("recipe", str(q.recipe)),
        ("weights stored as", str(q.weights)),
        ("calibration", f"{q.n_calibration_images} images, sha256 {q.calibration_sha256}"),
        (f"layers given back ({len(q.float_layers)})", ", ".join(q.float_layers) or "none"),
    )
    return Table("Quantisation", ("", ""), rows, "Layers given back run in half precision, so that the gate holds.")


def _origin_table(report: BundleReport) -> Table:
    b, m = report.bundle, report.machine
    rows = (
        ("bundle", b.name),
        ("digest", b.digest),
        ("encoder", f"{b.encoder}, {b.dim} values an embedding, input {b.width_px}x{b.height_px} px"),
        *sorted(report.origin.items()),
        ("measured on", f"{m.cpu}, {m.cores} cores, {m.system}"),
    )
    return Table("Provenance", ("", ""), rows, "")


def _size_chart(report: BundleReport) -> Chart:
    largest = max(entry.size_bytes for entry in report.precisions)
    bars = []
    for entry in report.precisions:
        share = "" if entry.size_share is None else f", {entry.size_share:.1%}"
        text = f"{_megabytes(entry.size_bytes)} MB{share}"
        bars.append(Bar(entry.precision, entry.size_bytes / largest, text))
    return Chart("Size of the model", "The .onnx file, and its share of fp32's.", (BarGroup("", tuple(bars)),))


def _cosine_chart(report: BundleReport) -> Chart:
    known = [(entry.precision, entry.parity) for entry in report.precisions if entry.parity is not None]
    groups = (
        ("smallest", tuple(Bar(p, _nines(parity.min_cosine), f"{parity.min_cosine:.7f}") for p, parity in known)),
        ("mean", tuple(Bar(p, _nines(parity.mean_cosine), f"{parity.mean_cosine:.7f}") for p, parity in known)),
    )
    return Chart(
        "Cosine to the reference",
        "Over the evaluation set; longer is nearer. Each further nine is as long as the one before.",
        tuple(BarGroup(title, bars) for title, bars in groups),
        tuple((nines / _MAX_NINES, label) for nines, label in _NINES),
    )


def _latency_chart(report: BundleReport) -> Chart:
    longest = max(_at(entry, batch).ms.p90 / batch for entry in report.precisions for batch in BATCHES)
    groups = []
    for batch in BATCHES:
        bars = []
        for entry in report.precisions:
            ms = _at(entry, batch).ms
            low, middle, high = (value / batch / longest for value in (ms.p10, ms.median, ms.p90))
            text = f"{_milliseconds(ms.median / batch)} ms"
            bars.append(Bar(entry.precision, middle, text, (low, high)))
        groups.append(BarGroup(f"batch {batch}", tuple(bars)))
    caption = "Milliseconds an image on this machine's CPU: median; the line runs from the 10th to the 90th percentile."
    return Chart("Latency of an image", caption, tuple(groups))


def to_page(report: BundleReport) -> Page:
    """The report in the order of reading."""
    b = report.bundle
    measured = [
        f"{entry.precision} {_megabytes(entry.size_bytes)} MB"
        + ("" if entry.parity is None else f", cosine at least {math.floor(1e5 * entry.parity.min_cosine) / 1e5:.5f}")
        for entry in report.precisions
    ]
    lead = f"{b.encoder}, {b.width_px}x{b.height_px} px, {b.dim} values an embedding. {'; '.join(measured)}."
    charts = [_size_chart(report), _latency_chart(report)]
    if any(entry.parity is not None for entry in report.precisions):
        charts.insert(1, _cosine_chart(report))
    tables = [precision_table(report), latency_table(report)]
    if report.engines:
        tables.append(engine_table(report))
    tables += [_quantisation_table(report), _origin_table(report)]
    return Page(f"Bundle {b.name}", lead, tuple(charts), tuple(tables))


def write_report(report: BundleReport, out_folder: Path) -> None:
    """Write report.html, report.md and report.json into a new folder.

    Raises:
        StorageError: the folder exists already or cannot be written; nothing is left behind.
    """
    page = to_page(report)
    texts = {"report.html": to_html(page), "report.md": to_markdown(page), "report.json": to_json(report)}
    with atomic_folder(out_folder) as folder:
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")


def _evaluation_digests(report: BundleReport) -> tuple[str, ...]:
    """Of the images that the gate ran on; two where int8 was added later and judged on others."""
    every = report.origin.get("evaluation_sha256", "")
    return tuple(dict.fromkeys([every, report.origin.get("int8_evaluation_sha256", every)]))


def _shortened(digests: Sequence[str]) -> str:
    return ", ".join(f"{digest[:12]}…" for digest in digests)


def _require_comparable(reports: Sequence[BundleReport]) -> None:
    """Refuse what does not compare: figures of other images or of another machine, even beside a mark, mislead."""
    if len(reports) < 2:
        raise ExportError(f"{len(reports)} bundle was named; name at least two to compare.")
    first = reports[0]
    for report in reports:
        known, found = (_evaluation_digests(r) for r in (first, report))
        if not found[0]:
            raise ExportError(
                f"The manifest of {report.bundle.name} does not say which images its gate measured (evaluation_sha256 "
                "in origin), so its cosine and recall do not compare. Export it again with the others' --data."
            )
        if found != known:
            raise ExportError(
                f"{first.bundle.name} and {report.bundle.name} were measured on other evaluation sets "
                f"({_shortened(known)} and {_shortened(found)}), so their cosine and recall do not compare. Export "
                "both with the same --data and --max-images."
            )
        if report.machine != first.machine:
            raise ExportError(
                f"{first.bundle.name} was timed on {first.machine.cpu} and {report.bundle.name} on "
                f"{report.machine.cpu}, or with other threads or versions. Measure both on one machine."
            )


def _figures(entry: PrecisionReport) -> list[float | None]:
    """In the order of _COMPARED and in its units; cosines and shares as they are."""
    p = entry.parity
    parity = [None] * 4 if p is None else [p.min_cosine, p.mean_cosine, 100 * p.recall_drop, 100 * p.ap_drop]
    times = [_at(entry, batch).ms.median for batch in BATCHES]
    share = None if entry.size_share is None else 100 * entry.size_share
    return [entry.size_bytes / 1e6, share, *parity, *times]


def _cell(column: str, value: float | None, first: float | None) -> str:
    if value is None:
        return _NONE
    digits = 6 if column.endswith("cosine") else 1 if column == "of fp32" else 2
    unit = " %" if column == "of fp32" else ""
    text = f"{round(value, digits) + 0.0:.{digits}f}{unit}"  # + 0.0 turns a rounded -0.0 into 0.0
    return text if first is None else f"{text} ({round(value - first, digits) + 0.0:+.{digits}f})"


def compare_bundles(reports: Sequence[BundleReport]) -> str:
    """Several bundles beside each other, by precision, as a table in Markdown that a terminal shows in columns too.

    In brackets stands the difference to the first bundle's model of the same precision.

    Raises:
        ExportError: fewer than two reports; or they are of other evaluation sets or machines, and do not compare.
    """
    _require_comparable(reports)
    names = [report.bundle.name for report in reports]
    rows = []
    for precision in PRECISIONS:
        entries = [next((e for e in r.precisions if e.precision == precision), None) for r in reports]
        base = entries[0]
        for number, (report, entry) in enumerate(zip(reports, entries, strict=True)):
            if entry is None:
                continue
            name = names[number] + (f" {report.bundle.digest[:8]}" if names.count(names[number]) > 1 else "")
            before = [None] * len(_COMPARED) if base is None or number == 0 else _figures(base)
            cells = (_cell(*each) for each in zip(_COMPARED, _figures(entry), before, strict=True))
            rows.append((precision, name, report.bundle.encoder, *cells))
    note = (
        "In brackets: the difference to the first bundle. Drops are in points, latency is the median of a whole batch; "
        "the bundles were timed one after another."
    )
    return f"{markdown_table(('precision', 'bundle', 'encoder', *_COMPARED), rows)}\n\n{note}\n"
