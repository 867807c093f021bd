"""A head by the name that the settings give it."""

from __future__ import annotations

from dphr_train.config import ModelConfig
from dphr_train.heads.lpn import LpnHead
from dphr_train.heads.mccg import MccgHead
from dphr_train.heads.pooled import PooledHead

Head = PooledHead | LpnHead | MccgHead


def reads_feature_map(config: ModelConfig) -> bool:
    """Whether the head of these settings reads the feature map, rather than the network's own pooled output."""
    return config.head != "pooled" or config.pooling == "gem"


def build_head(config: ModelConfig, channels: int) -> Head:
    """The head of these settings, on features of so many channels."""
    if config.head == "lpn":
        return LpnHead(channels, config.parts, config.part_dim)
    if config.head == "mccg":
        return MccgHead(channels, config.part_dim)
    return PooledHead(channels, config.pooling == "gem", config.projection_dim)
