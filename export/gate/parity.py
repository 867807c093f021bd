"""The gate: a shipped model must give torch's embeddings, on real images, at every batch size that it may meet.

It runs the bytes that ship through the engine that flies. Two kinds of limit, because each sees what the other misses:
a cosine per image finds one image that moved, recall and AP find many that moved a little in the same direction. Where
one query weighs more than the limit of recall, no query may be lost.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dphr_infer.engines.onnxruntime import OnnxRuntimeEngine
from dphr_infer.errors import EngineError, ExportError
from dphr_infer.files.bundle import Parity, Precision
from dphr_infer.images.preprocess import Preprocess
from dphr_infer.measure.progress import Progress
from dphr_train.encoder import Encoder, normalise
from export.gate.evaluation_set import INT8_RECALL_STEP, EvaluationSet

Embed = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

SMALL_BATCHES = (1, 2, 7)
MAX_BATCH = 16
MIN_COSINE: dict[Precision, float] = {"fp32": 0.99999, "fp16": 0.9999, "int8": 0.95}
MIN_MEAN_COSINE: dict[Precision, float] = {"fp32": 0.99999, "fp16": 0.9999, "int8": 0.99}
# Of recall@1 and of AP, as fractions.
MAX_DROP: dict[Precision, float] = {"fp32": 0.001, "fp16": 0.001, "int8": INT8_RECALL_STEP}
MAX_LENGTH_ERROR = 1e-3
_NAMED = 3
_DIGITS = 6
_MEND: dict[Precision, str] = {
    "fp32": "Report it with the versions of torch and onnx: the export changed the model.",
    "fp16": "Export without fp16 (--precisions fp32), or train with weights that half precision can hold.",
    "int8": "Export without int8 (--precisions fp32 fp16), or calibrate on more images of what it will see.",
}


@dataclass(frozen=True, slots=True)
class MovedImage:
    """An image and the cosine between torch's embedding of it and the shipped model's, at its worst batch size."""

    name: str
    cosine: float


@dataclass(frozen=True, slots=True)
class ParityReport:
    """What the gate measured for one precision.

    Attributes:
        min_cosine, mean_cosine: over images and batch sizes, against torch in float32.
        recall_drop, ap_drop: torch's recall@1 and AP minus the shipped model's, fractions; negative where the shipped
            one is better.
        recall_at_1, ap: torch's.
        n_queries: that recall and AP are means over; one of them is worth 100 / n_queries points.
        max_length_error: largest |length - 1| of a shipped embedding.
        moved: the images with the lowest cosine, worst first.
    """

    precision: Precision
    min_cosine: float
    mean_cosine: float
    recall_drop: float
    ap_drop: float
    recall_at_1: float
    ap: float
    n_queries: int
    max_length_error: float
    n_images: int
    moved: tuple[MovedImage, ...]

    def failures(self) -> list[str]:
        """One clause for every limit that is broken; a value that is not a number breaks it."""
        broken = []
        most_drop = MAX_DROP[self.precision]
        if not self.min_cosine >= MIN_COSINE[self.precision]:
            moved = ", ".join(f"{image.name} ({image.cosine:.6f})" for image in self.moved)
            broken.append(
                f"the smallest cosine is {self.min_cosine:.6f}, the limit is {MIN_COSINE[self.precision]} "
                f"(moved most: {moved})"
            )
        if not self.mean_cosine >= MIN_MEAN_COSINE[self.precision]:
            broken.append(f"the mean cosine is {self.mean_cosine:.6f}, the limit is {MIN_MEAN_COSINE[self.precision]}")
        for name, drop, before in (
            ("recall@1", self.recall_drop, self.recall_at_1),
            ("AP", self.ap_drop, self.ap),
        ):
            if not drop <= most_drop:
                broken.append(
                    f"{name} falls by {100 * drop:.2f} points from {100 * before:.2f}, the limit is "
                    f"{100 * most_drop:.1f} (one of {self.n_queries} queries is {100 / self.n_queries:.2f})"
                )
        if not self.max_length_error <= MAX_LENGTH_ERROR:
            broken.append(
                f"an embedding's length is off 1 by {self.max_length_error:.2g}, the limit is {MAX_LENGTH_ERROR:.0e}"
            )
        return broken

    @property
    def passed(self) -> bool:
        """True when no limit is broken."""
        return not self.failures()

    def to_manifest(self) -> Parity:
        """The part that travels in the bundle; rounded, so that another number of threads gives the same bytes."""
        return Parity(
            min_cosine=round(self.min_cosine, _DIGITS),
            mean_cosine=round(self.mean_cosine, _DIGITS),
            recall_drop=round(self.recall_drop, _DIGITS),
            ap_drop=round(self.ap_drop, _DIGITS),
            n_images=self.n_images,
        )

    def require(self) -> None:
        """Let a good model pass.

        Raises:
            ExportError: a limit is broken; names them all and the images that moved most.
        """
        if not self.passed:
            raise ExportError(
                f"The {self.precision} model does not agree with torch on {self.n_images} images: "
                f"{'; '.join(self.failures())}. No bundle was written. " + _MEND[self.precision]
            )


def torch_embedder(encoder: Encoder) -> Embed:
    """The reference: the encoder in float32, as validation runs it.

    Returns:
        A function from uint8 (B, H, W, 3) to float32 (B, dim).
    """
    device = next(encoder.parameters()).device

    def embed(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.no_grad():
            pixels = normalise(torch.from_numpy(images).to(device), encoder.mean, encoder.std)
            embeddings: NDArray[np.float32] = encoder(pixels).cpu().numpy()
        return embeddings

    return embed


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch sum in one order, whatever the machine: the bytes of a self-test must not depend on its cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def embed_in_batches(embed: Embed, images: NDArray[np.uint8], batch: int) -> NDArray[np.float32]:
    """Embed `images` `batch` at a time; the last batch may be smaller."""
    return np.concatenate([embed(images[start : start + batch]) for start in range(0, len(images), batch)])


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """What one embedder made of the evaluation set.

    Attributes:
        all: float32 (n_images, dim), queries then gallery, in batches of MAX_BATCH.
        first_by_batch: {batch size: float32 (MAX_BATCH, dim)}, the first images again at the small batch sizes.
    """

    all: NDArray[np.float32]
    first_by_batch: dict[int, NDArray[np.float32]]


def embed_evaluation_set(data: EvaluationSet, preprocess: Preprocess, embed: Embed, name: str) -> Embeddings:
    """Decode every image and embed it; memory holds one batch of pixels at a time.

    Raises:
        ImageError: an image cannot be read.
    """
    count = len(data.images())
    parts: list[NDArray[np.float32]] = []
    first: dict[int, NDArray[np.float32]] = {}
    with Progress(f"parity gate {name}", count, "images") as progress:
        for start in range(0, count, MAX_BATCH):
            rows = range(start, min(start + MAX_BATCH, count))
            pixels = np.stack([preprocess(data.read(row)) for row in rows])
            parts.append(embed(pixels))
            if start == 0:
                first = {batch: embed_in_batches(embed, pixels, batch) for batch in SMALL_BATCHES}
            progress.advance(len(rows))
    return Embeddings(np.concatenate(parts), first)


def _cosines(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float64]:
    """float64 (n,), the cosine between rows of the same number; NaN where a row has no direction."""
    a, b = left.astype(np.float64), right.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines: NDArray[np.float64] = np.einsum("nd,nd->n", a, b) / (
            np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        )
    return cosines


def compare(precision: Precision, reference: Embeddings, shipped: Embeddings, data: EvaluationSet) -> ParityReport:
    """Measure how far a shipped model is from the reference.

    Raises:
        ExportError: the two differ in the length of an embedding.
    """
    if reference.all.shape != shipped.all.shape:
        raise ExportError(
            f"The {precision} model gives embeddings of length {shipped.all.shape[1]}, torch of length "
            f"{reference.all.shape[1]}: the exported graph is not this encoder."
        )
    cosines = _cosines(reference.all, shipped.all)
    seen = [cosines]
    worst = cosines.copy()
    for batch in SMALL_BATCHES:
        again = shipped.first_by_batch[batch]
        seen.append(_cosines(reference.all[: len(again)], again))
        worst[: len(again)] = np.minimum(worst[: len(again)], seen[-1])
    lengths = np.concatenate([np.linalg.norm(part, axis=1) for part in (shipped.all, *shipped.first_by_batch.values())])
    finite = bool(np.isfinite(worst).all())
    names: Sequence[str] = [data.name(image) for image in data.images()]
    order = np.argsort(np.where(np.isfinite(worst), worst, -2.0), kind="stable")[:_NAMED]
    expected = data.report(reference.all)
    found = data.report(shipped.all) if finite else None
    return ParityReport(
        precision=precision,
        min_cosine=float(worst.min()),
        mean_cosine=float(np.concatenate(seen).mean()),
        recall_drop=expected.recall_at[1] - found.recall_at[1] if found else float("nan"),
        ap_drop=expected.ap - found.ap if found else float("nan"),
        recall_at_1=expected.recall_at[1],
        ap=expected.ap,
        n_queries=len(data.queries),
        max_length_error=float(np.abs(lengths - 1).max()),
        n_images=len(names),
        moved=tuple(MovedImage(names[row], float(worst[row])) for row in order),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Gate:
    """What every model of a bundle is judged by: the same images and the same reference.

    Attributes:
        data: the evaluation set.
        preprocess: of the bundle.
        reference: the embeddings of the model that all others must agree with.
    """

    data: EvaluationSet
    preprocess: Preprocess
    reference: Embeddings

    def judge(self, precision: Precision, model: Path) -> ParityReport:
        """Run a model's file by the engine that flies, and compare.

        Raises:
            ExportError: it cannot be opened, does not run on real images, or is of another length.
        """
        try:
            with OnnxRuntimeEngine(model, f"onnxruntime CPU {precision}") as engine:
                found = embed_evaluation_set(self.data, self.preprocess, engine.embed, precision)
        except EngineError as error:
            raise ExportError(
                f"The {precision} model fails in the engine that flies: {error} No bundle was written."
            ) from error
        return compare(precision, self.reference, found, self.data)

    def judge_bytes(self, precision: Precision, content: bytes) -> ParityReport:
        """The same for a model that is no file yet."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{precision}.onnx"
            path.write_bytes(content)
            return self.judge(precision, path)


def say(report: ParityReport) -> None:
    """One line on stderr of what the gate measured."""
    print(
        f"{report.precision} {'passed' if report.passed else 'FAILED'}: cosine with the reference min "
        f"{report.min_cosine:.7f}, mean {report.mean_cosine:.7f}; recall@1 {100 * report.recall_at_1:.2f} % falls by "
        f"{100 * report.recall_drop:.2f} points, AP {100 * report.ap:.2f} % by {100 * report.ap_drop:.2f}; "
        f"{report.n_queries} queries, {report.n_images - report.n_queries} gallery images",
        file=sys.stderr,
        flush=True,
    )
