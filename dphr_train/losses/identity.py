"""Classification of every part's embedding as its place, as LPN and MCCG train.

    L_id = sum over the parts, sum over the two views, mean over the batch, of  CE(W_part e_part + b_part, place)

Wang et al.: LPN, IEEE TCSVT 2021; Shen et al.: MCCG, IEEE TCSVT 2023; after the instance loss of Zheng et al.:
University-1652, ACM MM 2020. The sums over parts and views are those of LPN's official code, and so is the start:
weights normal with standard deviation 0.001, biases 0. Both views pass the same classifiers. Label smoothing is ours;
theirs is 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dphr_infer.errors import DatasetError
from dphr_train.losses.base import PairLoss

_INITIAL_STD = 0.001


class PartIdentity(PairLoss):
    """One linear classifier per part.

    Args:
        place_ids: all places to tell apart; their order and repetitions do not matter.
        parts: parts of an image.
        part_dim: length of a part's embedding.
        label_smoothing: share of the target that is spread over all places.

    Attributes:
        terms: "identity", the loss.
    """

    known_places: Tensor

    def __init__(self, place_ids: Sequence[int], parts: int, part_dim: int, label_smoothing: float = 0.0) -> None:
        super().__init__()
        places = torch.tensor(sorted(set(place_ids)), dtype=torch.int64)
        self.register_buffer("known_places", places, persistent=False)
        classifiers = [nn.Linear(part_dim, len(places)) for _ in range(parts)]
        for classifier in classifiers:
            nn.init.normal_(classifier.weight, std=_INITIAL_STD)
            nn.init.zeros_(classifier.bias)
        self.classifiers = nn.ModuleList(classifiers)
        self.label_smoothing = label_smoothing

    def forward(self, query_parts: Tensor, reference_parts: Tensor, place_ids: Tensor) -> Tensor:
        """Loss of a batch of pairs.

        Args:
            query_parts, reference_parts: float (B, parts, part_dim), not normalised; row i of both shows place_ids[i].
            place_ids: int64 (B,).

        Returns:
            Scalar.

        Raises:
            DatasetError: a place that `place_ids` of the constructor did not name. Looking waits for the device.
        """
        places = self._number(place_ids)
        total = query_parts.new_zeros(())
        for part, classifier in enumerate(self.classifiers):
            for view in (query_parts, reference_parts):
                logits = classifier(view[:, part])
                total = total + F.cross_entropy(logits, places, label_smoothing=self.label_smoothing)
        self.terms = {"identity": total.detach()}
        return total

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
