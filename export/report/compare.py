"""Several bundles beside each other, where their figures compare: of the same images, and timed on one machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dphr_infer.errors import ExportError
from dphr_infer.files.bundle import PRECISIONS
from export.report.measure import BATCHES, BundleReport, PrecisionReport
from export.report.table import Table, to_markdown

_NONE = "–"
_DIGEST = "evaluation_sha256"
_COMPARED = ("size MB", "of fp32", "min cosine", "mean cosine", "R@1 drop", "AP drop", *(f"b{b} ms" for b in BATCHES))


def _shortened(digest: str) -> str:
    return f"{digest[:12]}…"


def require_same_images(origins: Sequence[tuple[str, Mapping[str, str]]]) -> None:
    """Refuse bundles whose figures are of other images: even beside a mark they mislead.

    Args:
        origins: name and manifest's `origin` of each bundle; nothing needs to be measured for it.

    Raises:
        ExportError: fewer than two, of other evaluation sets, or a manifest does not say of which.
    """
    if len(origins) < 2:
        raise ExportError(f"{len(origins)} bundle was named; name at least two to compare.")
    first, known = origins[0][0], origins[0][1].get(_DIGEST, "")
    for name, origin in origins:
        found = origin.get(_DIGEST, "")
        if not found:
            raise ExportError(
                f"The manifest of {name} does not say which images its gate measured ({_DIGEST} in origin), so its "
                "cosine and recall do not compare. Export it again with the others' --data."
            )
        if found != known:
            raise ExportError(
                f"{first} and {name} were measured on other evaluation sets ({_shortened(known)} and "
                f"{_shortened(found)}), so their cosine and recall do not compare. Export both with the same --data "
                "and --max-images."
            )


def _require_one_machine(reports: Sequence[BundleReport]) -> None:
    first = reports[0]
    for report in reports:
        if report.machine != first.machine:
            raise ExportError(
                f"{first.bundle.name} was timed on {first.machine.cpu} and {report.bundle.name} on "
                f"{report.machine.cpu}, or with other threads or versions. Measure both on one machine."
            )


def _figures(entry: PrecisionReport) -> list[float | None]:
    """In the order of _COMPARED and in its units; cosines and shares as they are."""
    p = entry.parity
    parity = [None] * 4 if p is None else [p.min_cosine, p.mean_cosine, 100 * p.recall_drop, 100 * p.ap_drop]
    times = [entry.at(batch).ms.median for batch in BATCHES]
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
    require_same_images([(report.bundle.name, report.origin) for report in reports])
    _require_one_machine(reports)
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
    columns = ("precision", "bundle", "encoder", *_COMPARED)
    return to_markdown(Table("Bundles", columns, tuple(rows), (note,), words=columns[1:3])) + "\n"
