"""MCCG: the global feature of a ConvNeXt beside two that cross-dimension attention makes, each with a bottleneck.

Shen, Wei, Kang, Wan, Yang: "MCCG: A ConvNeXt-based Multiple-Classifier Method for Cross-view Geo-localization", IEEE
TCSVT 2023. The attention is two of the three branches of Misra, Nalamada, Arasanipalai, Hou: "Rotate to Attend:
Convolutional Triplet Attention Module", WACV 2021.

From the paper and its official code: three parts, in this order: the branch in which channels and columns interact, the
branch of channels and rows, the global feature. A branch pools the axis left over by maximum and by mean, a 7 x 7
convolution with batch normalisation (momentum 0.01) and a sigmoid make the gate, and the gated map is averaged. Each
part has its own bottleneck (Linear, batch normalisation, dropout 0.5; 512 values), the same for both views.

Our reconstruction: the global feature is the plain average of the map of any network, where the official code brings it
through ConvNeXt's last layer normalisation; the embedding is the parts one after the other, brought to unit length as a
whole, where the official test does so part by part. Gating and averaging are one step: the gate does not depend on the
pooled axis, so the mean over that axis may be taken first.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dphr_train.heads.bottleneck import bottleneck
from dphr_train.heads.feature_map import require_feature_map

_KERNEL = 7
_MOMENTUM = 0.01
_ROWS, _COLUMNS = 2, 3


class CrossAttention(nn.Module):
    """One branch: the mean of a feature map gated by the interaction of its channels with one of its axes.

    Args:
        pooled_axis: of (B, C, h, w), the axis that is pooled; channels interact with the other one.
    """

    def __init__(self, pooled_axis: int) -> None:
        super().__init__()
        self.pooled_axis = pooled_axis
        self.convolution = nn.Conv2d(2, 1, _KERNEL, padding=_KERNEL // 2, bias=False)
        self.norm = nn.BatchNorm2d(1, momentum=_MOMENTUM)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C)."""
        mean = features.mean(dim=self.pooled_axis)
        pooled = torch.stack([features.amax(dim=self.pooled_axis), mean], dim=1)
        gate = self.norm(self.convolution(pooled)).sigmoid().squeeze(1)
        gated: Tensor = (mean * gate).mean(dim=2)
        return gated


class MccgHead(nn.Module):
    """Two attended features and the global one, each with its own bottleneck.

    Args:
        channels: of the feature map.
        part_dim: length of each part's embedding.
    """

    n_parts = 3

    def __init__(self, channels: int, part_dim: int) -> None:
        super().__init__()
        self.part_dim = part_dim
        self.branches = nn.ModuleList([CrossAttention(_ROWS), CrossAttention(_COLUMNS)])
        self.bottlenecks = nn.ModuleList(bottleneck(channels, part_dim) for _ in range(self.n_parts))

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, part_dim): channels with columns, channels with rows, global.

        Raises:
            ConfigError: the features are no map.
        """
        require_feature_map(features, "The head mccg")
        pooled = [*(branch(features) for branch in self.branches), features.mean(dim=(2, 3))]
        return torch.stack([layer(part) for layer, part in zip(self.bottlenecks, pooled, strict=True)], dim=1)
