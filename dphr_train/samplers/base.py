"""What the trainer asks of a sampler."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Sampler(Protocol):
    """Puts training pairs together to batches, epoch by epoch, by its seed and its lists of neighbours alone.

    Attributes:
        steps_per_epoch: batches of an epoch, for the length of a run; an epoch of hard batches may have a few less.
        neighbours: int64 (n_places, range), row i for the i-th of the sorted place numbers; None where no lists are
            used (yet). Part of a checkpoint.
    """

    steps_per_epoch: int
    neighbours: NDArray[np.int64] | None

    def batches(self, epoch: int) -> list[list[int]]:
        """Pair numbers of every batch of an epoch: no place twice in a batch, no pair twice in the epoch."""
        ...

    def wants_refresh(self, epoch: int) -> bool:
        """True where `neighbours` are to be made anew from the embedding before this epoch."""
        ...
