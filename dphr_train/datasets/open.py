"""A benchmark by its name: a new one is one file here, one row below, and its name in config.DatasetName."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from dphr_train.config import DatasetName
from dphr_train.datasets.base import Dataset
from dphr_train.datasets.cvact import Cvact
from dphr_train.datasets.cvusa import Cvusa
from dphr_train.datasets.sues200 import Sues200
from dphr_train.datasets.university1652 import University1652
from dphr_train.datasets.vigor import Vigor

DATASETS: dict[DatasetName, Callable[[Path], Dataset]] = {
    "university1652": University1652,
    "sues200-150": partial(Sues200, height_m=150),
    "sues200-200": partial(Sues200, height_m=200),
    "sues200-250": partial(Sues200, height_m=250),
    "sues200-300": partial(Sues200, height_m=300),
    "cvusa": Cvusa,
    "cvact-val": partial(Cvact, split="val"),
    "cvact-test": partial(Cvact, split="test"),
    "vigor-same": partial(Vigor, area="same"),
    "vigor-cross": partial(Vigor, area="cross"),
}


def open_dataset(name: DatasetName, root: Path) -> Dataset:
    """The benchmark of a name in a folder; nothing is read yet."""
    return DATASETS[name](root)
