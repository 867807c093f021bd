"""Saved reports read back: records of the schema, and every latency in them as a named series."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.record import SCHEMA, SCHEMA_VERSION
from dphr_infer.errors import ConfigError
from dphr_infer.measure.stats import percentile

# Keys that do not tell what was measured: how long, and what follows from the rest.
_HOW_LONG = ("seconds", "noise", "least", "minutes", "windows")
_FOUND = ("read_bytes", "in_cache", "allowed_rows", "peak_memory_bytes", "widened", "rescanned")


@dataclass(frozen=True, slots=True)
class Series:
    """One metric of one record.

    Attributes:
        samples_ms: float64 (n,), in the order of the calls; None where the record holds only their summary.
    """

    name: str
    n: int
    p50_ms: float
    samples_ms: NDArray[np.float64] | None


def parse_records(text: str) -> list[Any]:
    """The JSON values of a text that holds one, or one a line.

    Raises:
        ValueError: it holds neither.
    """
    try:
        return [json.loads(text)]
    except ValueError:
        return [json.loads(line) for line in text.splitlines() if line.strip()]


def is_record(value: Any) -> bool:
    """Whether it is a record of this schema and version, with the parts of the right kinds."""
    if not isinstance(value, dict) or (value.get("schema"), value.get("schema_version")) != (SCHEMA, SCHEMA_VERSION):
        return False
    lists = [value.get(key) or [] for key in ("scenarios", "matching", "batches")]
    if not all(isinstance(rows, list) and all(isinstance(row, dict) for row in rows) for rows in lists):
        return False
    parts = [value.get(key) or {} for key in ("machine", "subject")]
    parts += [row.get(key) or {} for row in lists[0] for key in ("settings", "stages", "stage_samples_ms")]
    return all(isinstance(part, dict) for part in parts)


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of one report: one JSON value, or one a line.

    Raises:
        ConfigError: it cannot be read, is no JSON, or is no report of this schema and version.
    """
    try:
        values = parse_records(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON ({error}): give a report that dphr-bench wrote.") from error
    for value in values:
        if not is_record(value):
            said = (value.get("schema"), value.get("schema_version")) if isinstance(value, dict) else None
            raise ConfigError(
                f"{path} is no report of dphr-bench with schema version {SCHEMA_VERSION} (it says "
                f"{f'{said[0]} {said[1]}' if said else 'nothing'}): measure again with this version."
            )
    if not values:
        raise ConfigError(f"{path} is empty: give a report that dphr-bench wrote.")
    return values


def _samples(where: str, values: Any) -> NDArray[np.float64] | None:
    """Samples as an array, None for none.

    Raises:
        ConfigError: one is no duration.
    """
    if not values:
        return None
    try:
        samples = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        samples = np.array([math.nan])
    if samples.ndim != 1 or not np.isfinite(samples).all() or samples.min() < 0:
        raise ConfigError(f"{where} holds samples that are no durations: measure again.")
    return samples


def _series(where: str, name: str, summary: Any, values: Any) -> list[Series]:
    """No series, or one: of the samples where there are any, else of the summary."""
    samples = _samples(f"{where}: {name}", values)
    if samples is not None:
        return [Series(name, len(samples), percentile(samples, 50), samples)]
    if isinstance(summary, Mapping) and isinstance(summary.get("p50_ms"), int | float) and summary["p50_ms"] > 0:
        return [Series(name, int(summary.get("n", 0)), float(summary["p50_ms"]), None)]
    return []


def _named(item: Mapping[str, Any], kinds: tuple[type, ...], without: Sequence[str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in item.items() if isinstance(value, kinds) and key not in without)


def _label(row: Mapping[str, Any]) -> str:
    """What identifies a row: names, counts, switches and the prior. Other floats are figures, as are _FOUND."""
    prior = {} if row.get("prior_m") is None else {"prior_m": f"{row['prior_m']:g}"}
    return _named({**row, **prior}, (str, int), _FOUND)


def scenario_name(scenario: Mapping[str, Any]) -> str:
    """Its name and what it was asked for, such as "multi-stream (batch 4)"; how long it was to measure is left out."""
    settings = _named(scenario.get("settings") or {}, (str, int, float), _HOW_LONG)
    return f"{scenario.get('name')} ({settings})" if settings else str(scenario.get("name"))


def metrics(where: str, record: Mapping[str, Any]) -> dict[str, Series]:
    """{name: series} of everything with a latency: scenarios, their stages, start-up, matching and batches.

    Args:
        where: the record in words, for errors.

    Raises:
        ConfigError: samples that are no durations.
    """
    found: list[Series] = []
    for scenario in record.get("scenarios") or ():
        name = scenario_name(scenario)
        found += _series(where, name, scenario.get("latency"), scenario.get("samples_ms"))
        stage_samples = scenario.get("stage_samples_ms") or {}
        for stage, summary in (scenario.get("stages") or {}).items():
            found += _series(where, f"{name}: {stage}", summary, stage_samples.get(stage))
    start = record.get("startup_ms")
    if isinstance(start, Mapping):
        found += _series(where, "start-up", start.get("warm"), start.get("samples_ms"))
    for kind in ("matching", "batches"):
        for row in record.get(kind) or ():
            for key, summary in row.items():
                if isinstance(summary, Mapping) and "p50_ms" in summary:
                    values = row.get("samples_ms" if key == "latency" else f"{key}_samples_ms")
                    words = kind if key == "latency" else f"{kind}: {key}"
                    found += _series(where, f"{words} ({_label(row)})", summary, values)
    return {series.name: series for series in found}
