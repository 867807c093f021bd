"""Training pairs as batches of tensors: decoded once, brought to model size, augmented reproducibly."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from dphr_infer.errors import DphrError
from dphr_train.augment import augment_pair, jittered, require_fitting
from dphr_train.config import AugmentConfig, DataConfig
from dphr_train.datasets.reading import Jitter, ViewImage, reader_of
from dphr_train.types import TrainSplit, View

PairBatch = tuple[Tensor, Tensor, Tensor]
"""Query and reference images, uint8 (B, H, W, 3) each with its own H and W, and place ids, int64 (B,)."""

LoadedBatch = PairBatch | DphrError
"""A batch, or the error of an image that a worker could not read."""

Sample = tuple[NDArray[np.uint8], NDArray[np.uint8], int]
"""Query and reference image, uint8 (H, W, 3) each, and the place."""


class ImageCache:
    """A view's images at model size; keeps what it has read where it may. Each worker process has its own."""

    def __init__(self, data: DataConfig, view: View) -> None:
        self._preprocess, self._reader = data.preprocess(view), reader_of(data)
        self._view, self._keep = view, data.cache
        self._images: dict[Path, ViewImage] = {}

    def read(self, path: Path, jitter: Jitter | None = None) -> ViewImage:
        """The image, uint8 (height_px, width_px, 3); with a jitter, which makes another one each time, not kept."""
        image = self._images.get(path) if jitter is None else None
        if image is None:
            read = self._reader.read(path, self._view, jitter)
            image = ViewImage(self._preprocess(read.pixels), read.north_up)
            if self._keep and jitter is None:
                self._images[path] = image
        return image


class PairDataset(Dataset[Sample | DphrError]):
    """Maps (epoch, pair number) to an augmented pair; the same key always gives the same pixels.

    An image that cannot be read is given as its error: raised in a worker, it would reach the user as a traceback.
    """

    def __init__(self, split: TrainSplit, data: DataConfig, augment: AugmentConfig, seed: int) -> None:
        require_fitting(augment, split.query_view)
        self.pairs = split.pairs
        self._query_view = split.query_view
        self._queries, self._references = ImageCache(data, split.query_view), ImageCache(data, "satellite")
        self._augment, self._seed = augment, seed

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: tuple[int, int]) -> Sample | DphrError:
        epoch, number = key
        pair = self.pairs[number]
        random = np.random.default_rng([self._seed, epoch, number])
        jitter = partial(jittered, config=self._augment, random=random) if self._augment.jitters_attitude else None
        try:
            query, reference = self._queries.read(pair.query, jitter), self._references.read(pair.reference)
        except DphrError as error:
            return error
        pixels = augment_pair(
            query.pixels, reference.pixels, self._augment, random, self._query_view, north_up=query.north_up
        )
        return *pixels, pair.place_id


class BatchPlan(Sampler[list[tuple[int, int]]]):
    """The batches of an epoch that are still to come, in the form that DataLoader takes; set before each pass."""

    def __init__(self) -> None:
        self._epoch = 0
        self._batches: list[list[int]] = []

    def set(self, epoch: int, batches: list[list[int]]) -> None:
        """Plan batches of pair numbers."""
        self._epoch, self._batches = epoch, batches

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return ([(self._epoch, pair) for pair in batch] for batch in self._batches)

    def __len__(self) -> int:
        return len(self._batches)


def _collate(samples: list[Sample | DphrError]) -> LoadedBatch:
    for sample in samples:
        if isinstance(sample, DphrError):
            return sample
    queries, references, places = zip(*samples, strict=True)
    return torch.from_numpy(np.stack(queries)), torch.from_numpy(np.stack(references)), torch.tensor(places)


def open_loader(dataset: PairDataset, plan: BatchPlan, workers: int) -> DataLoader[LoadedBatch]:
    """A loader that gives the plan's batches each time it is iterated; its workers live on between epochs.

    Where an image of a batch cannot be read, the error takes the place of the batch.

    It has a generator of its own: DataLoader draws a seed at its start, and from torch's global generator that draw
    would make a resumed run differ from an uninterrupted one.
    """
    loader: DataLoader[Any] = DataLoader(  # of what _collate makes, which its type does not say
        dataset,
        batch_sampler=plan,
        num_workers=workers,
        collate_fn=_collate,
        persistent_workers=workers > 0,
        generator=torch.Generator(),
    )
    return loader
