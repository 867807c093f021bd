"""A folder of reports -> one picture: p50 and p90 of each scenario over time, a colour per machine."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.compare.series import is_record, parse_records, scenario_name
from bench.record import SCHEMA_VERSION
from bench.report.plots import COLOURS, RED, Plot, plain_log_axis, write_sheet
from dphr_infer.errors import ConfigError

if TYPE_CHECKING:
    from bench.report.plots import Axes

_MARKS = "osD^vP*X"
_WIDE = 8.0
_HALF_A_DAY = datetime.timedelta(hours=12)
_LEGEND_IN = 0.2
_PANEL_IN = 3.0


@dataclass(frozen=True, slots=True)
class Point:
    """One scenario of one record. `p90_ms` is None where the run had too few samples for it."""

    scenario: str
    machine: str
    subject: str
    date: datetime.datetime
    p50_ms: float
    p90_ms: float | None
    valid: bool


@dataclass(frozen=True, slots=True)
class History:
    """What was plotted.

    Attributes:
        points: in the order of their dates.
        n_records: reports that were read.
        skipped: "file: why" of the other files.
    """

    points: tuple[Point, ...]
    n_records: int
    skipped: tuple[str, ...]

    @property
    def machines(self) -> tuple[str, ...]:
        """Names of the machines, each once, in the order of their first report."""
        return tuple(dict.fromkeys(point.machine for point in self.points))

    def to_text(self) -> str:
        """One line, and one for each file that is not in the picture."""
        scenarios = len({point.scenario for point in self.points})
        head = f"{self.n_records} reports, {scenarios} scenarios, {len(self.machines)} machines"
        return "\n".join([head, *(f"left out: {text}" for text in self.skipped)]) + "\n"


def _machine_name(machine: Mapping[str, Any]) -> str:
    """Board, or else the CPU with its cores; then the GPU and the power mode where there are any."""
    board = str(machine.get("board") or "unknown")
    name = board if board != "unknown" else f"{machine.get('cpu', 'unknown')}, {machine.get('cores', '?')} cores"
    extra = [str(machine[key]) for key in ("gpu", "power_mode") if machine.get(key) not in (None, "", "none")]
    return ", ".join([name, *(text for text in extra if not text.startswith("integrated"))])


def _subject_name(subject: Mapping[str, Any]) -> str:
    keys = ("encoder", "precision", "engine", "matcher", "gallery_rows")
    parts = [
        f"{subject[key]:,} rows" if key == "gallery_rows" else str(subject[key]) for key in keys if subject.get(key)
    ]
    return ", ".join(parts) or "unnamed subject"


def _date(record: Mapping[str, Any]) -> datetime.datetime | None:
    try:
        date = datetime.datetime.fromisoformat(str(record.get("date")).replace("Z", "+00:00"))
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=datetime.timezone.utc)


def points_of(record: Mapping[str, Any]) -> list[Point]:
    """The scenarios of a record that have a latency; none where its date cannot be read."""
    date, found = _date(record), []
    if date is None:
        return []
    for scenario in record.get("scenarios") or ():
        summary = scenario.get("latency")
        if isinstance(summary, Mapping) and isinstance(summary.get("p50_ms"), int | float):
            p90 = summary.get("p90_ms")
            found.append(
                Point(
                    scenario_name(scenario),
                    _machine_name(record.get("machine") or {}),
                    _subject_name(record.get("subject") or {}),
                    date,
                    float(summary["p50_ms"]),
                    float(p90) if isinstance(p90, int | float) else None,
                    record.get("valid") is True,
                )
            )
    return found


def read_history(folder: Path) -> History:
    """Read every report of a folder, not of the folders in it; other JSON files are left out, and said.

    Raises:
        ConfigError: it is no folder, or holds no report with a scenario.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder: give the one that holds your reports.")
    points: list[Point] = []
    skipped: list[str] = []
    n_records = 0
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".jsonl"))
    for path in files:
        try:
            values = parse_records(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            skipped.append(f"{path.name}: cannot be read as JSON ({error})")
            continue
        for value in values:
            found = points_of(value) if is_record(value) else []
            n_records += bool(found)
            points += found
            if not found:
                why = "no scenario with a latency and a date" if is_record(value) else "no report of this version"
                line = f"{path.name}: {why}"
                if line not in skipped:  # a sweep has many records
                    skipped.append(line)
    if not points:
        raise ConfigError(
            f"{folder} holds {len(files)} JSON files and no report of schema version {SCHEMA_VERSION} with a scenario: "
            "run dphr-bench with its JSON output in that folder."
        )
    return History(tuple(sorted(points, key=lambda point: point.date)), n_records, tuple(skipped))


def _paint(axes: Axes, points: Sequence[Point], colours: Mapping[str, str], marks: Mapping[str, str]) -> None:
    """One scenario: p50 as a line, p90 dashed; reports of one machine and subject are joined, invalid ones are not."""
    import matplotlib.dates

    for machine, subject in dict.fromkeys((point.machine, point.subject) for point in points):
        line = [p for p in points if (p.machine, p.subject, p.valid) == (machine, subject, True)]
        look: dict[str, Any] = {"color": colours[machine], "marker": marks[subject], "markersize": 4.5}
        label = f"{machine}; {subject}"
        axes.plot([p.date for p in line], [p.p50_ms for p in line], "-", linewidth=1.6, label=label, **look)
        tails = [(p.date, p.p90_ms) for p in line if p.p90_ms is not None]
        axes.plot([t[0] for t in tails], [t[1] for t in tails], "--", linewidth=1.0, fillstyle="none", **look)
    if bad := [p for p in points if not p.valid]:
        label = "INVALID, p50"
        axes.plot([p.date for p in bad], [p.p50_ms for p in bad], "x", color=RED, markeredgewidth=1.8, label=label)
    values = [value for p in points for value in (p.p50_ms, p.p90_ms) if value is not None and value > 0]
    if values and max(values) > _WIDE * min(values):
        plain_log_axis(axes, (1.0, 2.0, 5.0), along="y")
    elif values:
        axes.set_ylim(0, 1.12 * max(values))
    first, last = points[0].date, points[-1].date
    margin = 0.04 * (last - first) or _HALF_A_DAY  # matplotlib widens a single moment to four years
    axes.set_xlim(first - margin, last + margin)
    locator = matplotlib.dates.AutoDateLocator(maxticks=6)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(matplotlib.dates.ConciseDateFormatter(locator))
    axes.set_ylabel("ms; dashed: p90")
    axes.legend(frameon=False, fontsize=7.5, loc="lower left", bbox_to_anchor=(0.0, 1.0))


def history_plots(history: History) -> list[Plot]:
    """A picture for each scenario; a machine keeps its colour and a subject its mark in all of them."""
    points = history.points
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(history.machines)}
    marks = {name: _MARKS[i % len(_MARKS)] for i, name in enumerate(dict.fromkeys(p.subject for p in points))}
    found = []
    for scenario in dict.fromkeys(point.scenario for point in points):
        own = [point for point in points if point.scenario == scenario]

        def paint(axes: Axes, own: Sequence[Point] = own) -> None:
            _paint(axes, own, colours, marks)

        lines = len({(point.machine, point.subject) for point in own}) + any(not point.valid for point in own)
        found.append(
            Plot(scenario, f"{len(own)} reports.", f"history-{scenario}", paint, _PANEL_IN + _LEGEND_IN * lines)
        )
    return found


def plot_history(folder: Path, out: Path) -> History:
    """Write a PNG of every report of a folder.

    Raises:
        ConfigError: see `read_history`; or `out` does not end in .png.
        MissingPackageError: matplotlib is not installed.
        StorageError: `out` cannot be written.
    """
    if out.suffix.lower() != ".png":
        raise ConfigError(f"The picture {out} does not end in .png, which is its format: rename it.")
    history = read_history(folder)
    write_sheet(out, f"{history.n_records} reports", history_plots(history))
    return history
