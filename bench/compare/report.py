"""A comparison in words: a table of its metrics, why it may be wrong, and what fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.compare.judge import CONFIDENCE, Change
from dphr_infer.errors import ConfigError
from dphr_infer.measure.stats import format_ms


@dataclass(frozen=True, slots=True)
class Comparison:
    """A candidate beside the baseline.

    Attributes:
        programs: the code that each says it ran; empty where it does not say.
        warnings: why the change may not be the program's, one sentence each.
        invalid: a record of the two is marked invalid.
        unpaired: metrics that only one holds, as "only in NAME: metric".
        floor: by which two runs of one program were taken to differ; None where many runs show it.
    """

    baseline: str
    candidate: str
    programs: tuple[str, str]
    changes: tuple[Change, ...]
    unpaired: tuple[str, ...]
    warnings: tuple[str, ...]
    invalid: bool
    floor: float | None

    def offending(self, fail_above: float) -> tuple[Change, ...]:
        """Metrics slower by more than `fail_above`, beyond noise."""
        return tuple(change for change in self.changes if change.offends(fail_above))


@dataclass(frozen=True, slots=True)
class ComparisonReport:
    """All candidates beside the first report; `fail_above` is a share, None where nothing is to fail."""

    comparisons: tuple[Comparison, ...]
    fail_above: float | None

    @property
    def failed(self) -> bool:
        """A metric is slower by more than allowed, or a record is marked invalid and so shows nothing."""
        if self.fail_above is None:
            return False
        return any(item.invalid or item.offending(self.fail_above) for item in self.comparisons)

    @property
    def exit_code(self) -> int:
        """1 where it failed, else 0."""
        return int(self.failed)

    def check_judged(self) -> None:
        """Refuse a limit that nothing could fail.

        Raises:
            ConfigError: with `fail_above`, none of a comparison's metrics can be judged, and nothing fails.
        """
        for item in self.comparisons:
            unjudged = all(change.not_judged for change in item.changes)
            if self.fail_above is not None and unjudged and not (item.invalid or item.offending(self.fail_above)):
                raise ConfigError(
                    f"None of the {len(item.changes)} metrics of {item.candidate} can be judged "
                    f"({item.changes[0].not_judged}), so that nothing could fail: measure longer, on an idle machine."
                )

    @property
    def text(self) -> str:
        """One block a candidate, and the metrics that fail at the end."""
        blocks = [_comparison_text(comparison) for comparison in self.comparisons]
        if self.fail_above is not None:
            blocks.append(_verdict_text(self.comparisons, self.fail_above))
        return "\n\n".join(blocks)


def format_change(ratio: float) -> str:
    """A ratio as a change with its sign, such as "+4.2 %"."""
    return f"{100 * (ratio - 1):+.1f} %"


def _parts(name: str) -> tuple[str, list[str]]:
    """A metric's kind, such as "batches: embed", and what it was measured with, such as "batch 4"."""
    kind, _, rest = name.partition(" (")
    detail, _, stage = rest.rpartition(")")
    return kind + stage, [part for part in detail.split(", ") if part]


def short_names(names: Sequence[str]) -> list[str]:
    """Metrics' names without what all of their kind share; those of a report are long."""
    parts = [_parts(name) for name in names]
    shared: dict[str, set[str]] = {}
    for kind, detail in parts:
        shared.setdefault(kind, set(detail)).intersection_update(detail)
    found = []
    for kind, detail in parts:
        own = [part for part in detail if part not in shared[kind]]
        found.append(f"{kind} ({', '.join(own)})" if own else kind)
    return found


def _comparison_text(comparison: Comparison) -> str:
    """One candidate beside its baseline, all metrics."""
    counted = "n" if comparison.floor is not None else "runs"
    rows = [("metric", f"baseline p50 ms ({counted})", f"candidate p50 ms ({counted})", "change", "interval", "")]
    names = short_names([change.name for change in comparison.changes])
    for name, change in zip(names, comparison.changes, strict=True):
        cells = [f"{format_ms(p50)} ({n})" for p50, n in zip(change.p50_ms, change.n, strict=True)]
        judged = change.low is not None and change.high is not None
        span = f"{format_change(change.low or 0)} .. {format_change(change.high or 0)}" if judged else ""
        rows.append((name, *cells, format_change(change.ratio), span, change.verdict))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [f"{comparison.candidate} beside {comparison.baseline}"]
    if any(comparison.programs):
        a, b = (program or "unknown" for program in comparison.programs)
        lines.append(f"  both ran {a}" if a == b else f"  baseline {a}; candidate {b}")
    lines += [f"  WARNING: {warning}" for warning in comparison.warnings]
    for name, *cells, verdict in rows:
        middle = "  ".join(cell.rjust(width) for cell, width in zip(cells, widths[1:-1], strict=True))
        lines.append(f"  {name.ljust(widths[0])}  {middle}  {verdict}".rstrip())
    lines += [f"  {text}" for text in comparison.unpaired]
    n_judged = sum(not change.not_judged for change in comparison.changes)
    how = "by the scatter of the pairs of runs"
    if comparison.floor is not None:
        how = f"taking it that two runs of one program differ by {comparison.floor:.0%} in what no sample shows"
    lines.append(f"  Intervals hold at {CONFIDENCE:.0%} for all {n_judged} judged metrics together, {how}.")
    return "\n".join(lines)


def _verdict_text(comparisons: Sequence[Comparison], fail_above: float) -> str:
    """What fails at this limit, or that nothing does and how much could not be judged."""
    lines = []
    for item in comparisons:
        lines += [f"  {item.candidate}: {c.name} {format_change(c.ratio)}" for c in item.offending(fail_above)]
        if item.invalid:
            lines.append(f"  {item.candidate}: an invalid record shows nothing")
    limit = f"{100 * fail_above:g} %"
    if lines:
        return "\n".join([f"FAILED: slower by more than {limit}, or invalid", *lines])
    unknown = sum(bool(change.not_judged) for item in comparisons for change in item.changes)
    left = f" {unknown} metrics could not be judged." if unknown else ""
    return f"Passed: nothing is slower by more than {limit} beyond noise.{left}"
