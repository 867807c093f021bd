"""The last step of a part in LPN and in MCCG."""

from __future__ import annotations

from torch import nn

_DROPOUT = 0.5


def bottleneck(channels: int, part_dim: int) -> nn.Sequential:
    """Linear, batch normalisation, dropout 0.5: (B, channels) -> (B, part_dim).

    As in the official code of both papers, the linear layer starts from Kaiming's normal over fan-out with zero bias,
    nothing non-linear follows, and what leaves here is the embedding: the classifier of an identity loss comes after.
    """
    linear = nn.Linear(channels, part_dim)
    nn.init.kaiming_normal_(linear.weight, mode="fan_out")
    nn.init.zeros_(linear.bias)
    return nn.Sequential(linear, nn.BatchNorm1d(part_dim), nn.Dropout(_DROPOUT))
