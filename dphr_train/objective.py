"""The whole training loss: InfoNCE with or without DPHR beside it, each term by its name."""

from __future__ import annotations

from torch import Tensor, nn

from dphr_train.config import LossConfig
from dphr_train.losses.dphr import DphrLoss
from dphr_train.losses.infonce import SymmetricInfoNCE


class Objective(nn.Module):
    """total = InfoNCE + L_tri + lambda * L_wtri, each part by LossConfig's switches."""

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        self.infonce = SymmetricInfoNCE(config.temperature, config.label_smoothing) if config.infonce else None
        self.dphr = DphrLoss(config.dphr) if config.dphr.triplet else None

    def forward(self, queries: Tensor, references: Tensor, place_ids: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Loss of a batch of pairs of unit vectors, (B, D) float32 each, and its terms for the log."""
        total = queries.new_zeros(())
        terms: dict[str, float] = {}
        if self.infonce is not None:
            infonce = self.infonce(queries, references)
            total = total + infonce
            terms |= {"infonce": float(infonce.detach()), "logit_scale": float(self.infonce.logit_scale.detach().exp())}
        if self.dphr is not None:
            dphr = self.dphr(queries, references, place_ids)
            total = total + dphr.total
            terms |= {
                "triplet": float(dphr.triplet),
                "weighted_triplet": float(dphr.weighted_triplet),
                "lambda": dphr.balance,
                "alpha": dphr.progress,
                "mean_weight": float(dphr.mean_weight),
            }
        terms["loss"] = float(total.detach())
        return total, terms
