"""DPHR: dual-level progressive hardness-aware reweighting (arXiv 2510.27181).

    L_DPHR  = L_tri + lambda_t * L_wtri
    L_tri   = mean over (i, k) of  triplet(d(q_i, p_i), d(q_i, n_ik)),          both directions averaged
    L_wtri  = the same terms, each times w_ik
    RDA:  h_ik = d(p_i, q_i) / (d(p_i, q_i) + d(q_i, n_ik)),   w_ik = w_min + (w_max - w_min) * h_ik
    PALW: lambda_t = beta * lambda_(t-1) + (1 - beta) * lambda_max * alpha_t,   lambda_0 = 0

The triplet, its distance and its negatives are those of triplet.py. h lies in (0, 1), does not change with the scale of
the distances, and is larger for a harder negative. alpha_t is a training-progress signal made of the moving average of
recent unweighted triplet losses.

The paper gives this structure. Our reconstruction, each a field of DphrConfig: w carries no gradient; the interval
[w_min, w_max] = [1, 2]; the margin 0.3; Euclidean distance; negatives are all samples of the other view with another
place; the mean is over (i, k) without renormalising w; alpha_t = clip(1 - mean/reference, 0, 1), where `reference` is
the mean at the first full window.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dphr_train.config import DphrConfig
from dphr_train.losses.triplet import TripletTerms, triplet_terms


@dataclass(frozen=True, slots=True, eq=False)
class DphrTerms:
    """One step's terms. `total` carries the gradient; the others are for the log.

    Attributes:
        total: scalar, L_tri + lambda * L_wtri.
        triplet, weighted_triplet: L_tri and L_wtri, detached scalars.
        balance: lambda_t.    progress: alpha_t.    mean_weight: mean of w over all (i, k), detached.
    """

    total: Tensor
    triplet: Tensor
    weighted_triplet: Tensor
    balance: float
    progress: float
    mean_weight: Tensor


def hardness(positive: Tensor, negative: Tensor) -> Tensor:
    """RDA's h = d_p / (d_p + d_n), elementwise."""
    return positive / (positive + negative).clamp(min=torch.finfo(positive.dtype).tiny)


def rda_weights(terms: TripletTerms, config: DphrConfig) -> Tensor:
    """RDA's w = w_min + (w_max - w_min) * h of every term, (B, B), without gradient."""
    with torch.no_grad():
        return config.weight_min + (config.weight_max - config.weight_min) * hardness(terms.positive, terms.distance)


def progress_signal(mean_loss: float, reference: float | None, kind: str) -> float:
    """PALW's alpha in [0, 1]: 0 while training is young (or the first window is not full), near 1 when it is mature."""
    if reference is None:
        return 0.0
    if kind == "exponential":
        return float(torch.exp(torch.tensor(-mean_loss)))
    if kind == "reciprocal":
        return 1 / (1 + mean_loss)
    return min(1.0, max(0.0, 1 - mean_loss / reference)) if reference > 0 else 1.0


class ProgressiveBalance:
    """PALW: lambda_t, which follows a smoothed signal of training progress. Its state goes into the checkpoint."""

    def __init__(self, config: DphrConfig) -> None:
        self._config = config
        self._recent: deque[float] = deque(maxlen=config.window)
        self._reference: float | None = None
        self.balance = 0.0
        self.progress = 0.0

    def update(self, triplet_loss: float) -> float:
        """Take in this step's L_tri and return lambda_t."""
        config = self._config
        self._recent.append(triplet_loss)
        mean = sum(self._recent) / len(self._recent)
        if self._reference is None and len(self._recent) == config.window:
            self._reference = mean
        self.progress = progress_signal(mean, self._reference, config.progress)
        self.balance = config.beta * self.balance + (1 - config.beta) * config.lambda_max * self.progress
        return self.balance

    def state(self) -> dict[str, Any]:
        """Everything that the next update depends on, as JSON values."""
        return {"recent": list(self._recent), "reference": self._reference, "balance": self.balance}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned."""
        self._recent = deque(state["recent"], maxlen=self._config.window)
        self._reference = state["reference"]
        self.balance = state["balance"]


class DphrLoss:
    """L_tri + lambda_t * L_wtri on a batch of pairs; the switches of DphrConfig give every row of the ablation."""

    def __init__(self, config: DphrConfig) -> None:
        self.config = config
        self.palw = ProgressiveBalance(config)

    def __call__(self, queries: Tensor, references: Tensor, place_ids: Tensor) -> DphrTerms:
        """Loss of a batch of pairs; moves PALW one step on.

        Args:
            queries, references: float (B, D), unit length; row i of both shows place_ids[i].
            place_ids: int64 (B,).
        """
        directions = triplet_terms(queries, references, place_ids, self.config)
        triplet, weighted, weight = (
            sum(values) / 2 for values in zip(*(self._direction(terms) for terms in directions), strict=True)
        )
        if not (self.config.rda or self.config.palw):
            return DphrTerms(triplet, triplet.detach(), weighted.detach(), 0.0, 0.0, weight)
        balance = self.palw.update(float(triplet.detach())) if self.config.palw else self.config.lambda_max
        return DphrTerms(
            total=triplet + balance * weighted,
            triplet=triplet.detach(),
            weighted_triplet=weighted.detach(),
            balance=balance,
            progress=self.palw.progress,
            mean_weight=weight,
        )

    def _direction(self, terms: TripletTerms) -> tuple[Tensor, Tensor, Tensor]:
        """L_tri, L_wtri and the mean weight of one direction."""
        config = self.config
        weight = rda_weights(terms, config) if config.rda else torch.ones_like(terms.distance)
        weight_sum = (weight * terms.mask).sum()
        scale = weight_sum.clamp(min=torch.finfo(weight.dtype).tiny) if config.normalise_weights else terms.count
        return terms.mean(), (terms.values * weight * terms.mask).sum() / scale, weight_sum / terms.count
