"""What a report is given besides the bundle: engine builds as JSON, and the bundle's own table of int8 layers.

Both are files that somebody may have written by hand, so every field is looked at before anything is measured.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from dphr_infer.errors import BundleError, ExportError
from dphr_infer.files.bundle import PRECISIONS, Bundle
from export.build_bundle import INT8_FOLDER
from export.int8.sensitivity import TABLE_JSON, LayerSensitivity
from export.to_tensorrt import EngineReport

_MOST = 1 << 53
"""Above it JSON's readers round integers; no size in bytes comes near."""
_MOST_LOSS = 2.0


def read_engine_reports(path: Path) -> tuple[EngineReport, ...]:
    """What `dphr-export build --json` wrote.

    Raises:
        ExportError: unreadable, not JSON, or with a field that is missing, unknown or of another type.
    """
    try:
        rows = _read_rows(path, EngineReport)
        return tuple(_engine_report(row) for row in rows)
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(
            f"{path} is not what dphr-export build --json writes ({_on_one_line(error)}). Build the engines again."
        ) from error


def read_sensitivity(bundle: Bundle) -> tuple[LayerSensitivity, ...]:
    """What each layer of the bundle's int8 model costs; empty where its manifest names no such table.

    Raises:
        BundleError: the file is no such table.
    """
    name = f"{INT8_FOLDER}/{TABLE_JSON}"
    if bundle.manifest.quantisation is None or name not in bundle.manifest.files:
        return ()
    try:
        rows = _read_rows(bundle.folder / name, LayerSensitivity)
        return tuple(_layer(row) for row in rows)
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(
            f"{bundle.folder / name} is no table of layers ({_on_one_line(error)}). Export the bundle again."
        ) from error


def _on_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _read_rows(path: Path, kind: type) -> list[dict[str, Any]]:
    """A list of objects with exactly the fields of a dataclass."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"it holds {_shown(rows)} where a list of rows is expected")
    names = {field.name for field in dataclasses.fields(kind)}
    for number, row in enumerate(rows):
        found = set(row) if isinstance(row, dict) else set()
        if found != names:
            first = sorted(names ^ found)[0]
            raise ValueError(f"row {number} {'lacks' if first in names else 'has the unknown field'} {_shown(first)}")
    return rows


def _shown(value: object) -> str:
    return json.dumps(value)[:40]


def _require(good: bool, row: dict[str, Any], name: str, wanted: str) -> None:
    if not good:
        raise ValueError(f"{name} is {_shown(row[name])}, and must be {wanted}")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST


def _is_number(value: object, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= most


def _engine_report(row: dict[str, Any]) -> EngineReport:
    layers, warnings = row["layers"], row["warnings"]
    _require(row["precision"] in PRECISIONS, row, "precision", f"one of {', '.join(PRECISIONS)}")
    for name in ("flavour", "version", "gpu"):
        _require(isinstance(row[name], str), row, name, "a text")
    _require(_is_count(row["max_batch"]) and row["max_batch"] > 0, row, "max_batch", "a batch size")
    _require(_is_count(row["plan_bytes"]), row, "plan_bytes", "a size in bytes")
    counted = isinstance(layers, dict) and all(map(_is_count, layers.values()))
    _require(counted, row, "layers", "an object of numbers")
    _require(row["seconds"] is None or _is_number(row["seconds"], _MOST), row, "seconds", "null or a duration")
    _require(row["peak_bytes"] is None or _is_count(row["peak_bytes"]), row, "peak_bytes", "null or a size in bytes")
    listed = isinstance(warnings, list) and all(isinstance(text, str) for text in warnings)
    _require(listed, row, "warnings", "a list of texts")
    return EngineReport(**{**row, "warnings": tuple(warnings)})


def _layer(row: dict[str, Any]) -> LayerSensitivity:
    for name in ("layer", "op"):
        _require(isinstance(row[name], str) and bool(row[name].strip()), row, name, "a text")
    _require(_is_number(row["cosine_loss"], _MOST_LOSS), row, "cosine_loss", f"0 to {_MOST_LOSS:g}")
    _require(_is_count(row["weight_bytes"]), row, "weight_bytes", "a size in bytes")
    return LayerSensitivity(**row)
