"""A TrainConfig as JSON and back, for checkpoints, run records and bundles."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from dphr_infer.errors import ConfigError
from dphr_train.config import (
    AugmentConfig,
    DataConfig,
    DphrConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    SamplerConfig,
    TrainConfig,
)

_SECTIONS = {
    "data": DataConfig,
    "augment": AugmentConfig,
    "sampler": SamplerConfig,
    "model": ModelConfig,
    "optim": OptimConfig,
}


def config_to_json(config: TrainConfig) -> dict[str, Any]:
    """A TrainConfig as plain JSON values."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return str(value) if isinstance(value, Path) else value

    return plain(dataclasses.asdict(config))


def config_from_json(raw: dict[str, Any]) -> TrainConfig:
    """Read back what config_to_json wrote.

    Raises:
        ConfigError: a field is unknown or missing, or a value is out of range.
    """
    try:
        values = dict(raw)
        for name, section in _SECTIONS.items():
            values[name] = section(**values.get(name, {}))
        loss = dict(values["loss"])
        values["loss"] = LossConfig(**{**loss, "dphr": DphrConfig(**loss["dphr"])})
        ground = values["data"].ground_px
        values["data"] = dataclasses.replace(
            values["data"], root=Path(values["data"].root), ground_px=ground and tuple(ground)
        )
        return TrainConfig(**{**values, "out": Path(values["out"])})
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"The training configuration cannot be read: {error}. It was written by another release."
        ) from error
