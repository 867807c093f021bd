"""One embedding of the whole image: generalised-mean or the network's own average pooling, then a projection."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dphr_train.heads.feature_map import require_feature_map


class GeM(nn.Module):
    """Generalised-mean pooling with a learned exponent p, initially 3 (Radenovic, Tolias, Chum: TPAMI 2019).

    (B, C, h, w) -> (B, C): (mean over h, w of max(x, eps)^p)^(1/p), in float32 whatever the input's type.
    """

    def __init__(self, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(p))
        self.eps = eps

    def forward(self, features: Tensor) -> Tensor:
        """Pool a feature map.

        Raises:
            ConfigError: the features are no map.
        """
        require_feature_map(features, "GeM pooling")
        raised = features.float().clamp(min=self.eps).pow(self.p)
        return raised.mean(dim=(2, 3)).pow(1 / self.p)


class PooledHead(nn.Sequential):
    """Pooling, then an optional linear projection; one part.

    Checkpoints know the exponent of GeM as "0.p" and the projection as "1.weight" and "1.bias".

    Args:
        channels: of the network's features.
        gem: GeM on the feature map; otherwise the network's own pooled output is taken as it is.
        projection_dim: length of the projection; 0 leaves it out.
    """

    n_parts = 1

    def __init__(self, channels: int, gem: bool, projection_dim: int) -> None:
        super().__init__(
            GeM() if gem else nn.Identity(),
            nn.Linear(channels, projection_dim) if projection_dim else nn.Identity(),
        )
        self.part_dim = projection_dim or channels

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) for GeM or (B, C) -> (B, 1, part_dim)."""
        for layer in self:
            features = layer(features)
        return features[:, None]
