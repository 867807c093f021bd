"""run.json: what a run was made of and what it reached, so that its figures can be traced and made again."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dphr_infer.errors import CheckpointError, ConfigError, DatasetError
from dphr_infer.files.atomic import atomic_file
from dphr_infer.images.preprocess import IMAGE_SUFFIXES
from dphr_train.config import TrainConfig
from dphr_train.config_json import config_from_json, config_to_json
from dphr_train.encoder import import_timm

RECORD_FILE = "run.json"
_FORMAT, _VERSION = "dphr-run", 1
_KINDS = {dict: "an object", int: "a whole number", str: "a text"}
_WAY_OUT = "Copy it again, or make the run again."


@dataclass(frozen=True, slots=True, eq=False)
class RunRecord:
    """A finished run.

    Attributes:
        config: every setting, the seed among them.
        steps: optimisation steps that were made.
        git: revision of the source and whether it was changed since; None where it is no git checkout.
        data: number of images below data.root, and the sha256 of their sorted paths and sizes ("listing_sha256"): a
            data set that lacks a picture or has another is told apart without reading gigabytes.
        environment: versions, device and threads.
        seconds: wall time in training steps, over all resumptions.
        metrics: {"evaluations": {step: {direction: {protocol: figures}}}, "collapsed": step, if it did}.
    """

    config: TrainConfig
    steps: int
    git: dict[str, Any] | None
    data: dict[str, Any]
    environment: dict[str, Any]
    seconds: float
    metrics: dict[str, Any]

    def evaluation(self) -> dict[str, Any]:
        """{direction: {protocol: figures}} of the last evaluation; empty where nothing was evaluated."""
        found: dict[str, dict[str, Any]] = self.metrics.get("evaluations", {})
        return found[max(found, key=int)] if found else {}


def git_revision(folder: Path) -> dict[str, Any] | None:
    """{"revision", "changed"} of the checkout that holds a folder; None where git or a checkout is not there."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True
        ).stdout.strip()

    try:
        return {"revision": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "--", str(folder)))}
    except (OSError, subprocess.CalledProcessError):
        return None


def describe_data(root: Path, leave_out: Path | None = None) -> dict[str, Any]:
    """Number of images below a folder and the sha256 of their sorted relative paths and sizes.

    Linked folders and files count as what they lead to; a link that leads nowhere, or back to a folder that it lies
    in, does not count. Nor does the folder `leave_out`, a run's own, which may lie inside the data set's.

    Raises:
        DatasetError: a folder or an image cannot be read.
    """
    digest, count = hashlib.sha256(), 0
    try:
        for path in _images(root, leave_out):
            line = f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
            count += 1
    except OSError as error:
        raise DatasetError(f"{error.filename} cannot be read ({error.strerror}): check the folder's rights.") from error
    return {"root": str(root), "images": count, "listing_sha256": digest.hexdigest()}


def _images(root: Path, leave_out: Path | None) -> Iterator[Path]:
    """Images below a folder, folder by folder in the order of their names."""

    def stop(error: OSError) -> None:
        raise error

    left_out = None if leave_out is None else os.path.realpath(leave_out)
    way = {root: frozenset({os.path.realpath(root)})}  # real paths of the folders that lead to a folder
    for folder, folders, files in os.walk(root, onerror=stop, followlinks=True):
        above, kept = way.pop(Path(folder)), []
        for name in sorted(folders):
            path = Path(folder, name)
            real = os.path.realpath(path)
            if real != left_out and real not in above:
                way[path] = above | {real}
                kept.append(name)
        folders[:] = kept
        for name in sorted(files):
            path = Path(folder, name)
            if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
                yield path


def describe_environment(device: str, processes: int) -> dict[str, Any]:
    """Versions, device, threads of a process, and the number of processes."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()
    return {
        "dphr": importlib.metadata.version("dphr"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": import_timm().__version__,
        "numpy": np.__version__,
        "device": device,
        "processes": processes,
        "device_name": name,
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
    }


def write_record(folder: Path, record: RunRecord) -> None:
    """Write run.json into a run's folder, whole or not at all.

    Raises:
        StorageError: no space or no permission.
    """
    raw = {"format": _FORMAT, "version": _VERSION, **asdict(record), "config": config_to_json(record.config)}
    with atomic_file(folder / RECORD_FILE) as temporary:
        temporary.write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")


def read_record(folder: Path) -> RunRecord:
    """The record of a run's folder.

    Raises:
        CheckpointError: there is none (the run did not end), or it is damaged or of another release.
    """
    path = folder / RECORD_FILE
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no {RECORD_FILE}: it is no run, or it has not ended (--resume it).")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["format"] != _FORMAT or raw["version"] != _VERSION:
            raise CheckpointError(
                f"{path} is {raw['format']} version {raw['version']}; this release reads {_FORMAT} {_VERSION}."
            )
        fields = {name: raw[name] for name in RunRecord.__slots__ if name != "config"}
        _check_fields(fields)
        return RunRecord(config=config_from_json(raw["config"]), **fields)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}): check its rights.") from error
    except KeyError as error:
        raise CheckpointError(f"{path} is damaged (it has no {error}). {_WAY_OUT}") from error
    except (ValueError, TypeError, RecursionError, ConfigError) as error:
        raise CheckpointError(f"{path} is damaged ({str(error).rstrip('.')}). {_WAY_OUT}") from error


def _check_fields(fields: dict[str, Any]) -> None:
    """Refuse values that a comparison or an ablation could not read.

    Raises:
        KeyError, TypeError, ValueError: a value is missing, of another kind or out of range.
    """

    def typed(value: Any, kind: type, name: str) -> Any:
        if not isinstance(value, kind) or isinstance(value, bool):
            raise TypeError(f"{name} is {str(value)[:40]!r}, not {_KINDS[kind]}")
        return value

    typed(fields["steps"], int, "steps")
    typed(typed(fields["data"], dict, "data")["listing_sha256"], str, "data.listing_sha256")
    typed(typed(fields["environment"], dict, "environment")["processes"], int, "environment.processes")
    metrics = typed(fields["metrics"], dict, "metrics")
    typed(metrics.get("collapsed", 0), int, "metrics.collapsed")
    for step, directions in typed(metrics.get("evaluations", {}), dict, "metrics.evaluations").items():
        int(step)
        for direction, protocols in typed(directions, dict, f"the evaluation of step {step}").items():
            report = typed(typed(protocols, dict, direction)["full"], dict, f"{direction} full")
            figures = {"ap": report["ap"], "recall_at.1": typed(report["recall_at"], dict, "recall_at")["1"]}
            for name, share in figures.items():
                if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
                    raise ValueError(f"{direction} {name} is {str(share)[:40]!r}, not a share in 0..1")
