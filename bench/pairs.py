"""Two versions run in turns, A B A B: what changed, judged by how much the pairs themselves scatter.

Runs of one program on a shared machine differ by more than any sample of theirs can show: another tenant of the host,
the place of the memory. Where there are many pairs, nothing has to be assumed of that. For each metric the pairs' log
ratios of medians log(b / a) have mean m and standard deviation s, and the interval of the change is
m -/+ t s / sqrt(pairs), with Student's t at pairs - 1 degrees of freedom and 95 % for all metrics together, as in
`bench.compare`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.compare import (
    CONFIDENCE,
    OTHERS_SHARE,
    Change,
    Comparison,
    ComparisonReport,
    Report,
    make_report,
    student_quantile,
    warnings_of,
)
from bench.series import read_records
from dphr_infer.errors import ConfigError

# `student_quantile` is right to 1 % from 9 degrees of freedom on.
MIN_PAIRS = 10


def _judge(name: str, pairs: Sequence[tuple[Report, Report]], n_metrics: int, busy: bool) -> Change:
    medians = np.array([[report.series[name].p50_ms for report in pair] for pair in pairs])
    a, b = (float(value) for value in np.median(medians, axis=0))
    counts = (len(pairs), len(pairs))
    if medians.min() <= 0:
        return Change(name, counts, (a, b), b / a if a else math.inf, None, None, "durations of 0 ms")
    ratios = np.log(medians[:, 1] / medians[:, 0])
    mean = float(ratios.mean())
    if busy:
        return Change(name, counts, (a, b), math.exp(mean), None, None, "the machine was busy")
    quantile = student_quantile(1 - (1 - CONFIDENCE) / 2 / n_metrics, len(pairs) - 1)
    half = quantile * float(ratios.std(ddof=1)) / math.sqrt(len(pairs))
    return Change(name, counts, (a, b), math.exp(mean), math.exp(mean - half), math.exp(mean + half), "")


def compare_pairs(paths: Sequence[Path], fail_above: float | None = None) -> ComparisonReport:
    """Compare runs of a baseline with runs of a candidate that were taken in turns.

    Args:
        paths: baseline, candidate, baseline, candidate ..., in the order of the runs.
        fail_above: share above which a slowdown fails, such as 0.05; None fails nothing.

    Returns:
        One comparison; the counts of its changes are those of the pairs, its medians are over the pairs.

    Raises:
        ConfigError: a file is no report; an odd number, or fewer than MIN_PAIRS pairs; no metric that all hold; or,
            with `fail_above`, nothing that can be judged.
    """
    if len(paths) % 2 or len(paths) < 2 * MIN_PAIRS:
        raise ConfigError(
            f"{len(paths)} reports are not {MIN_PAIRS} pairs or more: give baseline and candidate in turns, as they "
            "were run."
        )
    reports = [make_report(str(path), read_records(path)) for path in paths]
    pairs = list(zip(reports[::2], reports[1::2], strict=True))
    common = [name for name in reports[0].series if all(name in report.series for report in reports)]
    if not common:
        raise ConfigError(f"The {len(reports)} reports have no metric in common: run all with the same settings.")
    others = dict.fromkeys(name for report in reports for name in report.series if name not in common)
    warnings = dict.fromkeys(words for report in reports[1:] for words in warnings_of(reports[0], report))
    busy = any(report.others_share > OTHERS_SHARE for report in reports)
    changes = tuple(_judge(name, pairs, len(common), busy) for name in common)
    if fail_above is not None and all(change.not_judged for change in changes):
        raise ConfigError(
            f"None of the {len(changes)} metrics can be judged ({changes[0].not_judged}), so that nothing could fail: "
            "measure on an idle machine."
        )
    comparison = Comparison(
        f"{len(pairs)} runs from {reports[0].name} on",
        f"{len(pairs)} runs from {reports[1].name} on",
        changes,
        tuple(f"not in every report: {name}" for name in others),
        tuple(warnings),
        any(report.invalid for report in reports),
    )
    return ComparisonReport((comparison,), fail_above)
