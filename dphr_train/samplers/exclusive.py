"""Batches of pairs in which no place occurs twice, so that every other pair of a batch is a true negative.

The University-1652 sampler of Sample4Geo (Deuser et al., ICCV 2023): all pairs in random order; a pair whose place is
already in the batch goes back to the end of the queue; after 512 such conflicts in a row the epoch ends; an incomplete
batch is dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import TrainingError

_MAX_CONFLICTS = 512


def require_places(n_places: int, batch_size: int) -> None:
    """Refuse a set that cannot fill a batch with different places.

    Raises:
        TrainingError: there are fewer places than pairs in a batch.
    """
    if n_places < batch_size:
        raise TrainingError(
            f"The training set has {n_places} places but a batch needs {batch_size} different ones: "
            "lower optim.batch-size or add places."
        )


def exclusive_batches(place_ids: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of one epoch, determined by seed and epoch alone.

    Args:
        place_ids: place of each pair.
        batch_size: pairs a batch.

    Returns:
        Batches of `batch_size` pair numbers; no place twice in a batch, no pair twice in the epoch.

    Raises:
        TrainingError: there are fewer places than pairs in a batch.
    """
    require_places(len(set(place_ids)), batch_size)
    queue = deque(np.random.default_rng([seed, epoch]).permutation(len(place_ids)).tolist())
    batches: list[list[int]] = []
    batch: list[int] = []
    used: set[int] = set()
    conflicts = 0
    while queue and conflicts < _MAX_CONFLICTS:
        pair = queue.popleft()
        if place_ids[pair] in used:
            queue.append(pair)
            conflicts += 1
            continue
        conflicts = 0
        batch.append(pair)
        used.add(place_ids[pair])
        if len(batch) == batch_size:
            batches.append(batch)
            batch, used = [], set()
    return batches


class ExclusiveSampler:
    """Every pair in random order, each place once in a batch; uses no lists of neighbours."""

    def __init__(self, place_ids: Sequence[int], batch_size: int, seed: int) -> None:
        self._place_ids, self._batch_size, self._seed = list(place_ids), batch_size, seed
        self.neighbours: NDArray[np.int64] | None = None
        self.steps_per_epoch = len(self.batches(0))

    def batches(self, epoch: int) -> list[list[int]]:
        """Pair numbers of every batch of one epoch."""
        return exclusive_batches(self._place_ids, self._batch_size, self._seed, epoch)

    def wants_refresh(self, epoch: int) -> bool:
        """Never: there are no lists."""
        return False
