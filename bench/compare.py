"""Two reports or more -> what changed, by how much, and whether noise alone could have done it.

A duration's neighbours resemble each other: clocks drift, another program runs for a second, a cache stays warm. Tests
that take each sample for independent (Mann-Whitney, a plain bootstrap) then find a change between two runs of the same
program; so does a block bootstrap where the drift is longer than a block. So the samples of a run, in the order of the
calls, are cut into BATCHES consecutive batches, and the variance of the log median of the run is taken as

    v = F^2 + P / STRETCHES + (S - P) / BATCHES,    P = max(0, S - L)

    S   variance of the batches' log medians,
    L   what S would be if only local noise moved them: a quarter of the variance of the difference between the log
        medians of a batch's two halves,
    P   the rest, which outlives a batch. It is taken to live for half the run, so that STRETCHES of it are averaged.
    F   FLOOR: two runs of one program differ by about this much in ways that are constant within each (the place of
        the memory, the heat of the room), which no sample of theirs can show. An assumption, not a measurement.

For each metric with medians a and b of all samples, the change is log(b / a), its variance v_a + v_b, and its interval
Student's with Welch's degrees of freedom, at 95 % for all metrics of a pair together (Bonferroni), so that a report
with twenty metrics is no likelier to be blamed than one with a single.

Where other programs used more than OTHERS_SHARE of the cores, nothing is judged: runs of one matcher on a machine with
two cores and about three busy programs were each steady, and differed by up to a factor of three.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.series import Series, metrics, read_records
from bench.stats import format_ms
from dphr_infer.errors import ConfigError

BATCHES = 10
# Six samples a batch, and MLPerf's least count for a p90.
MIN_SAMPLES = 64
TOO_FEW = f"n<{MIN_SAMPLES}"
CONFIDENCE = 0.95
FLOOR = 0.01
STRETCHES = 2
OTHERS_SHARE = 0.25
# What differs from run to run on one machine, and what a figure is not measured on.
_STATE = ("load", "others_cores", "clocks", "throttled", "throttled_by", "on_battery")


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """The records of one file: a run, or a sweep with a record for each of its points.

    Attributes:
        machine, subject: of the first record.
        invalid: why a record may not be believed, one text a record that is marked so.
    """

    name: str
    series: dict[str, Series]
    machine: Mapping[str, Any]
    subject: Mapping[str, Any]
    invalid: tuple[str, ...]

    @property
    def others_share(self) -> float:
        """Share of the cores that other programs used; 0 where the report does not say."""
        return float(self.machine.get("others_cores") or 0) / max(1, int(self.machine.get("cores") or 1))


@dataclass(frozen=True, slots=True)
class Change:
    """One metric of two records.

    Attributes:
        ratio: candidate / baseline of the medians; above 1 is slower.
        low, high: interval of the ratio; None where it cannot be judged.
        not_judged: why not; empty where it is.
    """

    name: str
    n: tuple[int, int]
    p50_ms: tuple[float, float]
    ratio: float
    low: float | None
    high: float | None
    not_judged: str

    @property
    def lost_its_samples(self) -> bool:
        """The baseline has enough samples, the candidate too few."""
        return self.not_judged == TOO_FEW and self.n[0] >= MIN_SAMPLES > self.n[1]

    @property
    def verdict(self) -> str:
        """ "slower", "faster", "no change found", or why there is none."""
        if self.low is None or self.high is None:
            return f"not judged: {self.not_judged}"
        return "slower" if self.low > 1 else "faster" if self.high < 1 else "no change found"


@dataclass(frozen=True, slots=True)
class Comparison:
    """A candidate beside the baseline.

    Attributes:
        warnings: why the change may not be the program's, one sentence each.
        invalid: a record of the two is marked invalid.
        unpaired: metrics that only one record holds, as "only in NAME: metric".
    """

    baseline: str
    candidate: str
    changes: tuple[Change, ...]
    unpaired: tuple[str, ...]
    warnings: tuple[str, ...]
    invalid: bool

    def offending(self, fail_above: float) -> tuple[Change, ...]:
        """Metrics slower by more than `fail_above`: beyond noise, or with so few samples that it cannot be judged.

        The latter counts where the baseline had enough of them: a case of limited time makes fewer as it gets slower.
        """
        slower = (change for change in self.changes if change.ratio > 1 + fail_above)
        return tuple(change for change in slower if (change.low or 0) > 1 or change.lost_its_samples)


@dataclass(frozen=True, slots=True)
class ComparisonReport:
    """All candidates beside the first record; `fail_above` is a share, None where nothing is to fail."""

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

    @property
    def text(self) -> str:
        """One block a candidate, and the metrics that fail at the end."""
        blocks = [_block(comparison) for comparison in self.comparisons]
        if self.fail_above is not None:
            lines = []
            for item in self.comparisons:
                lines += [f"  {item.candidate}: {c.name} {_percent(c.ratio)}" for c in item.offending(self.fail_above)]
                if item.invalid:
                    lines.append(f"  {item.candidate}: an invalid record shows nothing")
            limit = f"{100 * self.fail_above:g} %"
            blocks.append("\n".join([f"FAILED: slower by more than {limit}, or invalid", *lines]) if lines else "")
            if not lines:
                unknown = sum(bool(change.not_judged) for item in self.comparisons for change in item.changes)
                left = f" {unknown} metrics could not be judged." if unknown else ""
                blocks[-1] = f"Passed: nothing is slower by more than {limit} beyond noise.{left}"
        return "\n\n".join(blocks)


def parse_share(text: str) -> float:
    """A share such as "5%" or "0.05".

    Raises:
        ConfigError: it is no number, or outside 0 to 10.
    """
    body = text.strip()
    try:
        value = float(body.removesuffix("%")) / (100 if body.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 10:
        raise ConfigError(f'The limit {text!r} is no share of 0 to 10: write it as "5%" or "0.05".')
    return value


def student_quantile(probability: float, freedom: float) -> float:
    """Quantile of Student's distribution by its expansion about the normal one, Abramowitz and Stegun 26.7.5.

    Within 1 % for 9 degrees of freedom and more at probabilities of 0.0005 to 0.9995.
    """
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom ** (power + 1) for power, term in enumerate(terms))


def _log_medians(samples_ms: NDArray[np.float64], parts: int) -> NDArray[np.float64]:
    return np.log([np.median(part) for part in np.array_split(samples_ms, parts)])


def median_variance(samples_ms: NDArray[np.float64]) -> float:
    """Variance of the log of the median of float64 (n,), n >= MIN_SAMPLES, all above 0; see the head of this file."""
    batches = float(np.var(_log_medians(samples_ms, BATCHES), ddof=1))
    halves = _log_medians(samples_ms, 2 * BATCHES)
    # The halves' difference has no mean: both come from the same distribution unless the run drifts within a batch.
    local = float(np.mean((halves[1::2] - halves[::2]) ** 2)) / 4
    lasting = max(0.0, batches - local)
    return FLOOR**2 + lasting / STRETCHES + (batches - lasting) / BATCHES


def _obstacle(a: Series, b: Series, busy: bool) -> str:
    if busy:
        return "the machine was busy"
    if a.samples_ms is None or b.samples_ms is None:
        return "no samples"
    if min(a.samples_ms.min(), b.samples_ms.min()) == 0:
        return "durations of 0 ms"
    return TOO_FEW if min(a.n, b.n) < MIN_SAMPLES else ""


def _judge(a: Series, b: Series, n_metrics: int, obstacle: str) -> Change:
    ratio = b.p50_ms / a.p50_ms if a.p50_ms else math.inf if b.p50_ms else 1.0
    counts, medians = (a.n, b.n), (a.p50_ms, b.p50_ms)
    if obstacle or a.samples_ms is None or b.samples_ms is None:
        return Change(a.name, counts, medians, ratio, None, None, obstacle)
    left, right = median_variance(a.samples_ms), median_variance(b.samples_ms)
    freedom = (left + right) ** 2 * (BATCHES - 1) / (left**2 + right**2)
    half = student_quantile(1 - (1 - CONFIDENCE) / 2 / n_metrics, freedom) * math.sqrt(left + right)
    return Change(a.name, counts, medians, ratio, ratio * math.exp(-half), ratio * math.exp(half), "")


def make_report(name: str, records: Sequence[Mapping[str, Any]]) -> Report:
    """Put the records of one file together.

    Raises:
        ConfigError: two hold the same metric, as two runs do; or samples that are no durations.
    """
    series: dict[str, Series] = {}
    for record in records:
        for key, found in metrics(name, record).items():
            if key in series:
                raise ConfigError(f"{name} holds {key!r} twice, as of two runs: give each run in a file of its own.")
            series[key] = found
    doubted = [record for record in records if record.get("valid") is not True]
    reasons = ["; ".join(map(str, record.get("invalid_reasons") or ("no reason is stated",))) for record in doubted]
    first = records[0]
    return Report(name, series, first.get("machine") or {}, first.get("subject") or {}, tuple(dict.fromkeys(reasons)))


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    keys = [key for key in {**a, **b} if key not in _STATE and a.get(key) != b.get(key)]
    return "; ".join(f"{key} {a.get(key)} against {b.get(key)}" for key in keys)


def warnings_of(a: Report, b: Report) -> list[str]:
    """Why a change between two reports may not be the program's, one sentence each."""
    found = []
    for words, differences in (
        ("Different machines", _differences(a.machine, b.machine)),
        ("Different subjects", _differences(a.subject, b.subject)),
    ):
        if differences:
            found.append(f"{words}, so that a change is not the program's alone: {differences}.")
    for report in (a, b):
        found += [f"{report.name} is INVALID, its figures show nothing: {reason}." for reason in report.invalid]
        if report.machine.get("throttled") or report.machine.get("on_battery"):
            state = "throttled" if report.machine.get("throttled") else "on battery"
            found.append(f"{report.name} was measured {state}.")
        if report.others_share > OTHERS_SHARE:
            found.append(
                f"{report.name} was measured while other programs used {report.machine['others_cores']:.1f} of "
                f"{report.machine['cores']} cores: nothing is judged."
            )
    return found


