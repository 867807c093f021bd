"""A sampler by its settings."""

from __future__ import annotations

from dphr_train.config import SamplerConfig
from dphr_train.samplers.base import Sampler
from dphr_train.samplers.exclusive import ExclusiveSampler
from dphr_train.samplers.hard_negatives import HardSampler
from dphr_train.types import TrainSplit


def open_sampler(config: SamplerConfig, split: TrainSplit, batch_size: int, seed: int) -> Sampler:
    """The sampler that the settings ask for.

    Raises:
        ConfigError: lists from positions that the benchmark does not give.
        TrainingError: there are fewer places than a batch holds.
    """
    if config.kind == "hard":
        return HardSampler(split, config, batch_size, seed)
    return ExclusiveSampler([pair.place_id for pair in split.pairs], batch_size, seed)
