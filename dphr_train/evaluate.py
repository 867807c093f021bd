"""Retrieval on the test split, in both directions and under both gallery protocols."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dphr_infer.metrics import report_retrieval
from dphr_infer.preprocess import Preprocess, read_image
from dphr_infer.terminal import Progress
from dphr_infer.types import RetrievalReport
from dphr_train.datasets.university1652 import PlaceImage, University1652, View
from dphr_train.encoder import Encoder, normalise

_BATCH = 64
PROTOCOLS = ("full", "matched")


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


def embed_images(
    encoder: Encoder, preprocess: Preprocess, paths: Sequence[Path], label: str, device: str = "cpu"
) -> NDArray[np.float32]:
    """Embed image files in evaluation mode, float32 (n, dim); the encoder's mode is restored afterwards."""
    training = encoder.training
    encoder.eval()
    rows: list[NDArray[np.float32]] = []
    with torch.inference_mode(), Progress(label, len(paths), "images") as progress:
        for start in range(0, len(paths), _BATCH):
            images = np.stack([preprocess(read_image(path)) for path in paths[start : start + _BATCH]])
            pixels = torch.from_numpy(images).to(device)
            rows.append(encoder(normalise(pixels, encoder.mean, encoder.std)).float().cpu().numpy())
            progress.advance(len(images))
    encoder.train(training)
    return np.concatenate(rows)


def evaluate(encoder: Encoder, preprocess: Preprocess, root: Path, device: str = "cpu") -> list[Direction]:
    """Evaluate drone -> satellite and satellite -> drone on the test split of a University-1652 layout.

    Raises:
        DatasetError: the test split is missing or incomplete.
    """
    data = University1652(root)
    views: tuple[tuple[View, View], ...] = (("drone", "satellite"), ("satellite", "drone"))
    directions = []
    for query_view, gallery_view in views:
        sides = []
        for role, view in (("query", query_view), ("gallery", gallery_view)):
            images = data.test_images(role, view)
            paths = [image.path for image in images]
            sides.append(
                EmbeddedImages(images, embed_images(encoder, preprocess, paths, f"embed {role}_{view}", device))
            )
        queries, gallery = sides
        reports = {
            protocol: report_retrieval(
                queries.embeddings, queries.place_ids, gallery.embeddings, gallery.place_ids, protocol
            )
            for protocol in PROTOCOLS
        }
        directions.append(Direction(f"{query_view}->{gallery_view}", queries, gallery, reports))
    return directions


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