def _beside(a: Report, b: Report) -> Comparison:
    common = [key for key in a.series if key in b.series]
    if not common:
        raise ConfigError(
            f"{a.name} ({len(a.series)} metrics) and {b.name} ({len(b.series)} metrics) have none in common: run both "
            "with the same scenarios and settings."
        )
    unpaired = [f"only in {a.name}: {key}" for key in a.series if key not in b.series]
    unpaired += [f"only in {b.name}: {key}" for key in b.series if key not in a.series]
    busy = max(a.others_share, b.others_share) > OTHERS_SHARE
    obstacles = [_obstacle(a.series[key], b.series[key], busy) for key in common]
    n_judged = max(1, obstacles.count(""))
    changes = tuple(
        _judge(a.series[key], b.series[key], n_judged, why) for key, why in zip(common, obstacles, strict=True)
    )
    doubted = bool(a.invalid or b.invalid)
    return Comparison(a.name, b.name, changes, tuple(unpaired), tuple(warnings_of(a, b)), doubted)


def compare(reports: Sequence[Report]) -> tuple[Comparison, ...]:
    """Each report but the first beside the first.

    Raises:
        ConfigError: fewer than two reports, or two without a common metric.
    """
    if len(reports) < 2:
        raise ConfigError(f"{len(reports)} report to compare: give the baseline first, then one or more others.")
    return tuple(_beside(reports[0], other) for other in reports[1:])


