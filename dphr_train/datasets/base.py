"""What every benchmark gives: pairs to train on, directions to test in, and a check of what lies on the disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from dphr_train.types import Direction, TrainSplit


@dataclass(frozen=True, slots=True)
class Count:
    """What a check counted: how many there are and how many the official release has."""

    what: str
    found: int
    official: int


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What `dphr-train check` found.

    Attributes:
        counts: images or places by split and view.
        missing: files that a list of the benchmark names and that are not there.
        unreadable: files that are no image, or are cut short, each with the reason.
    """

    counts: list[Count]
    missing: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """True when every count is the official one and every file is there and readable."""
        return not self.missing and not self.unreadable and all(c.found == c.official for c in self.counts)


class Dataset(Protocol):
    """A benchmark's folder; nothing is read until a split is asked for.

    Every method raises DatasetError where the folder has another layout or lacks something; it says which layout was
    recognised, what is missing, and what to do.
    """

    @property
    def root(self) -> Path:
        """The folder."""
        ...

    def train_split(self) -> TrainSplit:
        """Training pairs."""
        ...

    def test_directions(self) -> list[Direction]:
        """Directions of the test split, the main one first; an empty list where the folder has no test split at all."""
        ...

    def check(self, read_images: bool = True) -> CheckReport:
        """Count, look for every listed file, and, unless told not to, decode every image."""
        ...
