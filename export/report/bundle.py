"""The report of a bundle as a page, as Markdown and as JSON.

`write_report` writes report.html (one page, no network), report.md and report.json; of a bundle with an int8 model also
sensitivity.png, which the page holds inside. report.json is JSON in ASCII with sorted keys; what was not measured is
null:

    format        "dphr-report"
    version       1
    bundle        {"name" of the folder, "digest" sha256 of manifest.json, "encoder", "dim", "height_px", "width_px"}
    precisions    list in the order fp32, fp16, int8, of {"precision", "size_bytes", "size_share" of fp32's bytes,
                  "parity" as in the manifest (drops are fractions), "latency": list of {"batch", "n" rounds, "ms",
                  "ratio_to_fp32"}}; "ms" and "ratio_to_fp32" are {"median", "p10", "p90"}
    engines       list of the fields of `to_tensorrt.EngineReport`: {"precision", "flavour", "version", "gpu",
                  "max_batch", "plan_bytes", "layers" {precision: number}, "seconds", "peak_bytes", "warnings"}
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
from typing import TYPE_CHECKING

from dphr_infer.measure.stats import format_ms
from export.report.measure import BATCHES, BundleReport, Spread
from export.report.page import Page, Picture, Section, page_to_markdown, to_html
from export.report.plots import Bar, BarGroup, bars_to_svg, plot_sensitivity, spoken
from export.report.table import Table

if TYPE_CHECKING:
    from dphr_infer.files.bundle import Manifest
    from export.int8.sensitivity import LayerSensitivity

FORMAT = "dphr-report"
VERSION = 1
PICTURE = "sensitivity.png"
_NONE = "–"
# A cosine is drawn by its nines: 0.9 is one, 0.99 two. Beyond eight, float32 rounds.
_MAX_NINES = 8
_NINES = ((1, "0.9"), (3, "0.999"), (6, "0.999999"))


def to_json(report: BundleReport) -> str:
    """The exact text of report.json; see the head of this file."""
    content = {"format": FORMAT, "version": VERSION, **dataclasses.asdict(report)}
    return json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n"


def _megabytes(value: float) -> str:
    return f"{value / 1e6:.2f}"


def _points(fraction: float) -> str:
    return f"{round(100 * fraction, 2) + 0.0:.2f}"  # + 0.0 turns a rounded -0.0 into 0.0


def _range(value: Spread, unit: str = "") -> str:
    return f"{format_ms(value.median)}{unit} ({format_ms(value.p10)}–{format_ms(value.p90)})"


def _nines(cosine: float) -> float:
    """Length of the bar of a cosine; below 0 there is nothing to draw."""
    return max(0.0, -math.log10(max(1 - cosine, 10.0**-_MAX_NINES)))


def _by_precision(report: BundleReport, title: str, rows: Sequence[tuple[str, ...]], note: str) -> Table:
    return Table(title, ("", *(entry.precision for entry in report.precisions)), tuple(rows), (note,))


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
    rows = [(f"batch {batch}, ms", *(_range(entry.at(batch).ms) for entry in entries)) for batch in BATCHES]
    if entries[0].precision == "fp32" and len(entries) > 1:
        for batch in BATCHES:
            ratios = (entry.at(batch).ratio_to_fp32 for entry in entries[1:])
            cells = (_NONE if ratio is None else _range(ratio, "×") for ratio in ratios)
            rows.append((f"batch {batch}, to fp32", "1", *cells))
    rounds = ", ".join(str(entries[0].at(batch).n) for batch in BATCHES)
    machine = report.machine
    note = (
        f"Median (10th–90th percentile) of a whole batch on {machine.cpu}, {machine.threads or machine.cores} threads, "
        f"ONNX Runtime {machine.onnxruntime}; {rounds} rounds. Each round runs every precision once, and a ratio is of "
        "one round, so that the machine's noise hits all alike. On a CPU ONNX Runtime computes most of half precision "
        "in float32: these durations say nothing of a GPU."
    )
    return _by_precision(report, "Latency on this machine's CPU", rows, note)


def engine_table(report: BundleReport) -> Table:
    """The engine builds that were given."""
    rows = tuple(
        (
            build.precision,
            "1" if build.max_batch == 1 else f"to {build.max_batch}",
            f"{build.flavour} {build.version}, {build.gpu}",
            "in cache" if build.seconds is None else f"{build.seconds:.1f}",
            _megabytes(build.plan_bytes),
            ", ".join(f"{count} {precision}" for precision, count in build.layers.items()),
        )
        for build in report.engines
    )
    head = ("model", "batches", "built by, for", "seconds", "plan, MB", "layers")
    note = "A plan runs only with the version that built it, and on the kind of GPU that it was built for."
    return Table("Engine builds", head, rows, (note,), words=head[2:3] + head[5:])


def _quantisation_table(report: BundleReport) -> Table:
    q = report.quantisation
    if q is None:
        return Table("Quantisation", (), (("int8", "the bundle holds no int8 model"),))
    rows = (
        ("recipe", str(q.recipe)),
        ("weights stored as", str(q.weights)),
        ("calibration", f"{q.n_calibration_images} images, sha256 {q.calibration_sha256}"),
        (f"layers given back ({len(q.float_layers)})", ", ".join(q.float_layers) or "none"),
    )
    return Table("Quantisation", (), rows, ("Layers given back run in half precision, so that the gate holds.",))


def _origin_table(report: BundleReport) -> Table:
    b, m = report.bundle, report.machine
    rows = (
        ("bundle", b.name),
        ("digest", b.digest),
        ("encoder", f"{b.encoder}, {b.dim} values an embedding, input {b.width_px}x{b.height_px} px"),
        *sorted(report.origin.items()),
        ("measured on", f"{m.cpu}, {m.cores} cores, {m.system}"),
    )
    return Table("Provenance", (), rows)


def _bars(
    title: str, caption: str, groups: Sequence[BarGroup], ticks: tuple[tuple[float, str], ...] = (), longest: float = 0
) -> Picture:
    return Picture(title, caption, bars_to_svg(groups, ticks, longest), f"{title}: {spoken(groups)}")


def size_groups(report: BundleReport) -> list[BarGroup]:
    """Megabytes of each model."""
    shares = ("" if entry.size_share is None else f", {entry.size_share:.1%}" for entry in report.precisions)
    return [
        BarGroup(
            "",
            tuple(
                Bar(entry.precision, entry.size_bytes / 1e6, f"{_megabytes(entry.size_bytes)} MB{share}")
                for entry, share in zip(report.precisions, shares, strict=True)
            ),
        )
    ]


def cosine_groups(report: BundleReport) -> list[BarGroup]:
    """Nines of the smallest and the mean cosine of each model that has been compared."""
    known = [(entry.precision, entry.parity) for entry in report.precisions if entry.parity is not None]
    smallest = tuple(Bar(p, _nines(parity.min_cosine), f"{parity.min_cosine:.7f}") for p, parity in known)
    mean = tuple(Bar(p, _nines(parity.mean_cosine), f"{parity.mean_cosine:.7f}") for p, parity in known)
    return [BarGroup("smallest", smallest), BarGroup("mean", mean)]


def latency_groups(report: BundleReport) -> list[BarGroup]:
    """Milliseconds an image of each model, a group for each batch size."""
    groups = []
    for batch in BATCHES:
        times = [(entry.precision, entry.at(batch).ms) for entry in report.precisions]
        bars = tuple(
            Bar(p, ms.median / batch, f"{format_ms(ms.median / batch)} ms", (ms.p10 / batch, ms.p90 / batch))
            for p, ms in times
        )
        groups.append(BarGroup(f"batch {batch}", bars))
    return groups


def _charts(report: BundleReport) -> tuple[Picture, ...]:
    size = _bars("Size of the model", "The .onnx file, and its share of fp32's.", size_groups(report))
    caption = "Per image on this machine's CPU: median; the line runs from the 10th to the 90th percentile."
    latency = _bars("Latency of an image", caption, latency_groups(report))
    if all(entry.parity is None for entry in report.precisions):
        return size, latency
    caption = "Over the evaluation set; longer is nearer. Each further nine is as long as the one before."
    cosine = _bars("Cosine to the reference", caption, cosine_groups(report), _NINES, _MAX_NINES)
    return size, cosine, latency


def to_page(report: BundleReport, pictures: tuple[Picture, ...] = ()) -> Page:
    """The report in the order of reading; `pictures` come last.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    b = report.bundle
    measured = [
        f"{entry.precision} {_megabytes(entry.size_bytes)} MB"
        + ("" if entry.parity is None else f", cosine at least {math.floor(1e5 * entry.parity.min_cosine) / 1e5:.5f}")
        for entry in report.precisions
    ]
    lead = f"{b.encoder}, {b.width_px}x{b.height_px} px, {b.dim} values an embedding. {'; '.join(measured)}."
    tables = [precision_table(report), latency_table(report)]
    if report.engines:
        tables.append(engine_table(report))
    tables += [_quantisation_table(report), _origin_table(report)]
    sections = (Section(pictures=_charts(report), tables=tuple(tables)), Section(pictures=pictures))
    return Page(f"Bundle {b.name}", lead, sections)


