"""Retrieval on the test split, in both directions and under both gallery protocols."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dphr_infer.embedder import Embedder
from dphr_infer.metrics import report_retrieval
from dphr_infer.preprocess import Preprocess, read_image
from dphr_infer.terminal import Progress
from dphr_infer.types import GalleryProtocol, RetrievalReport
from dphr_train.datasets.university1652 import PlaceImage, University1652, View
from dphr_train.encoder import Encoder, normalise

_BATCH = 64
PROTOCOLS: tuple[GalleryProtocol, ...] = ("full", "matched")


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedImages:
    """Images with their places and embeddings, float32 (n, dim), row for row."""

    images: list[PlaceImage]
    embeddings: NDArray[np.float32]

    @property
    def place_ids(self) -> NDArray[np.int64]:
        """Place of each row, int64 (n,)."""
        return np.array([image.place_id for image in self.images], np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Direction:
    """One direction of retrieval: its embeddings, for pictures, and its reports by protocol."""

    name: str
    queries: EmbeddedImages
    gallery: EmbeddedImages
    reports: dict[str, RetrievalReport]


EmbedFiles = Callable[[Sequence[Path], str], NDArray[np.float32]]
"""Image files and a label for the progress bar -> float32 (n, dim), unit length: a network in training or a bundle."""


def embed_files(
    embed: Callable[[list[NDArray[np.uint8]]], NDArray[np.float32]], paths: Sequence[Path], label: str
) -> NDArray[np.float32]:
    """Read and embed files in batches, with progress."""
    rows: list[NDArray[np.float32]] = []
    with Progress(label, len(paths), "images") as progress:
        for start in range(0, len(paths), _BATCH):
            rows.append(embed([read_image(path) for path in paths[start : start + _BATCH]]))
            progress.advance(len(rows[-1]))
    return np.concatenate(rows)


def network_embedder(encoder: Encoder, preprocess: Preprocess, device: str) -> EmbedFiles:
    """Embed with a torch encoder in evaluation mode; its mode is restored afterwards."""

    def embed(images: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
        pixels = torch.from_numpy(np.stack([preprocess(image) for image in images])).to(device)
        with torch.inference_mode():
            return encoder(normalise(pixels, encoder.mean, encoder.std)).float().cpu().numpy()

    def embed_paths(paths: Sequence[Path], label: str) -> NDArray[np.float32]:
        training = encoder.training
        encoder.eval()
        try:
            return embed_files(embed, paths, label)
        finally:
            encoder.train(training)

    return embed_paths


def bundle_embedder(embedder: Embedder) -> EmbedFiles:
    """Embed with the model of a bundle, as it flies."""
    return lambda paths, label: embed_files(embedder.embed_images, paths, label)


def evaluate(embed: EmbedFiles, root: Path) -> list[Direction]:
    """Evaluate drone -> satellite and satellite -> drone on the test split of a University-1652 layout.

    Raises:
        DatasetError: the test split is missing or incomplete.
    """
    data = University1652(root)
    views: tuple[tuple[View, View], ...] = (("drone", "satellite"), ("satellite", "drone"))
    directions = []
    for query_view, gallery_view in views:
        queries = _embed_side(embed, data.test_images("query", query_view), f"embed query_{query_view}")
        gallery = _embed_side(embed, data.test_images("gallery", gallery_view), f"embed gallery_{gallery_view}")
        reports = {
            protocol: report_retrieval(
                queries.embeddings, queries.place_ids, gallery.embeddings, gallery.place_ids, protocol
            )
            for protocol in PROTOCOLS
        }
        directions.append(Direction(f"{query_view}->{gallery_view}", queries, gallery, reports))
    return directions


def _embed_side(embed: EmbedFiles, images: list[PlaceImage], label: str) -> EmbeddedImages:
    return EmbeddedImages(images, embed([image.path for image in images], label))


def directions_to_json(directions: Sequence[Direction]) -> dict[str, Any]:
    """{direction: {protocol: figures}} as JSON values."""
    return {
        direction.name: {protocol: dataclasses.asdict(report) for protocol, report in direction.reports.items()}
        for direction in directions
    }


def format_table(directions: Sequence[Direction]) -> str:
    """The figures as a table for people, in percent."""
    lines = [f"{'direction':<18}{'gallery':<9}{'R@1':>7}{'R@5':>7}{'R@10':>7}{'R@1%':>7}{'AP':>7}{'std AP':>8}  sizes"]
    for direction in directions:
        for protocol, report in direction.reports.items():
            recalls = "".join(
                f"{100 * report.recall_at[k]:7.2f}" if k in report.recall_at else f"{'-':>7}" for k in (1, 5, 10)
            )
            lines.append(
                f"{direction.name:<18}{protocol:<9}{recalls}{100 * report.recall_at_1_percent:7.2f}"
                f"{100 * report.ap:7.2f}{100 * report.standard_ap:8.2f}  {report.n_queries} in {report.n_gallery}"
            )
    return "\n".join(lines)
