"""Batches in which places meet those that are easily taken for them.

The batch builder of Sample4Geo (Deuser et al., ICCV 2023): take a random unused pair; add it; then, from the list of
its place, the nearest `select / 2` neighbours and as many drawn from the rest of the list; skip places that are in the
batch or have no unused pair left; repeat until the batch is full. Stop after 1,024 pairs in a row that could not be
taken; drop the incomplete batch.

A place may have several pairs. Where the place is a satellite image with several panoramas (VIGOR) it comes at most
once into a batch, each time with another of its panoramas at random, until none is left; where every place has one pair
(CVUSA, CVACT) it comes once an epoch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import ConfigError
from dphr_train.config import SamplerConfig
from dphr_train.samplers.exclusive import exclusive_batches, require_places
from dphr_train.samplers.neighbours import nearest_places
from dphr_train.types import TrainSplit

_MAX_FAILURES = 1024


def hard_batches(
    pairs_of_place: Sequence[Sequence[int]],
    neighbours: NDArray[np.int64],
    batch_size: int,
    select: int,
    random: np.random.Generator,
) -> list[list[int]]:
    """The batches of one epoch.

    Args:
        pairs_of_place: for each of N places, the numbers of its pairs.
        neighbours: int64 (N, R), for each place its neighbours, nearest first, itself not among them.
        batch_size: pairs a batch.
        select: neighbours that a place brings along: the nearest half, and as many drawn from the others.

    Returns:
        Batches of `batch_size` pair numbers; no place twice in a batch, no pair twice in the epoch.

    Raises:
        TrainingError: there are fewer places than a batch holds.
    """
    require_places(len(pairs_of_place), batch_size)
    unused = [random.permutation(pairs).tolist() for pairs in pairs_of_place]
    entries = np.repeat(np.arange(len(unused)), [len(pairs) for pairs in unused])
    queue = deque(random.permutation(entries).tolist())
    nearest = select // 2
    batches: list[list[int]] = []
    batch: list[int] = []
    inside: set[int] = set()
    failures = 0
    while queue and failures < _MAX_FAILURES:
        place = queue.popleft()
        if place in inside or not unused[place]:
            if unused[place]:
                queue.append(place)
            failures += 1
            continue
        failures = 0
        drawn = random.permutation(neighbours[place, nearest:])[: select - nearest]
        for candidate in (place, *neighbours[place, :nearest].tolist(), *drawn.tolist()):
            if len(batch) < batch_size and candidate not in inside and unused[candidate]:
                batch.append(unused[candidate].pop())
                inside.add(candidate)
        if len(batch) == batch_size:
            batches.append(batch)
            batch, inside = [], set()
    return batches


class HardSampler:
    """Hard batches by lists of neighbours: nearest on the ground at first, most similar in the embedding later."""

    def __init__(self, split: TrainSplit, config: SamplerConfig, batch_size: int, seed: int) -> None:
        """Take the pairs, and the lists on the ground where the settings start with them.

        Raises:
            ConfigError: the lists should come from positions that the benchmark does not give.
            TrainingError: there are fewer places than a batch holds.
        """
        places = sorted({pair.place_id for pair in split.pairs})
        require_places(len(places), batch_size)
        row = {place: number for number, place in enumerate(places)}
        self._row_of_pair = [row[pair.place_id] for pair in split.pairs]
        self._pairs_of_place: list[list[int]] = [[] for _ in places]
        for number, place_row in enumerate(self._row_of_pair):
            self._pairs_of_place[place_row].append(number)
        self._config, self._batch_size, self._seed = config, batch_size, seed
        self.steps_per_epoch = len(split.pairs) // batch_size
        self.neighbours: NDArray[np.int64] | None = None
        if config.start == "gps":
            if split.positions is None:
                raise ConfigError(
                    "sampler.start is gps, but this data set does not say where its places lie: "
                    "choose sampler.start random, so that the lists come from the embedding alone."
                )
            self.neighbours = nearest_places(split.positions, config.range)

    def batches(self, epoch: int) -> list[list[int]]:
        """Pair numbers of every batch of an epoch; without lists, as the exclusive sampler makes them."""
        if self.neighbours is None:
            return exclusive_batches(self._row_of_pair, self._batch_size, self._seed, epoch)
        random = np.random.default_rng([self._seed, epoch])
        return hard_batches(self._pairs_of_place, self.neighbours, self._batch_size, self._config.select, random)

    def wants_refresh(self, epoch: int) -> bool:
        """True before every `refresh_epochs`-th epoch but the first."""
        return self._config.refresh_epochs > 0 and epoch > 0 and epoch % self._config.refresh_epochs == 0
