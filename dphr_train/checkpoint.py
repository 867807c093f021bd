"""A checkpoint is one safetensors file with everything that the next step depends on.

Tensors: "encoder.*", "objective.*" (temperature, classifiers, state of PALW), "optimizer.<parameter number>.<name>",
"neighbours". Metadata "dphr", JSON: format, version, config, step, epoch, offset, processes, data_sha256, collapse (the
window of the collapse watch), scaler, metrics. There is no random state: every step seeds its own generator from the
run's seed and its number.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dphr_infer.errors import CheckpointError
from dphr_infer.files.atomic import atomic_file
from dphr_infer.images.preprocess import Preprocess
from dphr_train.config import TrainConfig
from dphr_train.config_json import config_from_json, config_to_json
from dphr_train.encoder import Encoder, load_exactly

LAST_CHECKPOINT = "last.safetensors"
_FORMAT, _VERSION = "dphr-checkpoint", 3
_HEADER = ("step", "epoch", "offset", "processes", "data_sha256", "collapse", "scaler", "metrics")


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """The state of a run after `step` steps.

    Attributes:
        epoch, offset: where the sampler stands: the next batch is number `offset` of `epoch`.
        processes: of the run; it has to be resumed on as many.
        data_sha256: digest of the data set's listing; it has to be resumed on the same.
        encoder: the encoder's state dict.
        objective: the loss's state dict, what it learned and what it counted.
        optimizer: {parameter number: {name: tensor}}.
        neighbours: the sampler's lists, int32 (n_places, range); None where it uses none.
        collapse: the last values of InfoNCE, for the collapse watch.
        scaler: state of the fp16 loss scaler; empty where none is used.
        metrics: what evaluations measured, for people.
    """

    config: TrainConfig
    step: int
    epoch: int
    offset: int
    processes: int
    encoder: dict[str, Tensor]
    objective: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    neighbours: Tensor | None = None
    collapse: list[float] = field(default_factory=list)
    scaler: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    data_sha256: str = ""


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint whole or not at all.

    Raises:
        StorageError: no space or no permission.
    """
    tensors = {f"encoder.{name}": value for name, value in checkpoint.encoder.items()}
    tensors |= {f"objective.{name}": value for name, value in checkpoint.objective.items()}
    for number, state in checkpoint.optimizer.items():
        tensors |= {f"optimizer.{number}.{name}": value for name, value in state.items()}
    if checkpoint.neighbours is not None:
        tensors["neighbours"] = checkpoint.neighbours
    header = {
        "format": _FORMAT,
        "version": _VERSION,
        "config": config_to_json(checkpoint.config),
        **{name: getattr(checkpoint, name) for name in _HEADER},
    }
    content = save(
        {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
        metadata={"dphr": json.dumps(header, sort_keys=True)},
    )
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        CheckpointError: missing, cut short, of another format, or with values that are not finite.
    """
    if not path.is_file():
        raise CheckpointError(f"The checkpoint {path} does not exist.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        header = json.loads(metadata["dphr"])
        if header["format"] != _FORMAT or header["version"] != _VERSION:
            raise CheckpointError(
                f"{path} is {header['format']} version {header['version']}; this release reads {_FORMAT} {_VERSION}. "
                "Use the release that wrote it, or train again."
            )
        config = config_from_json(header["config"])
    except KeyError as error:
        raise CheckpointError(f"{path} is no checkpoint of dphr-train: its header lacks {error}.") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged or cut short ({error}). Copy it again or train again.") from error
    for name, value in tensors.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise CheckpointError(f"{path} holds NaN or infinity in {name}: the run that made it diverged.")
    optimizer: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".", 2)
            optimizer.setdefault(int(number), {})[key] = value
    return Checkpoint(
        config=config,
        step=int(header["step"]),
        epoch=int(header["epoch"]),
        offset=int(header["offset"]),
        processes=int(header["processes"]),
        data_sha256=header["data_sha256"],
        encoder=_part(tensors, "encoder."),
        objective=_part(tensors, "objective."),
        optimizer=optimizer,
        neighbours=tensors.get("neighbours"),
        collapse=[float(value) for value in header["collapse"]],
        scaler=header["scaler"],
        metrics=header["metrics"],
    )


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def load_encoder(path: Path) -> tuple[Encoder, Preprocess]:
    """The encoder of a checkpoint, in evaluation mode and float32, and how images must reach it.

    Raises:
        CheckpointError: as read_checkpoint, or the weights do not fit the architecture that the file names.
    """
    checkpoint = read_checkpoint(path)
    encoder = Encoder(checkpoint.config.model, checkpoint.config.data.image_px)
    load_exactly(encoder, checkpoint.encoder, str(path))
    return encoder.eval(), checkpoint.config.data.preprocess()


def last_checkpoint(run: Path) -> Path:
    """The checkpoint of a run's folder, or the path itself when it is a file."""
    return run / LAST_CHECKPOINT if run.is_dir() else run