def write_report(report: BundleReport, folder: Path, pictures: tuple[Picture, ...] = ()) -> tuple[str, ...]:
    """Write report.html, report.md and report.json into a folder; of `atomic_folder`, so that they appear together.

    Args:
        pictures: that lie in the folder already, to be shown too.

    Returns:
        The names of all files.

    Raises:
        MissingPackageError: matplotlib or Jinja2 is not installed.
        OSError: a file cannot be written.
    """
    page = to_page(report, pictures)
    texts = {"report.html": to_html(page), "report.md": page_to_markdown(page), "report.json": to_json(report)}
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return (*texts, *(picture.file for picture in pictures))


def draw_layers(manifest: Manifest, folder: Path, layers: Sequence[LayerSensitivity]) -> tuple[Picture, ...]:
    """Draw what each layer of the int8 model costs as sensitivity.png; none for no layers.

    Args:
        layers: see `inputs.read_sensitivity`.

    Raises:
        MissingPackageError: matplotlib is not installed.
        StorageError: the file cannot be written.
    """
    if not layers:
        return ()
    given_back = manifest.quantisation.float_layers if manifest.quantisation is not None else ()
    plot_sensitivity(layers, folder / PICTURE, manifest.encoder, given_back)
    caption = (
        "Loss of cosine with one layer alone in int8, the largest first; all of them are in the bundle's "
        "int8/sensitivity.json."
    )
    return (Picture("What each layer costs in int8", caption, (folder / PICTURE).read_bytes(), file=PICTURE),)
