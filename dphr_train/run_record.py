"""run.json: what a run was made of and what it reached, so that its figures can be traced and made again."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dphr_infer.atomic import atomic_file
from dphr_infer.errors import CheckpointError
from dphr_infer.preprocess import IMAGE_SUFFIXES
from dphr_train.config import TrainConfig
from dphr_train.config_json import config_from_json, config_to_json
from dphr_train.encoder import import_timm

RECORD_FILE = "run.json"
_FORMAT, _VERSION = "dphr-run", 1


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


def describe_data(root: Path) -> dict[str, Any]:
    """Number of images below a folder and the sha256 of their sorted relative paths and sizes."""
    digest, count = hashlib.sha256(), 0
    for folder, folders, files in os.walk(root):
        folders.sort()
        for name in sorted(files):
            path = Path(folder, name)
            if path.suffix.lower() in IMAGE_SUFFIXES:
                digest.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\n".encode())
                count += 1
    return {"root": str(root), "images": count, "listing_sha256": digest.hexdigest()}


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
        return RunRecord(config=config_from_json(raw["config"]), **fields)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}). Evaluate the run again, or copy it again.") from error
