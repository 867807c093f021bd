"""Classification of every part's embedding as its place, as LPN and MCCG train.

    L_id = sum over the parts, sum over the two views, mean over the batch, of  CE(W_part e_part + b_part, place)

Wang et al.: LPN, IEEE TCSVT 2021; Shen et al.: MCCG, IEEE TCSVT 2023; after the instance loss of Zheng et al.:
University-1652, ACM MM 2020. The sums over parts and views are those of LPN's official code, and so is the start:
weights normal with standard deviation 0.001, biases 0. Both views pass the same classifiers. Label smoothing is ours;
theirs is 0.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

_INITIAL_STD = 0.001


class PartIdentity(nn.Module):
    """One linear classifier a part.

    Args:
        n_places: places to tell apart.
        parts: parts of an image.
        part_dim: length of a part's embedding.
        label_smoothing: share of the target that is spread over all places.
    """

    def __init__(self, n_places: int, parts: int, part_dim: int, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.classifiers = nn.ModuleList(nn.Linear(part_dim, n_places) for _ in range(parts))
        for classifier in self.classifiers:
            nn.init.normal_(classifier.weight, std=_INITIAL_STD)
            nn.init.zeros_(classifier.bias)
        self.label_smoothing = label_smoothing

    def forward(self, query_parts: Tensor, reference_parts: Tensor, places: Tensor) -> Tensor:
        """Loss of a batch of pairs.

        Args:
            query_parts, reference_parts: float (B, parts, part_dim), not normalised; row i of both shows places[i].
            places: int64 (B,), numbers in 0..n_places - 1.

        Returns:
            Scalar.
        """
        total = query_parts.new_zeros(())
        for part, classifier in enumerate(self.classifiers):
            for view in (query_parts, reference_parts):
                logits = classifier(view[:, part])
                total = total + F.cross_entropy(logits, places, label_smoothing=self.label_smoothing)
        return total
