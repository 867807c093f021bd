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

import torch
from torch import Tensor

from dphr_train.config import Distance, DphrConfig, Negatives, ProgressKind, TripletKind
from dphr_train.losses.base import PairLoss, require_pairs
from dphr_train.losses.triplet import TripletTerms, triplet_terms

_DEFAULT = DphrConfig()


def hardness(positive: Tensor, negative: Tensor) -> Tensor:
    """RDA's h = d_p / (d_p + d_n), elementwise."""
    return positive / (positive + negative).clamp(min=torch.finfo(positive.dtype).tiny)


def rda_weights(terms: TripletTerms, config: DphrConfig) -> Tensor:
    """RDA's w = w_min + (w_max - w_min) * h of every term, (B, B), without gradient."""
    with torch.no_grad():
        return config.weight_min + (config.weight_max - config.weight_min) * hardness(terms.positive, terms.distance)


def progress_signal(mean: Tensor, reference: Tensor, kind: ProgressKind) -> Tensor:
    """PALW's alpha in [0, 1]: near 0 while training is young, near 1 when it is mature.

    Args:
        mean: float64 scalar, moving average of L_tri.
        reference: float64 scalar, that average at the first full window.
    """
    if kind == "exponential":
        return torch.exp(-mean.float()).double()
    if kind == "reciprocal":
        return 1 / (1 + mean)
    gain = 1 - mean / reference
    gain = torch.where(gain > 0, gain, 0.0).clamp(max=1)  # a mean that is not finite counts as no progress
    return torch.where(reference > 0, gain, 1.0)


class ProgressiveBalance(torch.nn.Module):
    """PALW: lambda_t, which follows a smoothed signal of training progress; all of its state is in buffers.

    Attributes:
        recent: float64 (window,), the last values of L_tri, the latest last; zeros before there are so many.
        count: int64 scalar, values that have been taken in.
        reference: float64 scalar, mean of the first full window; 0 before.
        balance: float64 scalar, lambda_t.
        progress: float64 scalar, alpha_t of the last update; not part of the state.
    """

    recent: Tensor
    count: Tensor
    reference: Tensor
    balance: Tensor
    progress: Tensor

    def __init__(self, config: DphrConfig) -> None:
        super().__init__()
        self._config = config
        self.register_buffer("recent", torch.zeros(config.window, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        for name in ("reference", "balance", "progress"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64), persistent=name != "progress")

    @torch.no_grad()
    def update(self, triplet_loss: Tensor) -> Tensor:
        """Take in this step's L_tri, a scalar, and return lambda_t, float64 scalar. Waits for no device."""
        config = self._config
        self.recent.copy_(torch.cat([self.recent[1:], triplet_loss.detach().double().view(1)]))
        self.count += 1
        mean = self.recent.sum() / self.count.clamp(max=config.window)
        self.reference.copy_(torch.where(self.count == config.window, mean, self.reference))
        progress = progress_signal(mean, self.reference, config.progress)
        progress = torch.where(self.count >= config.window, progress, 0.0)
        balance = config.beta * self.balance + (1 - config.beta) * config.lambda_max * progress
        self.progress.copy_(progress)
        self.balance.copy_(balance)
        return balance


class DphrLoss(PairLoss):
    """L_tri + lambda_t * L_wtri on a batch of pairs; the switches rda and palw give every row of the ablation.

    In training mode each call moves PALW one step on; in evaluation mode lambda_t stays as it is.

    Args:
        rda, palw, ...: as the fields of `config.DphrConfig`, with its defaults; with neither rda nor palw the loss is
            L_tri. Scale beta and window to the length of the run.

    Attributes:
        palw: the state of lambda_t, in `state_dict()` as "palw.recent", "palw.count", "palw.reference", "palw.balance".
        terms: "triplet" and "weighted_triplet", L_tri and L_wtri; "lambda", lambda_t; "alpha", alpha_t;
            "mean_weight", mean of w over all (i, k).

    Raises:
        ConfigError: a value lies outside its range.
    """

    def __init__(
        self,
        *,
        rda: bool = _DEFAULT.rda,
        palw: bool = _DEFAULT.palw,
        margin: float = _DEFAULT.margin,
        kind: TripletKind = _DEFAULT.kind,
        gamma: float = _DEFAULT.gamma,
        distance: Distance = _DEFAULT.distance,
        negatives: Negatives = _DEFAULT.negatives,
        weight_min: float = _DEFAULT.weight_min,
        weight_max: float = _DEFAULT.weight_max,
        normalise_weights: bool = _DEFAULT.normalise_weights,
        lambda_max: float = _DEFAULT.lambda_max,
        beta: float = _DEFAULT.beta,
        window: int = _DEFAULT.window,
        progress: ProgressKind = _DEFAULT.progress,
    ) -> None:
        super().__init__()
        self.config = DphrConfig(
            rda=rda,
            palw=palw,
            margin=margin,
            kind=kind,
            gamma=gamma,
            distance=distance,
            negatives=negatives,
            weight_min=weight_min,
            weight_max=weight_max,
            normalise_weights=normalise_weights,
            lambda_max=lambda_max,
            beta=beta,
            window=window,
            progress=progress,
        )
        self.palw = ProgressiveBalance(self.config)

    def forward(self, queries: Tensor, references: Tensor, place_ids: Tensor) -> Tensor:
        """Loss of a batch of pairs.

        Args:
            queries, references: float (B, D), unit length; row i of both shows place_ids[i].
            place_ids: int64 (B,).

        Returns:
            Scalar of the dtype of the queries.

        Raises:
            ConfigError: the shapes do not fit.
        """
        require_pairs(queries, references, place_ids)
        config = self.config
        forward, backward = (self._direction(t) for t in triplet_terms(queries, references, place_ids, config))
        triplet, weighted, weight = ((one + other) / 2 for one, other in zip(forward, backward, strict=True))
        balance = weighted.new_full((), config.lambda_max if config.rda else 0.0)
        if config.palw:
            balance = self.palw.update(triplet) if self.training else self.palw.balance.clone()
        self.terms = {
            "triplet": triplet.detach(),
            "weighted_triplet": weighted.detach(),
            "lambda": balance.detach(),
            "alpha": self.palw.progress.clone(),
            "mean_weight": weight,
        }
        if not (config.rda or config.palw):
            return triplet
        return triplet + balance.to(weighted.dtype) * weighted

    def _direction(self, terms: TripletTerms) -> tuple[Tensor, Tensor, Tensor]:
        """L_tri, L_wtri and the mean weight of one direction."""
        config = self.config
        weight = rda_weights(terms, config) if config.rda else torch.ones_like(terms.distance)
        weight_sum = (weight * terms.mask).sum()
        scale = weight_sum.clamp(min=torch.finfo(weight.dtype).tiny) if config.normalise_weights else terms.count
        return terms.mean(), (terms.values * weight * terms.mask).sum() / scale, weight_sum / terms.count
