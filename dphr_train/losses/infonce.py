"""Symmetric InfoNCE with a learned temperature.

Deuser, Habel, Oswald: Sample4Geo, ICCV 2023, after Radford et al.: CLIP, ICML 2021.
S = exp(s) * Q P^T;  L = (CE(S, diagonal) + CE(S^T, diagonal)) / 2, with label smoothing; s is learned, not clamped.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dphr_train.config import LossConfig
from dphr_train.losses.base import PairLoss, require_pairs

_DEFAULT = LossConfig()


class InfoNce(PairLoss):
    """Pulls each query to its own reference and away from the other references of the batch, in both directions.

    Args:
        temperature: initial, above 0; s starts at ln(1 / temperature).
        label_smoothing: share of the target that is spread over all references, in 0..1, 1 excluded.

    Attributes:
        logit_scale: s, a learned scalar: give `parameters()` to the optimizer.
        terms: "infonce", the loss; "logit_scale", exp(s).

    Raises:
        ConfigError: a value lies outside its range.
    """

    def __init__(
        self, *, temperature: float = _DEFAULT.temperature, label_smoothing: float = _DEFAULT.label_smoothing
    ) -> None:
        super().__init__()
        LossConfig(temperature=temperature, label_smoothing=label_smoothing)  # checks them
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / temperature)))
        self.label_smoothing = label_smoothing

    def forward(self, queries: Tensor, references: Tensor, place_ids: Tensor | None = None) -> Tensor:
        """Loss of a batch of pairs.

        Args:
            queries, references: float (B, D), unit length; row i of both shows the same place.
            place_ids: int64 (B,), not used: a place that comes twice in a batch is its own negative. The samplers
                here bring each place once.

        Returns:
            Scalar of the dtype of the queries.

        Raises:
            ConfigError: the shapes do not fit.
        """
        require_pairs(queries, references, place_ids)
        scale = self.logit_scale.exp()
        logits = scale * queries @ references.T
        target = torch.arange(len(queries), device=queries.device)
        forward = F.cross_entropy(logits, target, label_smoothing=self.label_smoothing)
        backward = F.cross_entropy(logits.T, target, label_smoothing=self.label_smoothing)
        loss = (forward + backward) / 2
        self.terms = {"infonce": loss.detach(), "logit_scale": scale.detach()}
        return loss
