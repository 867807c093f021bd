"""The whole training loss: a table of losses, each switched on by the settings, each term by its name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from dphr_infer.errors import ConfigError
from dphr_train.config import DphrConfig, LossConfig
from dphr_train.losses.base import PairLoss
from dphr_train.losses.dphr import DphrLoss
from dphr_train.losses.identity import PartIdentity
from dphr_train.losses.infonce import InfoNce
from dphr_train.losses.triplet import TripletLoss


@dataclass(frozen=True, slots=True)
class Task:
    """What is trained: its places (order and repetitions do not matter), and the parts of the encoder."""

    place_ids: Sequence[int]
    n_parts: int
    part_dim: int


@dataclass(frozen=True, slots=True)
class LossRow:
    """A loss that the settings can switch on.

    Attributes:
        weight: of these settings; 0 leaves the loss out.
        build: the module; its name in a checkpoint is the row's.
        sees: "embeddings", float (B, D) at unit length, the parts one after the other; "parts", float
            (B, n_parts, part_dim), not normalised.
    """

    weight: Callable[[LossConfig], float]
    build: Callable[[LossConfig, Task], PairLoss]
    sees: Literal["embeddings", "parts"] = "embeddings"


def dphr_of(config: DphrConfig) -> DphrLoss:
    """The loss of these settings; their switch `triplet` is the table's."""
    options = dataclasses.asdict(config)
    del options["triplet"]
    return DphrLoss(**options)


LOSSES: dict[str, LossRow] = {
    "infonce": LossRow(
        lambda config: float(config.infonce),
        lambda config, _: InfoNce(temperature=config.temperature, label_smoothing=config.label_smoothing),
    ),
    "dphr": LossRow(lambda config: float(config.dphr.triplet), lambda config, _: dphr_of(config.dphr)),
    "identity": LossRow(
        lambda config: config.identity,
        lambda config, task: PartIdentity(task.place_ids, task.n_parts, task.part_dim, config.label_smoothing),
        sees="parts",
    ),
}
"""Losses with settings of their own, in the order in which they are added."""

FURTHER_LOSSES: dict[str, Callable[[], PairLoss]] = {"plain_triplet": TripletLoss}
"""Losses on embeddings that loss.further names: a new loss is one file in losses/ and one row here."""


class Objective(nn.Module):
    """total = sum over the rows of weight * loss.

    What is learned or counted here, such as the temperature, the classifiers and the progress of PALW, goes into the
    checkpoint beside the encoder.

    Args:
        config: the switches and constants.
        task: places and parts.

    Raises:
        ConfigError: config.further names a loss that is not in the table.
    """

    def __init__(self, config: LossConfig, task: Task) -> None:
        super().__init__()
        self._rows: list[tuple[str, str, float]] = []
        for name, row in LOSSES.items():
            if weight := row.weight(config):
                self.add_module(name, row.build(config, task))
                self._rows.append((name, row.sees, weight))
        for name in config.further:
            if name not in FURTHER_LOSSES:
                known = ", ".join(FURTHER_LOSSES)
                raise ConfigError(f"loss.further names {name!r}, which is no loss of the table; it has {known}.")
            self.add_module(name, FURTHER_LOSSES[name]())
            self._rows.append((name, "embeddings", 1.0))

    @property
    def losses(self) -> Mapping[str, PairLoss]:
        """The losses that are switched on, by name."""
        return {name: loss for name, loss in self.named_children() if isinstance(loss, PairLoss)}

    def forward(
        self, query_parts: Tensor, reference_parts: Tensor, place_ids: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch of pairs and its terms for the log, detached scalars on its device.

        A further loss's terms carry its name, "plain_triplet.triplet"; "loss" is the total.

        Args:
            query_parts, reference_parts: float32 (B, n_parts, part_dim), not normalised; row i of both shows
                place_ids[i].
            place_ids: int64 (B,).

        Raises:
            DatasetError: the identity loss meets a place that the task did not name.
        """
        parts = (query_parts, reference_parts)
        queries, references = (F.normalize(view.flatten(1), dim=1) for view in parts)
        seen = {"embeddings": (queries, references), "parts": parts}
        losses = self.losses
        total = queries.new_zeros(())
        terms: dict[str, Tensor] = {}
        for name, sees, weight in self._rows:
            loss = losses[name]
            total = total + weight * loss(*seen[sees], place_ids)
            prefix = f"{name}." if name in FURTHER_LOSSES else ""
            terms |= {f"{prefix}{term}": value for term, value in loss.terms.items()}
        terms["loss"] = total.detach()
        return total, terms
