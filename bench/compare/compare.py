"""Reports -> what changed between them (`judge`).

A report holds one run, or MIN_RUNS runs and more that were taken in turns with those of another report, as
`dphr-bench versus` writes them. Only the latter are judged.
"""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.compare.judge import MIN_RUNS, Change, compare_two, judge_runs
from bench.compare.report import Comparison, ComparisonReport
from bench.compare.series import Series, metrics, read_records
from bench.machine.state import BUSY_SHARE
from dphr_infer.errors import ConfigError

BUSY = "the machine was busy"


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One run, or one sweep with all of its points.

    Attributes:
        records: its own.
        date: when the last of its records was made; None where it does not say.
    """

    series: Mapping[str, Series]
    records: tuple[Mapping[str, Any], ...]
    date: datetime.datetime | None

    @property
    def busy_cores(self) -> float:
        """Cores that others used as a record began, where these were too many; else 0."""
        for record in self.records:
            others, cores = (
                float(_part(record, "state").get("others_cores") or 0),
                _part(record, "machine").get("cores"),
            )
            if others > BUSY_SHARE * max(1, int(cores or 1)):
                return others
        return 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """What one file holds.

    Attributes:
        runs: at least one, in the file's order.
        others: words for what is not the same in all records of the file, one each.
        invalid: why a record may not be believed, one text for each that is marked so.
    """

    name: str
    runs: tuple[Run, ...]
    others: tuple[str, ...]
    invalid: tuple[str, ...]

    @property
    def first(self) -> Mapping[str, Any]:
        """The first record: machine, subject and program of all."""
        return self.runs[0].records[0]


def _part(record: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    return record.get(key) or {}


def _date(record: Mapping[str, Any]) -> datetime.datetime | None:
    try:
        return datetime.datetime.fromisoformat(str(record.get("date")))
    except ValueError:
        return None


def _runs(name: str, records: Sequence[Mapping[str, Any]]) -> tuple[Run, ...]:
    """Cut a file's records into runs: the next one begins where a metric comes again."""
    runs: list[tuple[dict[str, Series], list[Mapping[str, Any]]]] = [({}, [])]
    for record in records:
        found = metrics(name, record)
        if found.keys() & runs[-1][0].keys():
            runs.append(({}, []))
        runs[-1][0].update(found)
        runs[-1][1].append(record)
    return tuple(Run(series, tuple(own), _date(own[-1])) for series, own in runs)


def make_report(name: str, records: Sequence[Mapping[str, Any]]) -> Report:
    """Put the records of one file together.

    Raises:
        ConfigError: samples that are no durations.
    """
    doubted = [record for record in records if record.get("valid") is not True]
    reasons = ["; ".join(map(str, record.get("invalid_reasons") or ("no reason is stated",))) for record in doubted]
    others = []
    for record in records[1:]:
        others.append(_differences(_part(records[0], "machine"), _part(record, "machine")))
        here, there = records[0].get("program"), record.get("program")
        others.append(f"{here} and {there}" if here != there else "")
    return Report(name, _runs(name, records), tuple(dict.fromkeys(filter(None, others))), tuple(dict.fromkeys(reasons)))


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    return "; ".join(f"{key} {a.get(key)} against {b.get(key)}" for key in {**a, **b} if a.get(key) != b.get(key))


def _warnings_of(a: Report, b: Report) -> list[str]:
    found = []
    for key in ("machine", "subject"):
        if differences := _differences(_part(a.first, key), _part(b.first, key)):
            found.append(f"Different {key}s, so that a change is not the program's alone: {differences}.")
    for report in (a, b):
        found += [f"The runs of {report.name} are not all of one kind: {words}." for words in report.others]
        found += [f"{report.name} is INVALID, its figures show nothing: {reason}." for reason in report.invalid]
        states = [_part(record, "state") for run in report.runs for record in run.records]
        for key, words in (("throttled", "throttled"), ("on_battery", "on battery")):
            if any(state.get(key) for state in states):
                found.append(f"{report.name} was measured {words}.")
    return found


