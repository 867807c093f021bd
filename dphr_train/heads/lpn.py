"""LPN, the local pattern network: one embedding for each square ring of the feature map.

Wang, Zheng, Yan, Zhang, Sun, Zheng, Yang: "Each Part Matters: Local Patterns Facilitate Cross-View Geo-Localization",
IEEE TCSVT 2021.

From the paper and its official code: rings around the centre, because a drone may face any way; average pooling of each
ring; a bottleneck of its own for each (Linear, batch normalisation, dropout 0.5; 512 values), the same for both views;
with h rows, each ring but the outermost is floor(h / (2 * parts)) cells wide, around row floor(h / 2); the outermost
takes the rest; columns alike.

Our reconstruction: a ring's mean is over its own cells, where the official code divides by the cells of the square that
the ring bounds (the batch normalisation takes that factor out again); a map too small for the rings is refused, where
the official code enlarges it; a panorama has rectangular rings, where the paper cuts it into columns; the embedding is
the parts one after the other, brought to unit length as a whole, where the official test does so part by part.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dphr_train.heads.bottleneck import bottleneck
from dphr_train.heads.feature_map import require_feature_map


def ring_means(features: Tensor, parts: int) -> list[Tensor]:
    """Mean of each square ring, the innermost first.

    Args:
        features: (B, C, h, w), h and w at least 2 * parts.
        parts: number of rings.

    Returns:
        `parts` tensors (B, C).

    Raises:
        ConfigError: the features are no map, or too small a map.
    """
    require_feature_map(features, f"The head lpn with model.parts {parts}", 2 * parts)
    height, width = features.shape[2:]
    middle = (height // 2, width // 2)
    step = (height // (2 * parts), width // (2 * parts))
    means = []
    inner_sum: Tensor | float = 0.0
    inner_cells = 0
    for ring in range(1, parts + 1):
        square = features
        if ring < parts:
            rows, columns = (slice(m - ring * s, m + ring * s) for m, s in zip(middle, step, strict=True))
            square = features[:, :, rows, columns]
        total, cells = square.sum(dim=(2, 3)), square.shape[2] * square.shape[3]
        means.append((total - inner_sum) / (cells - inner_cells))
        inner_sum, inner_cells = total, cells
    return means


class LpnHead(nn.Module):
    """Square rings, each with its own bottleneck.

    Args:
        channels: of the feature map.
        parts: number of rings.
        part_dim: length of each ring's embedding.
    """

    def __init__(self, channels: int, parts: int, part_dim: int) -> None:
        super().__init__()
        self.n_parts, self.part_dim = parts, part_dim
        self.bottlenecks = nn.ModuleList(bottleneck(channels, part_dim) for _ in range(parts))

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, n_parts, part_dim), the innermost ring first."""
        means = ring_means(features, self.n_parts)
        return torch.stack([layer(mean) for layer, mean in zip(self.bottlenecks, means, strict=True)], dim=1)
