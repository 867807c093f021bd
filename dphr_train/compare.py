"""Runs side by side: what their settings differ in, what they reached, as a table and a plot.

Runs that differ in nothing but the seed, trained on the same data by as many processes, are one row: mean and sample
standard deviation over its seeds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dphr_infer.errors import ConfigError
from dphr_infer.files.atomic import atomic_file
from dphr_train.config_json import MAY_DIFFER, flat_settings
from dphr_train.run_record import RunRecord

FIGURES = ("R@1", "AP")
_COLOURS = ("#1f6fb2", "#8fbce0")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a comparison.

    Attributes:
        name: what sets it apart from the other rows.
        seeds: seed of each run.
        figures: {(direction, "R@1" or "AP"): a percentage for each seed}, under the full gallery.
    """

    name: str
    seeds: tuple[int, ...]
    figures: dict[tuple[str, str], tuple[float, ...]]


def figures_of(evaluation: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    """{(direction, figure): percent} under the full gallery, of one evaluation as run.json holds it."""
    found = {}
    for direction, protocols in evaluation.items():
        report = protocols["full"]
        found[direction, "R@1"] = 100 * report["recall_at"]["1"]
        found[direction, "AP"] = 100 * report["ap"]
    return found


def make_row(name: str, evaluations: Mapping[int, Mapping[str, Any]]) -> Row:
    """A row of {seed: evaluation}."""
    by_seed = {seed: figures_of(evaluation) for seed, evaluation in sorted(evaluations.items())}
    keys = next(iter(by_seed.values()))
    return Row(name, tuple(by_seed), {key: tuple(figures[key] for figures in by_seed.values()) for key in keys})


def mark_collapsed(name: str, runs: Mapping[int, RunRecord]) -> str:
    """A row's name, with the step at which a run of it collapsed: its figures are of an encoder that tells nothing.

    Args:
        runs: of the row, by seed.
    """
    steps = {seed: run.metrics["collapsed"] for seed, run in sorted(runs.items()) if run.metrics.get("collapsed")}
    marks = [
        f"seed {seed} collapsed at step {step}" if len(runs) > 1 else f"collapsed at step {step}"
        for seed, step in steps.items()
    ]
    return f"{name} ({', '.join(marks)})" if marks else name


def group_runs(runs: Mapping[str, RunRecord], evaluations: Mapping[str, Any] | None = None) -> list[Row]:
    """Runs by name as rows; runs that differ in their seed alone share a row, named by what sets it apart.

    That is its settings, "processes", and "data", the digest of the training data's listing; not the data's folder.

    Args:
        runs: by name.
        evaluations: of the same runs by the same names, on another test set; None takes each run's own.

    Raises:
        ConfigError: there is no run, one evaluated nothing, two have every setting in common, the seed too, or two
            were evaluated in different directions.
    """
    if not runs:
        raise ConfigError("No run is given: name the folders of finished runs.")
    evaluated = {name: run.evaluation() for name, run in runs.items()} if evaluations is None else evaluations
    _require_same_directions(evaluated)
    groups: dict[tuple[tuple[str, Any], ...], dict[int, str]] = {}
    for name, run in runs.items():
        key = _key(run)
        seeds = groups.setdefault(key, {})
        if run.config.seed in seeds:
            raise ConfigError(
                f"The runs {seeds[run.config.seed]} and {name} have the same settings and seed: give one of them."
            )
        seeds[run.config.seed] = name
    differing = {k for key in groups for k, v in key if any((k, v) not in other for other in groups)}
    rows = []
    for key, seeds in groups.items():
        label = ", ".join(f"{k} {v}" for k, v in key if k in differing) if len(groups) > 1 else ""
        name = mark_collapsed(label or next(iter(seeds.values())), {seed: runs[run] for seed, run in seeds.items()})
        rows.append(make_row(name, {seed: evaluated[run] for seed, run in seeds.items()}))
    return rows


def _key(run: RunRecord) -> tuple[tuple[str, Any], ...]:
    """What the seeds of one row have in common, by name."""
    own = {name: value for name, value in flat_settings(run.config).items() if name not in (*MAY_DIFFER, "seed")}
    own |= {"data": run.data["listing_sha256"][:8], "processes": run.environment["processes"]}
    return tuple(sorted((name, str(value)) for name, value in own.items()))


def _require_same_directions(evaluated: Mapping[str, Mapping[str, Any]]) -> None:
    first = next(iter(evaluated))
    for name, evaluation in evaluated.items():
        if not evaluation:
            raise ConfigError(f"The run {name} evaluated nothing: its data set has no test split. Leave it out.")
        if evaluation.keys() != evaluated[first].keys():
            raise ConfigError(
                f"The run {first} was evaluated in {', '.join(evaluated[first])}, the run {name} in "
                f"{', '.join(evaluation)}: their figures do not compare. Give runs of one benchmark, or leave one out."
            )


def spread(values: Sequence[float]) -> str:
    """ "45.1 ± 0.8", mean and sample standard deviation; a single value as it is."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"


def to_markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table; below the first row, the mean difference to it over the seeds that both have."""
    keys = list(rows[0].figures)
    lines = [
        "| run | seeds | " + " | ".join(f"{direction} {figure}" for direction, figure in keys) + " |",
        "|---|---|" + "---|" * len(keys),
    ]
    for row in rows:
        cells = []
        for key in keys:
            text = spread(row.figures[key])
            shared = sorted(set(row.seeds) & set(rows[0].seeds))
            if row is not rows[0] and shared:
                gains = [_at(row, key, seed) - _at(rows[0], key, seed) for seed in shared]
                text += f" ({spread_signed(gains)})"
            cells.append(text)
        lines.append(f"| {row.name} | {len(row.seeds)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def spread_signed(values: Sequence[float]) -> str:
    """Mean of paired differences with its sign, and their sample standard deviation: "+0.52 ± 0.30"."""
    mean = f"{np.mean(values):+.2f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.2f}"


def _at(row: Row, key: tuple[str, str], seed: int) -> float:
    return row.figures[key][row.seeds.index(seed)]


def rows_to_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows as JSON values, a figure by "direction figure"."""
    return [
        {**dataclasses.asdict(row), "figures": {" ".join(key): list(value) for key, value in row.figures.items()}}
        for row in rows
    ]


def draw_rows(rows: Sequence[Row], path: Path, title: str = "") -> None:
    """Write a PNG: a bar for each row and figure at its mean, a dot for each seed."""
    from matplotlib.figure import Figure

    directions = list(dict.fromkeys(direction for direction, _ in rows[0].figures))
    figure = Figure(figsize=(5.2 * len(directions), 1.6 + 0.55 * len(rows)), layout="constrained")
    axes = figure.subplots(1, len(directions), squeeze=False)[0]
    for axis, direction in zip(axes, directions, strict=True):
        for number, name in enumerate(FIGURES):
            for line, row in enumerate(rows):
                values = row.figures[direction, name]
                y = line + 0.2 * (2 * number - 1)
                axis.barh(y, np.mean(values), 0.36, color=_COLOURS[number], label=name if line == 0 else None)
                axis.plot(values, [y] * len(values), "o", color="#20242a", markersize=3)
                colour = "white" if number == 0 else "#20242a"
                axis.annotate(
                    f"{np.mean(values):.1f}",
                    (3, y),
                    xycoords=("axes points", "data"),
                    va="center",
                    fontsize=8,
                    color=colour,
                )
        everything = [v for row in rows for name in FIGURES for v in row.figures[direction, name]]
        axis.set_xlim(max(0.0, min(everything) - 8), max(everything) + 2)
        axis.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=8)
        axis.invert_yaxis()
        axis.set_title(direction, fontsize=10)
        axis.set_xlabel("percent, full gallery; the axis does not begin at 0", fontsize=8)
        axis.grid(axis="x", alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=len(FIGURES))
    if title:
        figure.suptitle(title, fontsize=11)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
