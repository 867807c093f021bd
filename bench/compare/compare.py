"""Reports -> what changed between them, by how much, and whether noise alone could have done it (`judge`).

A report holds one run, or MIN_RUNS runs and more that were taken in turns with those of another report, as
`dphr-bench versus` writes them. Two single runs are judged by their samples, many by how their pairs scatter.

Where other programs used more than OTHERS_SHARE of the cores, nothing is judged: runs of one matcher on a machine with
two cores and about three busy programs were each steady, and differed by up to a factor of three.
"""

from __future__ import annotations

import datetime
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.compare.judge import FLOOR, MIN_RUNS, SHARED_FLOOR, Change, judge_runs, judge_two, obstacle
from bench.compare.report import Comparison, ComparisonReport
from bench.compare.series import Series, metrics, read_records
from dphr_infer.errors import ConfigError
from dphr_infer.measure.machine import NONE, UNKNOWN

OTHERS_SHARE = 0.25
BUSY = "the machine was busy"
# What differs from run to run on one machine, and what a figure is not measured on.
_STATE = ("load", "others_cores", "clocks", "throttled", "throttled_by", "on_battery")


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One run, or one sweep with all of its points.

    Attributes:
        machines: of its records.
        date: when the last of its records was made; None where it does not say.
    """

    series: Mapping[str, Series]
    machines: tuple[Mapping[str, Any], ...]
    date: datetime.datetime | None

    @property
    def busy(self) -> Mapping[str, Any] | None:
        """The machine of a record beside which other programs used too much of it; None where none did."""
        for machine in self.machines:
            if float(machine.get("others_cores") or 0) > OTHERS_SHARE * max(1, int(machine.get("cores") or 1)):
                return machine
        return None


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """What one file holds.

    Attributes:
        runs: at least one, in the file's order.
        machine, subject, program: of the first record.
        others: words for what is not the same in all records of the file, one each.
        invalid: why a record may not be believed, one text a record that is marked so.
    """

    name: str
    runs: tuple[Run, ...]
    machine: Mapping[str, Any]
    subject: Mapping[str, Any]
    program: str
    others: tuple[str, ...]
    invalid: tuple[str, ...]


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
    return tuple(Run(series, tuple(r.get("machine") or {} for r in own), _date(own[-1])) for series, own in runs)


def make_report(name: str, records: Sequence[Mapping[str, Any]]) -> Report:
    """Put the records of one file together.

    Raises:
        ConfigError: samples that are no durations.
    """
    doubted = [record for record in records if record.get("valid") is not True]
    reasons = ["; ".join(map(str, record.get("invalid_reasons") or ("no reason is stated",))) for record in doubted]
    first, others = records[0], []
    for key in ("machine", "program"):
        here = first.get(key) or {}
        for record in records[1:]:
            there = record.get(key) or {}
            words = _differences(here, there) if key == "machine" else f"{here} and {there}" if here != there else ""
            others += [words] if words else []
    return Report(
        name=name,
        runs=_runs(name, records),
        machine=first.get("machine") or {},
        subject=first.get("subject") or {},
        program=str(first.get("program") or ""),
        others=tuple(dict.fromkeys(others)),
        invalid=tuple(dict.fromkeys(reasons)),
    )


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    keys = [key for key in {**a, **b} if key not in _STATE and a.get(key) != b.get(key)]
    return "; ".join(f"{key} {a.get(key)} against {b.get(key)}" for key in keys)


def _warnings_of(a: Report, b: Report) -> list[str]:
    found = []
    for words, differences in (
        ("Different machines", _differences(a.machine, b.machine)),
        ("Different subjects", _differences(a.subject, b.subject)),
    ):
        if differences:
            found.append(f"{words}, so that a change is not the program's alone: {differences}.")
    for report in (a, b):
        found += [f"The runs of {report.name} are not all of one kind: {words}." for words in report.others]
        found += [f"{report.name} is INVALID, its figures show nothing: {reason}." for reason in report.invalid]
        states = [machine for run in report.runs for machine in run.machines]
        for key, words in (("throttled", "throttled"), ("on_battery", "on battery")):
            if any(machine.get(key) for machine in states):
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


def _beside_one(a: Report, b: Report, common: Sequence[str], floor: float) -> tuple[tuple[Change, ...], list[str]]:
    left, right = a.runs[0].series, b.runs[0].series
    warnings = []
    for report in (a, b):
        if (machine := report.runs[0].busy) is not None:
            warnings.append(
                f"{report.name} was measured while other programs used {machine['others_cores']:.1f} of "
                f"{machine['cores']} cores: nothing is judged."
            )
    reasons = [BUSY if warnings else obstacle(left[key], right[key]) for key in common]
    n_judged = max(1, reasons.count(""))
    pairs = zip(common, reasons, strict=True)
    return tuple(judge_two(left[key], right[key], n_judged, floor, why) for key, why in pairs), warnings


def _in_turns(pairs: Sequence[tuple[Run, Run]]) -> bool:
    dates = [(a.date, b.date) for a, b in pairs]
    for (a0, b0), (a1, b1) in itertools.pairwise(dates):
        if a0 is not None and b0 is not None and a1 is not None and b1 is not None and max(a0, b0) > min(a1, b1):
            return False
    return True


def _beside_many(a: Report, b: Report, common: Sequence[str]) -> tuple[tuple[Change, ...], list[str]]:
    pairs = list(zip(a.runs, b.runs, strict=True))
    quiet = [pair for pair in pairs if not any(run.busy for run in pair)]
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
            f"{a.name} holds {counts[0]} runs and {b.name} {counts[1]}: give one run each, or {MIN_RUNS} and more, "
            "as many of both, taken in turns as by dphr-bench versus."
        )
    common, unpaired = _common(a, b)
    warnings, floor = _warnings_of(a, b), None
    if counts[0] == 1:
        shared = any(report.machine.get("hypervisor") not in (None, NONE, UNKNOWN) for report in (a, b))
        floor = SHARED_FLOOR if shared else FLOOR
        changes, more = _beside_one(a, b, common, floor)
    else:
        changes, more = _beside_many(a, b, common)
    return Comparison(
        baseline=a.name,
        candidate=b.name,
        programs=(a.program, b.program),
        changes=changes,
        unpaired=tuple(unpaired),
        warnings=tuple(warnings + more),
        invalid=bool(a.invalid or b.invalid),
        floor=floor,
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
        fail_above: share above which a slowdown fails, such as 0.05; None fails nothing.

    Raises:
        ConfigError: as `compare`; or a file is no report.
    """
    return ComparisonReport(compare([make_report(str(path), read_records(path)) for path in paths]), fail_above)
