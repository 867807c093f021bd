"""A TrainConfig as JSON and back, for checkpoints, run records and bundles."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
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

MAY_DIFFER = ("out", "device", "checkpoint_every", "evaluate_every", "data.root", "data.workers", "data.cache")
"""Settings that may change while a run stays the same run: where it lies, where it computes, how it is watched."""


def config_to_json(config: TrainConfig) -> dict[str, Any]:
    """A TrainConfig as plain JSON values."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return str(value) if isinstance(value, Path) else value

    values: dict[str, Any] = plain(dataclasses.asdict(config))
    return values


def flat_settings(config: TrainConfig) -> dict[str, Any]:
    """Every setting by its dotted name, "loss.dphr.margin", as a plain JSON value."""

    def flat(values: dict[str, Any], prefix: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in values.items():
            found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
        return found

    return flat(config_to_json(config), "")


def differing_settings(new: TrainConfig, old: TrainConfig, ignored: Collection[str]) -> list[str]:
    """Dotted names of the settings whose values differ, in the order of the configuration, without the ignored."""
    before = flat_settings(old)
    return [name for name, value in flat_settings(new).items() if name not in ignored and value != before[name]]


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
        values["loss"] = LossConfig(
            **{**loss, "further": tuple(loss.get("further", ())), "dphr": DphrConfig(**loss["dphr"])}
        )
        ground = values["data"].ground_px
        values["data"] = dataclasses.replace(
            values["data"], root=Path(values["data"].root), ground_px=ground and tuple(ground)
        )
        return TrainConfig(**{**values, "out": Path(values["out"])})
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"The training configuration cannot be read: {error}. It was written by another release."
        ) from error
