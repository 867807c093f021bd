"""The whole training loss: InfoNCE, DPHR and the identity loss, each by its switch, each term by its name."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dphr_infer.errors import DatasetError
from dphr_train.config import LossConfig
from dphr_train.losses.dphr import DphrLoss
from dphr_train.losses.identity import PartIdentity
from dphr_train.losses.infonce import SymmetricInfoNCE


class Objective(nn.Module):
    """total = InfoNCE + L_tri + lambda * L_wtri + identity * L_id, each by LossConfig's switches.

    InfoNCE and DPHR see embeddings: the parts one after the other, at unit length. L_id sees the parts as they are.
    What is learned here, the temperature and the classifiers of L_id, goes into the checkpoint beside the encoder.

    Args:
        config: the switches and constants.
        place_ids: all places of the training data, for L_id; their order and repetitions do not matter.
        n_parts, part_dim: of the encoder.
    """

    known_places: Tensor

    def __init__(self, config: LossConfig, place_ids: Sequence[int], n_parts: int, part_dim: int) -> None:
        super().__init__()
        self.infonce = SymmetricInfoNCE(config.temperature, config.label_smoothing) if config.infonce else None
        self.dphr = DphrLoss(config.dphr) if config.dphr.triplet else None
        self.identity_weight = config.identity
        places = torch.tensor(sorted(set(place_ids)), dtype=torch.int64)
        self.register_buffer("known_places", places, persistent=False)
        self.identity = (
            PartIdentity(len(places), n_parts, part_dim, config.label_smoothing) if config.identity else None
        )

    def forward(
        self, query_parts: Tensor, reference_parts: Tensor, place_ids: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """Loss of a batch of pairs and its terms for the log.

        Args:
            query_parts, reference_parts: float32 (B, n_parts, part_dim), not normalised; row i of both shows
                place_ids[i].
            place_ids: int64 (B,).

        Raises:
            DatasetError: L_id meets a place that `place_ids` of the constructor did not name.
        """
        queries, references = (F.normalize(parts.flatten(1), dim=1) for parts in (query_parts, reference_parts))
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
        if self.identity is not None:
            identity = self.identity(query_parts, reference_parts, self._number(place_ids))
            total = total + self.identity_weight * identity
            terms["identity"] = float(identity.detach())
        terms["loss"] = float(total.detach())
        return total, terms

    def _number(self, place_ids: Tensor) -> Tensor:
        """Place ids -> their numbers 0..n-1 in the sorted set of all places."""
        numbers = torch.searchsorted(self.known_places, place_ids).clamp(max=len(self.known_places) - 1)
        unknown = place_ids[self.known_places[numbers] != place_ids]
        if len(unknown):
            raise DatasetError(
                f"A pair shows place {int(unknown[0])}, which is none of the {len(self.known_places)} places that "
                "loss.identity classifies: the data set changed after the run started; start a new run."
            )
        return numbers
