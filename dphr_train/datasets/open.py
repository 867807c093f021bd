"""A benchmark by its name."""

from __future__ import annotations

from pathlib import Path

from dphr_train.config import DatasetName
from dphr_train.datasets.base import Dataset
from dphr_train.datasets.cvact import Cvact
from dphr_train.datasets.cvusa import Cvusa
from dphr_train.datasets.sues200 import Sues200
from dphr_train.datasets.university1652 import University1652
from dphr_train.datasets.vigor import Vigor


def open_dataset(name: DatasetName, root: Path) -> Dataset:
    """The benchmark of a name in a folder; nothing is read yet."""
    kind, _, variant = name.partition("-")
    if kind == "sues200":
        return Sues200(root, int(variant))
    if kind == "cvusa":
        return Cvusa(root)
    if kind == "cvact":
        return Cvact(root, variant)
    if kind == "vigor":
        return Vigor(root, variant)
    return University1652(root)
