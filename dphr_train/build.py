"""From settings to the parts of a run: data, sampler, network, loss, optimizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dphr_infer.errors import ConfigError
from dphr_train.config import TrainConfig
from dphr_train.datasets.open import open_dataset
from dphr_train.datasets.pairs import BatchPlan, LoadedBatch, PairDataset, open_loader
from dphr_train.datasets.reading import drone_photos, reader_of
from dphr_train.device import require_device
from dphr_train.encoder import Encoder, load_pretrained
from dphr_train.objective import Objective, Task
from dphr_train.run_record import describe_data
from dphr_train.samplers.base import Sampler
from dphr_train.samplers.open import open_sampler
from dphr_train.types import Direction, TrainSplit

_SCALER_START = 2.0**10


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """What a run works with.

    Attributes:
        data: what describe_data says of the data set.
        split, directions: training pairs; directions of the test split, none where there is no such split.
        sampler, plan, loader: the sampler's batches reach the loader by the plan.
        encoder, objective: on the device, in training mode.
        optimizer, scaler: of the parameters of both; the scaler is off but for fp16.
        steps: optimisation steps of the whole run.
    """

    data: dict[str, Any]
    split: TrainSplit
    directions: list[Direction]
    sampler: Sampler
    plan: BatchPlan
    loader: DataLoader[LoadedBatch]
    encoder: Encoder
    objective: Objective
    optimizer: torch.optim.AdamW
    scaler: torch.amp.GradScaler
    steps: int

    @property
    def parameters(self) -> list[Tensor]:
        """What is learned, the encoder's first."""
        return [*self.encoder.parameters(), *self.objective.parameters()]


def build_parts(config: TrainConfig) -> Parts:
    """The parts of a run at its start; seeds torch's random numbers.

    Raises:
        ConfigError: the device is not there, or the settings do not fit it or the data set.
        DatasetError, TrainingError, CheckpointError: the data set or the pretrained weights cannot be used.
    """
    optim = config.optim
    if optim.precision == "fp16" and not config.device.startswith("cuda"):
        raise ConfigError(f"optim.precision fp16 needs a CUDA device, the device is {config.device}: use bf16 or fp32.")
    require_device(config.device)
    torch.manual_seed(config.seed)
    dataset = open_dataset(config.data.dataset, config.data.root)
    split = dataset.train_split()
    directions = dataset.test_directions()
    queries = [pair.query for pair in split.pairs] if split.query_view == "drone" else []
    reader_of(config.data).require_attitudes([*queries, *drone_photos(directions)])
    sampler = open_sampler(config.sampler, split, optim.batch_size, config.seed)
    plan = BatchPlan()
    pairs = PairDataset(split, config.data, config.augment, config.seed)
    encoder = Encoder(config.model, config.data.image_px, config.data.ground_px)
    load_pretrained(encoder, config.model.weights)
    encoder.to(config.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    task = Task([pair.place_id for pair in split.pairs], encoder.n_parts, encoder.part_dim)
    objective = Objective(config.loss, task).to(config.device)
    parameters = [*encoder.parameters(), *objective.parameters()]
    return Parts(
        data=describe_data(config.data.root, leave_out=config.out),
        split=split,
        directions=directions,
        sampler=sampler,
        plan=plan,
        loader=open_loader(pairs, plan, config.data.workers),
        encoder=encoder.train(),
        objective=objective,
        optimizer=torch.optim.AdamW(parameters, lr=optim.learning_rate, weight_decay=optim.weight_decay),
        scaler=torch.amp.GradScaler(config.device.split(":")[0], _SCALER_START, enabled=optim.precision == "fp16"),
        steps=optim.steps or max(1, round(optim.epochs * sampler.steps_per_epoch)),
    )
