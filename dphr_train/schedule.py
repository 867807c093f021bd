"""How a run goes on: the learning rate of each step, and whether the embedding learns at all."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable


def learning_rate_at(step: int, steps: int, peak: float, warmup: float) -> float:
    """Linear warm-up over the first `warmup` share of `steps`, then a cosine to zero; step counts from 0."""
    warm = math.ceil(warmup * steps)
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


class CollapseWatch:
    """Notices that InfoNCE stays at ln(batch), the value of embeddings that tell nothing apart.

    Known of lr 1e-3 with small batches: the encoder maps everything to one point and never recovers.

    Args:
        batch_size: pairs of a batch, at least 2.
        recent: `recent` of the watch that this one continues.
    """

    WINDOW = 50
    _MARGIN = 0.03

    def __init__(self, batch_size: int, recent: Iterable[float] = ()) -> None:
        self._chance = math.log(batch_size)
        self._recent: deque[float] = deque(recent, maxlen=self.WINDOW)

    @property
    def recent(self) -> list[float]:
        """Its state: the values of the last WINDOW steps, the latest last; the constructor takes it back."""
        return list(self._recent)

    def update(self, infonce: float) -> bool:
        """Take in one step; True when the mean of the last WINDOW lies within 3 % of ln(batch)."""
        self._recent.append(infonce)
        near = abs(self.mean - self._chance) < self._MARGIN * self._chance
        return len(self._recent) == self.WINDOW and near

    @property
    def mean(self) -> float:
        """Mean of the last WINDOW steps."""
        return sum(self._recent) / len(self._recent)
