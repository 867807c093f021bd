"""Where a run stands: what its checkpoint holds, how that is taken, and how a run continues from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from dphr_infer.errors import ConfigError
from dphr_train.build import Parts
from dphr_train.checkpoint import LAST_CHECKPOINT, Checkpoint
from dphr_train.config import TrainConfig
from dphr_train.config_json import MAY_DIFFER, differing_settings, flat_settings
from dphr_train.distributed import World
from dphr_train.encoder import load_exactly
from dphr_train.schedule import CollapseWatch


@dataclass(slots=True, eq=False)
class RunState:
    """What changes from step to step beside the parts.

    Attributes:
        watch: of collapse.
        step: steps that were made.
        epoch, offset: where the sampler stands: the next batch is number `offset` of `epoch`.
        metrics: what evaluations measured, and the step at which the run collapsed, if it did.
    """

    watch: CollapseWatch
    step: int = 0
    epoch: int = 0
    offset: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def has_evaluated(self) -> bool:
        """Whether the metrics hold an evaluation of this step."""
        return str(self.step) in self.metrics.get("evaluations", {})


def take_checkpoint(state: RunState, parts: Parts, config: TrainConfig, world: World) -> Checkpoint:
    """The run as it stands; its tensors are those of the run, not copies."""
    lists = parts.sampler.neighbours
    return Checkpoint(
        config=config,
        step=state.step,
        epoch=state.epoch,
        offset=state.offset,
        processes=world.size,
        data_sha256=parts.data["listing_sha256"],
        encoder=parts.encoder.state_dict(),
        objective=parts.objective.state_dict(),
        optimizer=parts.optimizer.state_dict()["state"],
        neighbours=None if lists is None else torch.from_numpy(lists.astype(np.int32)),
        collapse=state.watch.recent,
        scaler=parts.scaler.state_dict(),
        metrics=state.metrics,
    )


def restore_checkpoint(checkpoint: Checkpoint, parts: Parts, config: TrainConfig, world: World) -> RunState:
    """Bring the parts to where a checkpoint stands, and return the rest of the state.

    Raises:
        ConfigError: the checkpoint is of a run with other settings, data or number of processes.
        CheckpointError: its tensors do not fit.
    """
    _require_same_run(checkpoint, parts, config, world)
    source = str(config.out / LAST_CHECKPOINT)
    load_exactly(parts.encoder, checkpoint.encoder, source)
    load_exactly(parts.objective, checkpoint.objective, source)
    optimizer = parts.optimizer
    optimizer.load_state_dict({**optimizer.state_dict(), "state": checkpoint.optimizer})
    for parameter, moments in optimizer.state.items():  # in the parameters' memory order, or steps are slow
        for name, value in moments.items():
            if value.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter).copy_(value)
    if checkpoint.scaler:
        parts.scaler.load_state_dict(checkpoint.scaler)
    if checkpoint.neighbours is not None:
        parts.sampler.neighbours = checkpoint.neighbours.numpy().astype(np.int64)
    return RunState(
        watch=CollapseWatch(config.optim.batch_size, checkpoint.collapse),
        step=checkpoint.step,
        epoch=checkpoint.epoch,
        offset=checkpoint.offset,
        metrics=checkpoint.metrics,
    )


def _require_same_run(checkpoint: Checkpoint, parts: Parts, config: TrainConfig, world: World) -> None:
    """Refuse to continue a run under what changes its next step."""
    differ = differing_settings(config, checkpoint.config, MAY_DIFFER)
    if differ:
        name = differ[0]
        raise ConfigError(
            f"--resume needs the settings of the run that it continues: {name} is {flat_settings(config)[name]}, the "
            f"checkpoint has {flat_settings(checkpoint.config)[name]}. Give the same value, or start a new run in "
            "another --out."
        )
    if checkpoint.processes != world.size:
        raise ConfigError(
            f"The run was made by {checkpoint.processes} processes, this is {world.size}: batch norm and drop "
            f"path would go on differently. Start it with torchrun --nproc-per-node={checkpoint.processes}."
        )
    found = parts.data["listing_sha256"]
    if checkpoint.data_sha256 != found:
        raise ConfigError(
            f"The run began on images with the listing {checkpoint.data_sha256[:12]}; {config.data.root} has "
            f"{found[:12]} ({parts.data['images']} images): give the data set that it began with, or start a new "
            "run in another --out."
        )
