"""Symmetric InfoNCE with a learned temperature.

Deuser, Habel, Oswald: Sample4Geo, ICCV 2023, after Radford et al.: CLIP, ICML 2021.
S = exp(s) * Q P^T;  L = (CE(S, diagonal) + CE(S^T, diagonal)) / 2, with label smoothing; s is learned, not clamped.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SymmetricInfoNCE(nn.Module):
    """Pulls each query to its own reference and away from the other references of the batch, in both directions.

    Args:
        temperature: initial; s starts at ln(1 / temperature).
        label_smoothing: share of the target that is spread over all references.
    """

    def __init__(self, temperature: float = 0.07, label_smoothing: float = 0.1) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / temperature)))
        self.label_smoothing = label_smoothing

    def forward(self, queries: Tensor, references: Tensor) -> Tensor:
        """Loss of a batch of pairs.

        Args:
            queries, references: float (B, D), unit length; row i of both shows the same place.

        Returns:
            Scalar.
        """
        logits = self.logit_scale.exp() * queries @ references.T
        target = torch.arange(len(queries), device=queries.device)
        forward = F.cross_entropy(logits, target, label_smoothing=self.label_smoothing)
        backward = F.cross_entropy(logits.T, target, label_smoothing=self.label_smoothing)
        return (forward + backward) / 2