def compare_files(paths: Sequence[Path], fail_above: float | None = None) -> ComparisonReport:
    """Compare reports; the first is the baseline.

    Args:
        paths: reports, each with one record, or one a line as a sweep writes it.
        fail_above: share above which a slowdown fails, such as 0.05; None fails nothing.

    Raises:
        ConfigError: a file is no report; there are fewer than two; two have no metric in common; or, with
            `fail_above`, none of a pair's metrics can be judged, so that nothing could fail.
    """
    report = ComparisonReport(compare([make_report(str(path), read_records(path)) for path in paths]), fail_above)
    for item in report.comparisons:
        if fail_above is not None and all(change.not_judged for change in item.changes):
            raise ConfigError(
                f"None of the {len(item.changes)} metrics of {item.candidate} can be judged "
                f"({item.changes[0].not_judged}), so that nothing could fail: measure longer, on an idle machine."
            )
    return report


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f} %"


def _block(comparison: Comparison) -> str:
    rows = [("metric", "baseline p50 ms (n)", "candidate p50 ms (n)", "change", "interval", "")]
    for change in comparison.changes:
        cells = [f"{format_ms(p50)} ({n})" for p50, n in zip(change.p50_ms, change.n, strict=True)]
        span = "" if change.low is None or change.high is None else f"{_percent(change.low)} .. {_percent(change.high)}"
        rows.append((change.name, *cells, _percent(change.ratio), span, change.verdict))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [f"{comparison.candidate} beside {comparison.baseline}"]
    lines += [f"  WARNING: {warning}" for warning in comparison.warnings]
    for name, *cells, verdict in rows:
        middle = "  ".join(cell.rjust(width) for cell, width in zip(cells, widths[1:-1], strict=True))
        lines.append(f"  {name.ljust(widths[0])}  {middle}  {verdict}".rstrip())
    lines += [f"  {text}" for text in comparison.unpaired]
    judged = sum(not change.not_judged for change in comparison.changes)
    lines.append(f"  Intervals hold at {CONFIDENCE:.0%} for all {judged} judged metrics together.")
    return "\n".join(lines)
