"""The triplet loss on a batch of pairs, both directions, with every term at hand.

    hinge:  max(0, m + d_p - d_n)            Schroff, Kalenichenko, Philbin: FaceNet, CVPR 2015
    soft:   softplus(gamma * (d_p - d_n))    Hermans, Beyer, Leibe: In Defense of the Triplet Loss, arXiv 1703.07737

d_p is an anchor's distance to its own pair, d_n the distance to a negative: a sample of the other view with another
place. Either all of them count, or the nearest one ("batch hard" of Hermans et al.).

Our choices: FaceNet squares the distance, we do not; d = sqrt(max(2 - 2 cos, 1e-6)) keeps its gradient finite; Hermans
et al. have no gamma (1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dphr_train.config import Distance, DphrConfig, Negatives, TripletKind
from dphr_train.losses.base import PairLoss, require_pairs

_DEFAULT = DphrConfig()
_MIN_SQUARED_DISTANCE = 1e-6


def distances(queries: Tensor, references: Tensor, kind: Distance) -> Tensor:
    """Distance of every query to every reference, (B, B), of unit vectors (B, D)."""
    cosine = queries @ references.T
    if kind == "cosine":
        return 1 - cosine
    return (2 - 2 * cosine).clamp(min=_MIN_SQUARED_DISTANCE).sqrt()


@dataclass(frozen=True, slots=True, eq=False)
class TripletTerms:
    """The terms of one direction: row i is anchor i, column k the sample of the other view in pair k.

    Attributes:
        positive: (B, 1), the anchor's distance to its own pair.
        distance: (B, B), its distance to every sample.
        values: (B, B), the triplet of anchor i, its pair and sample k; of use where `mask` is 1.
        mask: (B, B), 1 where k is a negative that counts, else 0; carries no gradient.
    """

    positive: Tensor
    distance: Tensor
    values: Tensor
    mask: Tensor

    @property
    def count(self) -> Tensor:
        """Number of terms, at least 1: without any negative a mean is 0."""
        return self.mask.sum().clamp(min=1)

    def mean(self) -> Tensor:
        """L_tri of this direction, a scalar."""
        return (self.values * self.mask).sum() / self.count


def triplet_terms(
    queries: Tensor, references: Tensor, place_ids: Tensor, config: DphrConfig
) -> tuple[TripletTerms, TripletTerms]:
    """The terms with the queries as anchors, and those with the references as anchors.

    Args:
        queries, references: float (B, D), unit length; row i of both shows place_ids[i].
        place_ids: int64 (B,).
        config: distance, kind, margin, gamma and negatives are read.
    """
    distance = distances(queries, references, config.distance)
    negative = place_ids[:, None] != place_ids[None, :]
    return _direction(distance, negative, config), _direction(distance.T, negative, config)


def _direction(distance: Tensor, negative: Tensor, config: DphrConfig) -> TripletTerms:
    positive = distance.diagonal()[:, None]
    if config.negatives == "hardest":
        nearest = distance.masked_fill(~negative, torch.inf).argmin(dim=1)
        negative = negative & F.one_hot(nearest, len(distance)).bool()
    gap = positive - distance
    values = F.softplus(config.gamma * gap) if config.kind == "soft" else F.relu(config.margin + gap)
    return TripletTerms(positive, distance, values, negative.to(distance.dtype))


class TripletLoss(PairLoss):
    """L_tri: the triplet loss on a batch of pairs, both directions averaged.

    Args:
        margin: of the hinge, 0 or more, in the unit of the distance.
        kind: "hinge" max(0, m + d_p - d_n), or "soft" softplus(gamma * (d_p - d_n)).
        gamma: sharpness of the soft margin, above 0.
        distance: "euclidean" on unit vectors, or "cosine", 1 - cos.
        negatives: every other place of the batch ("all"), or the nearest only ("hardest").

    Attributes:
        terms: "triplet", the loss.

    Raises:
        ConfigError: a value lies outside its range.
    """

    def __init__(
        self,
        *,
        margin: float = _DEFAULT.margin,
        kind: TripletKind = _DEFAULT.kind,
        gamma: float = _DEFAULT.gamma,
        distance: Distance = _DEFAULT.distance,
        negatives: Negatives = _DEFAULT.negatives,
    ) -> None:
        super().__init__()
        self.config = DphrConfig(margin=margin, kind=kind, gamma=gamma, distance=distance, negatives=negatives)

    def forward(self, queries: Tensor, references: Tensor, place_ids: Tensor) -> Tensor:
        """Loss of a batch of pairs.

        Args:
            queries, references: float (B, D), unit length; row i of both shows place_ids[i].
            place_ids: int64 (B,).

        Returns:
            Scalar of the dtype of the queries; 0 where every pair shows one place.

        Raises:
            ConfigError: the shapes do not fit.
        """
        require_pairs(queries, references, place_ids)
        forward, backward = triplet_terms(queries, references, place_ids, self.config)
        loss = (forward.mean() + backward.mean()) / 2
        self.terms = {"triplet": loss.detach()}
        return loss
