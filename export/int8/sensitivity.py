"""What each layer costs in int8 when it is the only one, and the table of it.

sensitivity.json   [{"layer", "op", "cosine_loss", "weight_bytes"}, ...], largest loss first
sensitivity.md     the same as a table
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dphr_infer.engines.onnxruntime import OnnxRuntimeEngine
from dphr_infer.errors import ExportError
from dphr_infer.files.atomic import atomic_file
from dphr_infer.measure.progress import Progress
from export.gate.parity import embed_in_batches
from export.int8.quantiser import Quantiser

TABLE_JSON = "sensitivity.json"
TABLE_MARKDOWN = "sensitivity.md"
_BATCH = 16


@dataclass(frozen=True, slots=True)
class LayerSensitivity:
    """One layer's cost.

    Attributes:
        layer: its name, see `Quantiser.layers`.
        op: ONNX operator; ends with "(weights)" where only the weights are int8.
        cosine_loss: 1 minus the mean cosine between embeddings with this layer alone in int8 and with none.
        weight_bytes: of its int8 weight; giving the layer back adds as many to the file.
    """

    layer: str
    op: str
    cosine_loss: float
    weight_bytes: int


def embed_model(model: bytes, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Embed images with a model that lies in memory, on the CPU.

    Args:
        images: uint8 (n, H, W, 3), n >= 1.

    Returns:
        float32 (n, dim).

    Raises:
        EngineError: the images are not of the model's size, or an embedding is not finite.
    """
    with tempfile.TemporaryDirectory(prefix="dphr-int8-") as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model)
        with OnnxRuntimeEngine(path, "ONNX Runtime") as engine:
            return embed_in_batches(engine.embed, images, _BATCH)


def mean_cosine_loss(reference: NDArray[np.float32], embeddings: NDArray[np.float32]) -> float:
    """1 minus the mean cosine between rows of unit length, both (n, D).

    Computed as half the squared distance, which does not cancel: losses of 1e-9 are told apart.
    """
    difference = reference.astype(np.float64) - embeddings
    return float((difference**2).sum(axis=1).mean() / 2)


def measure_sensitivity(quantiser: Quantiser, images: NDArray[np.uint8]) -> tuple[LayerSensitivity, ...]:
    """Measure every layer alone in int8 against none, in graph order.

    One model is built and run for each layer, so the time is that of (layers + 1) * n images.

    Args:
        images: uint8 (n, H, W, 3), real images at model size; 16 to 64 suffice to rank the layers.

    Raises:
        ExportError: there are no images.
        EngineError: they are not of the model's size, or an embedding is not finite.
    """
    if len(images) == 0:
        raise ExportError("There are 0 images to measure the sensitivity on; give at least 1, and 16 are better.")
    reference = embed_model(quantiser.build(quantiser.layers), images)
    table = []
    with Progress("int8 sensitivity", len(quantiser.details), "layers") as progress:
        for layer in quantiser.details:
            others = [name for name in quantiser.layers if name != layer.name]
            loss = mean_cosine_loss(reference, embed_model(quantiser.build(others), images))
            op = f"{layer.op} (weights)" if layer.weights_only else layer.op
            table.append(LayerSensitivity(layer.name, op, loss, layer.weight_bytes))
            progress.advance(1, layer.name)
    return tuple(table)


def rank(table: Iterable[LayerSensitivity]) -> tuple[LayerSensitivity, ...]:
    """Largest loss first; equal losses keep their order."""
    return tuple(sorted(table, key=lambda row: -row.cosine_loss))


def to_markdown(table: Iterable[LayerSensitivity]) -> str:
    """The table as Markdown, largest loss first."""
    lines = ["| # | Layer | Operator | Cosine loss, alone in int8 | int8 weights, bytes |", "|--:|:--|:--|--:|--:|"]
    for number, row in enumerate(rank(table), start=1):
        lines.append(f"| {number} | {row.layer} | {row.op} | {row.cosine_loss:.2e} | {row.weight_bytes} |")
    return "\n".join(lines) + "\n"


def write_table(table: Iterable[LayerSensitivity], folder: Path) -> tuple[Path, Path]:
    """Write sensitivity.json and sensitivity.md into a folder, which is made where it does not exist.

    Raises:
        StorageError: a file cannot be written.
    """
    rows = rank(table)
    content = json.dumps([dataclasses.asdict(row) for row in rows], indent=2) + "\n"
    paths = folder / TABLE_JSON, folder / TABLE_MARKDOWN
    for path, text in zip(paths, (content, to_markdown(rows)), strict=True):
        with atomic_file(path) as part:
            part.write_text(text, encoding="utf-8")
    return paths
