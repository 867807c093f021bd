"""Retrieval on the test split, in every direction and under every protocol of the benchmark."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dphr_infer.engines.embedder import Embedder
from dphr_infer.measure.progress import Progress
from dphr_train.config import DataConfig
from dphr_train.datasets.reading import ViewImage, ViewReader, reader_of
from dphr_train.encoder import Encoder, normalise
from dphr_train.metrics import report_retrieval
from dphr_train.types import Direction, GalleryProtocol, PlaceImage, RetrievalReport, View

_BATCH = 64


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
class RankedDirection:
    """What a direction of retrieval came to: its embeddings, for pictures, and its reports by protocol."""

    name: str
    queries: EmbeddedImages
    gallery: EmbeddedImages
    reports: dict[GalleryProtocol, RetrievalReport]


EmbedFiles = Callable[[Sequence[Path], View, str], NDArray[np.float32]]
"""Image files, what they show, a label for the progress bar -> float32 (n, dim), unit length: a network or a bundle."""

EmbedImages = Callable[[list[NDArray[np.uint8]]], NDArray[np.float32]]
"""Images uint8 (H, W, 3) of any size -> float32 (n, dim), unit length."""


def embed_files(
    embed: EmbedImages, read: Callable[[Path], ViewImage], paths: Sequence[Path], label: str, flip: bool = False
) -> NDArray[np.float32]:
    """Read and embed files in batches, with progress.

    Args:
        flip: add the embedding of the mirrored image and normalise again, as the official University-1652 test does.
            Ours adds two unit vectors, which every bundle has; the official script adds them before the norm.
    """
    rows: list[NDArray[np.float32]] = []
    with Progress(label, len(paths), "images") as progress:
        for start in range(0, len(paths), _BATCH):
            images = [read(path).pixels for path in paths[start : start + _BATCH]]
            embeddings = embed(images)
            if flip:
                embeddings = embeddings + embed([image[:, ::-1] for image in images])
                embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
            rows.append(embeddings)
            progress.advance(len(embeddings))
    return np.concatenate(rows)


def network_embedder(
    encoder: Encoder, data: DataConfig, device: str, flip: bool = False, reader: ViewReader | None = None
) -> EmbedFiles:
    """Embed with a torch encoder in evaluation mode; its mode is restored afterwards.

    Args:
        data: how images reached it in training.
        flip: see `embed_files`.
        reader: of the files; None takes the one of `data`.
    """
    reader = reader or reader_of(data)

    def embed_paths(paths: Sequence[Path], view: View, label: str) -> NDArray[np.float32]:
        preprocess = data.preprocess(view)

        def embed(images: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
            pixels = torch.from_numpy(np.stack([preprocess(image) for image in images])).to(device)
            with torch.inference_mode():
                embeddings: Tensor = encoder(normalise(pixels, encoder.mean, encoder.std))
            found: NDArray[np.float32] = embeddings.float().cpu().numpy()
            return found

        training = encoder.training
        encoder.eval()
        try:
            return embed_files(embed, partial(reader.read, view=view), paths, label, flip)
        finally:
            encoder.train(training)

    return embed_paths


def bundle_embedder(embedder: Embedder, reader: ViewReader, flip: bool = False) -> EmbedFiles:
    """Embed with the model of a bundle, as it flies: one preprocess for every view. For flip see `embed_files`."""
    return lambda paths, view, label: embed_files(
        embedder.embed_images, partial(reader.read, view=view), paths, label, flip
    )


def evaluate(embed: EmbedFiles, directions: Sequence[Direction]) -> list[RankedDirection]:
    """Embed and rank every direction.

    Raises:
        ImageError: an image cannot be read.
        DatasetError: a query's place is not in the gallery, or an embedding is not finite.
    """
    return [_rank(embed, direction) for direction in directions]


def _rank(embed: EmbedFiles, direction: Direction) -> RankedDirection:
    query_paths = [image.path for image in direction.queries]
    gallery_paths = [image.path for image in direction.gallery]
    queries = EmbeddedImages(
        direction.queries, embed(query_paths, direction.query_view, f"embed {direction.query_view} queries")
    )
    gallery = EmbeddedImages(
        direction.gallery, embed(gallery_paths, direction.gallery_view, f"embed {direction.gallery_view} gallery")
    )
    reports = {
        protocol: report_retrieval(
            queries.embeddings,
            queries.place_ids,
            gallery.embeddings,
            gallery.place_ids,
            protocol,
            direction.rules,
        )
        for protocol in direction.protocols
    }
    return RankedDirection(direction.name, queries, gallery, reports)


def directions_to_json(directions: Sequence[RankedDirection]) -> dict[str, Any]:
    """{direction: {protocol: figures}} as JSON values, k as text; what the benchmark does not have is left out."""

    def plain(report: RetrievalReport) -> dict[str, Any]:
        figures = {name: value for name, value in dataclasses.asdict(report).items() if value is not None}
        return {
            name: {str(k): share for k, share in value.items()} if isinstance(value, dict) else value
            for name, value in figures.items()
        }

    return {
        direction.name: {protocol: plain(report) for protocol, report in direction.reports.items()}
        for direction in directions
    }


def _first_within(within_m: float, report: RetrievalReport) -> float | None:
    return report.recall_within[1] if report.recall_within and report.within_m == within_m else None


def format_table(directions: Sequence[RankedDirection]) -> str:
    """The figures as a table for people, in percent; hit rate and recall within metres only where there is one."""
    rows = [(direction.name, report) for direction in directions for report in direction.reports.values()]
    columns: dict[str, Callable[[RetrievalReport], float | None]] = {
        "R@1": lambda report: report.recall_at.get(1),
        "R@5": lambda report: report.recall_at.get(5),
        "R@10": lambda report: report.recall_at.get(10),
        "R@1%": lambda report: report.recall_at_1_percent,
        "AP": lambda report: report.ap,
        "std AP": lambda report: report.standard_ap,
    }
    if any(report.hit_rate is not None for _, report in rows):
        columns["hit"] = lambda report: report.hit_rate
    for within_m in sorted({report.within_m for _, report in rows if report.within_m is not None}):
        columns[f"R@1 {within_m:g}m"] = partial(_first_within, within_m)
    widths = {title: max(7, len(title) + 2) for title in columns}
    lines = [f"{'direction':<18}{'gallery':<9}" + "".join(f"{title:>{widths[title]}}" for title in columns) + "  sizes"]
    for name, report in rows:
        figures = ""
        for title, figure in columns.items():
            value = figure(report)
            figures += f"{'-' if value is None else f'{100 * value:.2f}':>{widths[title]}}"
        lines.append(f"{name:<18}{report.protocol:<9}{figures}  {report.n_queries} in {report.n_gallery}")
    return "\n".join(lines)
