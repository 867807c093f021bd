"""A comparison in words: a table of its metrics, why it may be wrong, and what fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.compare.judge import CONFIDENCE, Change
from dphr_infer.errors import ConfigError
from dphr_infer.measure.stats import format_ms
from export.report.table import Table, to_text


@dataclass(frozen=True, slots=True)
class Comparison:
    """A candidate beside the baseline.

    Attributes:
        programs: the code that each says it ran; empty where it does not say.
        warnings: why the change may not be the program's, one sentence each.
        invalid: a record of the two is marked invalid.
        unpaired: metrics that only one holds, as "only in NAME: metric".
    """

    baseline: str
    candidate: str
    programs: tuple[str, str]
    changes: tuple[Change, ...]
    unpaired: tuple[str, ...]
    warnings: tuple[str, ...]
    invalid: bool

    @property
    def judged(self) -> bool:
        """Whether many runs were compared and a metric of them has an interval."""
        return any(change.run_ratios and not change.no_interval for change in self.changes)

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

    def check_judged(self) -> None:
        """Refuse a limit that nothing could fail.

        Raises:
            ConfigError: with `fail_above`, none of a comparison's metrics can be judged, and nothing fails.
        """
        for item in self.comparisons:
            if self.fail_above is not None and not item.judged and not item.invalid:
                why = item.changes[0].no_interval or "one run each"
                raise ConfigError(
                    f"None of the {len(item.changes)} metrics of {item.candidate} can be judged ({why}), so that "
                    "nothing could fail: measure by dphr-bench versus, on an idle machine."
                )

    @property
    def text(self) -> str:
        """One block per candidate, and the metrics that fail at the end."""
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
    many = any(change.run_ratios for change in comparison.changes)
    counted = "runs" if many else "n"
    rows = []
    for name, change in zip(short_names([c.name for c in comparison.changes]), comparison.changes, strict=True):
        cells = [f"{format_ms(p50)} ({n})" for p50, n in zip(change.p50_ms, change.n, strict=True)]
        span = ""
        if change.low is not None and change.high is not None:
            span = f"{format_change(change.low)} .. {format_change(change.high)}"
        rows.append((name, *cells, format_change(change.ratio), span, change.verdict))
    notes = [f"WARNING: {warning}" for warning in comparison.warnings]
    if any(comparison.programs):
        a, b = (program or "unknown" for program in comparison.programs)
        notes.insert(0, f"Both ran {a}." if a == b else f"baseline {a}; candidate {b}")
    notes += comparison.unpaired
    if many:
        n_judged = sum(not change.no_interval for change in comparison.changes)
        notes.append(
            f"Intervals hold at {CONFIDENCE:.0%} for all {n_judged} judged metrics together, by the scatter of the "
            "pairs of runs."
        )
    else:
        notes.append(
            f"Intervals are {CONFIDENCE:.0%} of what varies within each run. Two runs of one program differ by more: "
            "dphr-bench versus tells whether one is slower."
        )
    head = ("metric", f"baseline p50 ms ({counted})", f"candidate p50 ms ({counted})", "change", "interval", "found")
    title = f"{comparison.candidate} beside {comparison.baseline}"
    return to_text(Table(title, head, tuple(rows), tuple(notes), ("found",)))


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
    unknown = sum(bool(change.no_interval) for item in comparisons for change in item.changes)
    left = f" {unknown} metrics could not be judged." if unknown else ""
    return f"Passed: nothing is slower by more than {limit} beyond noise.{left}"
