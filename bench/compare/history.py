"""A folder of reports -> one picture: p50 and p90 of each scenario over time, a colour a machine."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.compare.series import is_record, parse_records, scenario_name
from bench.record import SCHEMA_VERSION
from dphr_infer.errors import ConfigError, MissingPackageError
from dphr_infer.files.atomic import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

# Told apart by those who see few colours too; beyond eight they repeat, with the marks still different.
_COLOURS = ("#1f6fb2", "#d9730d", "#2f8f5b", "#a23b72", "#6b4fa0", "#8a6d00", "#0f8b8d", "#5b6470")
_MARKS = "osD^vP*X"
_GREY, _RED = "#8a8f98", "#c0392b"
_PANEL_IN = (6.2, 2.9)
_COLUMNS = 2
_DPI = 130
_WIDE = 8.0
_HALF_A_DAY = datetime.timedelta(hours=12)
_STYLE: dict[str, Any] = {
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _GREY,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "grid.color": "#e3e5e8",
}


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
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    for machine, subject in dict.fromkeys((point.machine, point.subject) for point in points):
        line = [p for p in points if (p.machine, p.subject, p.valid) == (machine, subject, True)]
        look: dict[str, Any] = {"color": colours[machine], "marker": marks[subject], "markersize": 4.5}
        axes.plot([p.date for p in line], [p.p50_ms for p in line], "-", linewidth=1.6, **look)
        tails = [(p.date, p.p90_ms) for p in line if p.p90_ms is not None]
        axes.plot([t[0] for t in tails], [t[1] for t in tails], "--", linewidth=1.0, fillstyle="none", **look)
    bad = [p for p in points if not p.valid]
    axes.plot([p.date for p in bad], [p.p50_ms for p in bad], "x", color=_RED, markersize=7, markeredgewidth=1.8)
    values = [value for p in points for value in (p.p50_ms, p.p90_ms) if value is not None and value > 0]
    if values and max(values) > _WIDE * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.margins(y=0.12)
    elif values:
        axes.set_ylim(0, 1.12 * max(values))
    axes.set_ylabel("ms")


def _legend(points: Sequence[Point], colours: Mapping[str, str], marks: Mapping[str, str]) -> list[Line2D]:
    from matplotlib.lines import Line2D

    entries = [Line2D([], [], color=colour, linewidth=3, label=machine) for machine, colour in colours.items()]
    if len(marks) > 1:
        entries += [Line2D([], [], color=_GREY, marker=mark, ls="", label=name) for name, mark in marks.items()]
    entries += [
        Line2D([], [], color=_GREY, label="p50"),
        Line2D([], [], color=_GREY, linestyle="--", linewidth=1, label="p90"),
    ]
    if not all(point.valid for point in points):
        entries.append(Line2D([], [], color=_RED, marker="x", ls="", label="INVALID, p50"))
    return entries


def _draw(points: Sequence[Point], out: Path) -> None:
    """Draw points, in the order of their dates."""
    import matplotlib.dates
    from matplotlib.figure import Figure

    colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(dict.fromkeys(p.machine for p in points))}
    marks = {name: _MARKS[i % len(_MARKS)] for i, name in enumerate(dict.fromkeys(p.subject for p in points))}
    scenarios = list(dict.fromkeys(point.scenario for point in points))
    columns = min(_COLUMNS, len(scenarios))
    rows = -(-len(scenarios) // columns)
    legend = _legend(points, colours, marks)
    figure = Figure((_PANEL_IN[0] * columns, _PANEL_IN[1] * rows + 0.22 * len(legend)), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    first, last = points[0].date, points[-1].date
    # matplotlib widens a single moment to four years.
    margin = 0.04 * (last - first) or _HALF_A_DAY
    panels[0].set_xlim(first - margin, last + margin)
    for axes, scenario in zip(panels, scenarios, strict=False):
        _paint(axes, [point for point in points if point.scenario == scenario], colours, marks)
        axes.set_title(scenario)
        locator = matplotlib.dates.AutoDateLocator(maxticks=6)
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(matplotlib.dates.ConciseDateFormatter(locator))
        # sharex hides the dates of a panel that has an empty place below it.
        axes.tick_params(labelbottom=True)
    for axes in panels[len(scenarios) :]:
        axes.remove()
    figure.legend(handles=legend, loc="outside upper left", ncols=1, frameon=False)
    figure.savefig(out, format="png", dpi=_DPI, metadata={"Software": None})


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
    try:
        import matplotlib
    except ImportError as error:
        raise MissingPackageError("matplotlib", "bench", "Drawing the history") from error
    with matplotlib.rc_context(_STYLE), atomic_file(out) as temporary:
        _draw(history.points, temporary)
    return history