def _common(a: Report, b: Report) -> tuple[list[str], list[str]]:
    """Metrics that every run of both holds, and words for the others."""
    runs = [run.series for report in (a, b) for run in report.runs]
    common = [key for key in runs[0] if all(key in run for run in runs)]
    if not common:
        counts = [f"{report.name} ({len(report.runs[0].series)} metrics)" for report in (a, b)]
        raise ConfigError(f"{' and '.join(counts)} have none in common: run both with the same scenarios and settings.")
    unpaired = []
    for here, there in ((a, b), (b, a)):
        named = dict.fromkeys(key for run in here.runs for key in run.series if key not in common)
        for key in named:
            somewhere = any(key in run.series for run in there.runs)
            unpaired.append(f"not in every run: {key}" if somewhere else f"only in {here.name}: {key}")
    return common, list(dict.fromkeys(unpaired))


def _beside_one(a: Report, b: Report, common: Sequence[str]) -> tuple[tuple[Change, ...], list[str]]:
    warnings = [
        f"{report.name} was measured while other programs used {cores:.1f} cores."
        for report in (a, b)
        if (cores := report.runs[0].busy_cores)
    ]
    return tuple(compare_two(a.runs[0].series[key], b.runs[0].series[key]) for key in common), warnings


def _in_turns(pairs: Sequence[tuple[Run, Run]]) -> bool:
    dates = [(a.date, b.date) for a, b in pairs]
    for (a0, b0), (a1, b1) in itertools.pairwise(dates):
        if a0 is not None and b0 is not None and a1 is not None and b1 is not None and max(a0, b0) > min(a1, b1):
            return False
    return True


def _beside_many(a: Report, b: Report, common: Sequence[str]) -> tuple[tuple[Change, ...], list[str]]:
    pairs = list(zip(a.runs, b.runs, strict=True))
    quiet = [pair for pair in pairs if not any(run.busy_cores for run in pair)]
    warnings = []
    if len(quiet) < len(pairs):
        warnings.append(
            f"{len(pairs) - len(quiet)} of {len(pairs)} pairs are left out: other programs ran as they began."
        )
    if not _in_turns(pairs):
        warnings.append("The runs were not taken in turns: how the machine changed over time counts as the program's.")
    why_not = "" if len(quiet) >= MIN_RUNS else BUSY
    medians = [
        [(left.series[key].p50_ms, right.series[key].p50_ms) for left, right in (pairs if why_not else quiet)]
        for key in common
    ]
    judged = [judge_runs(key, rows, len(common), why_not) for key, rows in zip(common, medians, strict=True)]
    return tuple(judged), warnings


def _beside(a: Report, b: Report) -> Comparison:
    counts = len(a.runs), len(b.runs)
    if counts[0] != counts[1] or 1 < counts[0] < MIN_RUNS:
        raise ConfigError(
            f"{a.name} holds {counts[0]} runs and {b.name} {counts[1]}: give one run each, or at least {MIN_RUNS}, "
            "as many of both, taken in turns as by dphr-bench versus."
        )
    common, unpaired = _common(a, b)
    changes, warnings = (_beside_one if counts[0] == 1 else _beside_many)(a, b, common)
    return Comparison(
        baseline=a.name,
        candidate=b.name,
        programs=(str(a.first.get("program") or ""), str(b.first.get("program") or "")),
        changes=changes,
        unpaired=tuple(unpaired),
        warnings=(*_warnings_of(a, b), *warnings),
        invalid=bool(a.invalid or b.invalid),
    )


def compare(reports: Sequence[Report]) -> tuple[Comparison, ...]:
    """Each report but the first beside the first.

    Raises:
        ConfigError: fewer than two reports; two without a common metric, or with other numbers of runs than they need.
    """
    if len(reports) < 2:
        raise ConfigError(f"{len(reports)} report to compare: give the baseline first, then one or more others.")
    return tuple(_beside(reports[0], other) for other in reports[1:])


def compare_files(paths: Sequence[Path], fail_above: float | None = None) -> ComparisonReport:
    """Compare reports; the first is the baseline.

    Args:
        paths: reports; the records of a run or a sweep, or of many, a line each.
        fail_above: share above which a slowdown of many runs fails, such as 0.05; None fails nothing.

    Raises:
        ConfigError: as `compare`; or a file is no report.
    """
    return ComparisonReport(compare([make_report(str(path), read_records(path)) for path in paths]), fail_above)
