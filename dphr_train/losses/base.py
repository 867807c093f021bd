"""What every loss on a batch of pairs has in common."""

from __future__ import annotations

from torch import Tensor, nn

from dphr_infer.errors import ConfigError


class PairLoss(nn.Module):
    """A loss on a batch of pairs: loss(queries, references, place_ids) -> scalar with gradient.

    A subclass fills `terms` on each call and keeps in buffers what its next call depends on, so that `state_dict()`
    holds it. Nothing in a call waits for the device: `terms` are tensors, and a log that reads them decides when.

    Attributes:
        terms: of the last call, by name: detached scalars on the device of the loss. Empty before the first.
    """

    terms: dict[str, Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.terms = {}


def require_pairs(queries: Tensor, references: Tensor, place_ids: Tensor | None) -> None:
    """Refuse what is no batch of pairs; broadcasting would make a loss of something else of it.

    Args:
        queries, references: expected (B, D).
        place_ids: expected (B,); None is not looked at.

    Raises:
        ConfigError: another number of dimensions, or B or D differ.
    """
    shapes = f"queries {tuple(queries.shape)} and references {tuple(references.shape)}"
    if queries.ndim != 2 or queries.shape != references.shape:
        raise ConfigError(f"A loss on pairs expected queries and references of one shape (B, D), got {shapes}.")
    if place_ids is not None and place_ids.shape != queries.shape[:1]:
        raise ConfigError(f"A loss on pairs expected place_ids (B,), got {tuple(place_ids.shape)} beside {shapes}.")
