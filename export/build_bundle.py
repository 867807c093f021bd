"""Checkpoint and evaluation images -> bundle folder, which appears only when every model has passed the gate."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save as to_safetensors

from dphr_infer.atomic import atomic_folder
from dphr_infer.bundle import (
    MANIFEST_NAME,
    SELFTEST_EMBEDDINGS,
    SELFTEST_IMAGES,
    Manifest,
    Precision,
    digest_files,
    file_digest,
    model_name,
)
from dphr_infer.engines.onnxrt import OnnxRuntimeEngine
from dphr_infer.errors import EngineError, ExportError
from dphr_infer.preprocess import Preprocess, read_image
from dphr_train.checkpoint import load_encoder, read_checkpoint
from dphr_train.config_json import config_to_json
from dphr_train.datasets.university1652 import PlaceImage
from dphr_train.encoder import Encoder
from export.evaluation_set import DEFAULT_MAX_IMAGES, EvaluationSet, read_evaluation_set
from export.parity import MAX_BATCH, Embed, ParityReport, compare, embed_evaluation_set, torch_embedder
from export.to_onnx import to_onnx

SELFTEST_COUNT = 12
_PACKAGES = ("dphr", "torch", "timm", "onnx", "onnxscript", "onnxruntime", "numpy", "pillow")
_REFERENCE = "torch"


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What to export, and what to prove it on.

    Attributes:
        checkpoint: of a training run.
        data: a data set with a test split in University-1652's layout; the gate and the self-test take images from it.
        out: the bundle folder; it must not exist.
        precisions: the models to make, each at most once.
        optional: those of them that the bundle may do without: one that fails the gate is left out, and said to be.
        max_images: of the evaluation set; cut evenly over its places.
    """

    checkpoint: Path
    data: Path
    out: Path
    precisions: tuple[Precision, ...] = ("fp32", "fp16")
    optional: tuple[Precision, ...] = ()
    max_images: int = DEFAULT_MAX_IMAGES


def _report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def read_origin(checkpoint: Path, data: EvaluationSet) -> dict[str, str]:
    """How the bundle came to be: digests, versions and the training settings, without paths of this machine."""
    trained = read_checkpoint(checkpoint)
    config = config_to_json(trained.config)
    config.pop("out")
    config["data"].pop("root")
    origin = {
        "checkpoint_sha256": file_digest(checkpoint),
        "evaluation_gallery": str(len(data.gallery)),
        "evaluation_queries": str(len(data.queries)),
        "evaluation_sha256": data.digest(),
        "training_config": json.dumps(config, sort_keys=True),
        "training_seed": str(trained.config.seed),
        "training_steps": str(trained.step),
    }
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            origin[f"version_{package}"] = importlib.metadata.version(package)
    return origin


@contextlib.contextmanager
def shipped_embedders(folder: Path, precisions: Sequence[Precision]) -> Iterator[dict[str, Embed]]:
    """The models in `folder`, run by the engine that flies; one embedder a precision.

    Raises:
        ExportError: a model cannot be opened, or does not run on real images.
    """
    with contextlib.ExitStack() as stack:
        embedders: dict[str, Embed] = {}
        for precision in precisions:
            engine = OnnxRuntimeEngine(folder / model_name(precision), f"onnxruntime CPU {precision}")
            try:
                embedders[precision] = stack.enter_context(engine).embed
            except EngineError as error:
                raise _cannot_run(precision, error) from error
        yield {name: _checked(name, embed) for name, embed in embedders.items()}


def _cannot_run(precision: str, error: EngineError) -> ExportError:
    return ExportError(f"The {precision} model fails in the engine that flies: {error} No bundle was written.")


def _checked(precision: str, embed: Embed) -> Embed:
    def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        try:
            return embed(images)
        except EngineError as error:
            raise _cannot_run(precision, error) from error

    return run


def run_gate(
    folder: Path, request: ExportRequest, encoder: Encoder, preprocess: Preprocess, data: EvaluationSet
) -> list[ParityReport]:
    """Compare every model in `folder` with torch.

    Returns:
        One report for each model that stays in `folder`, all of them passed; optional ones that failed are removed.

    Raises:
        ExportError: a model that is not optional does not agree with torch, or none is left.
    """
    precisions = request.precisions
    with shipped_embedders(folder, precisions) as shipped:
        embeddings = embed_evaluation_set(data, preprocess, {_REFERENCE: torch_embedder(encoder), **shipped})
    reports = [compare(precision, embeddings[_REFERENCE], embeddings[precision], data) for precision in precisions]
    for report in reports:
        _report(
            f"{report.precision} {'passed' if report.passed else 'FAILED'}: cosine with torch min "
            f"{report.min_cosine:.7f}, mean {report.mean_cosine:.7f}; recall@1 {100 * report.recall_at_1:.2f} % falls "
            f"by {100 * report.recall_drop:.2f} points, AP {100 * report.ap:.2f} by {100 * report.ap_drop:.2f}; "
            f"{len(data.queries)} queries, {len(data.gallery)} gallery images"
        )
    kept = [report for report in reports if report.passed or report.precision not in request.optional]
    for report in kept or reports:
        report.require()
    for report in reports:
        if report not in kept:
            (folder / model_name(report.precision)).unlink()
            _report(f"{report.precision} is left out of the bundle: {'; '.join(report.failures())}")
    return kept


def choose_selftest(data: EvaluationSet) -> list[tuple[str, PlaceImage]]:
    """(file name, image) of the self-test: the first queries, each of another place, and their gallery images."""
    half = SELFTEST_COUNT // 2
    drone = list({image.place_id: image for image in reversed(data.queries)}.values())[::-1][:half]
    places = {image.place_id for image in drone}
    satellite = [image for image in data.gallery if image.place_id in places][: SELFTEST_COUNT - len(drone)]
    chosen = [("drone", image) for image in drone] + [("satellite", image) for image in satellite]
    return [(f"{row:02d}_{view}_{image.place_id:04d}.png", image) for row, (view, image) in enumerate(chosen)]


def write_selftest(folder: Path, encoder: Encoder, preprocess: Preprocess, data: EvaluationSet) -> None:
    """Write the self-test's images at model size, and torch's embeddings of them."""
    chosen = choose_selftest(data)
    pixels = np.stack([preprocess(read_image(image.path)) for _, image in chosen])
    (folder / SELFTEST_IMAGES).mkdir(parents=True)
    for (name, _), picture in zip(chosen, pixels, strict=True):
        content = io.BytesIO()
        Image.fromarray(picture).save(content, format="PNG", optimize=True)
        (folder / SELFTEST_IMAGES / name).write_bytes(content.getvalue())
    embeddings = torch_embedder(encoder)(pixels)
    (folder / SELFTEST_EMBEDDINGS).write_bytes(to_safetensors({"embeddings": embeddings}))


def _require_one_input(checkpoint: Path) -> None:
    """Refuse an encoder whose queries reach it in another way than its references do."""
    data = read_checkpoint(checkpoint).config.data
    query, reference = data.preprocess("ground"), data.preprocess("satellite")
    if query != reference:
        raise ExportError(
            f"{checkpoint} was trained on ground panoramas of {query.width_px}x{query.height_px} px beside satellite "
            f"images of {reference.width_px}x{reference.height_px} px; a bundle has one input for photos and tiles. "
            "Train without data.ground-px to export it."
        )


def build_bundle(request: ExportRequest) -> Manifest:
    """Export a checkpoint as a bundle.

    Returns:
        The manifest as written.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        DatasetError, ImageError: the evaluation images cannot be read.
        ExportError: a model cannot be exported, or does not agree with torch; nothing is left behind.
        StorageError: `out` exists already or cannot be written; nothing is left behind.
    """
    if not request.precisions or len(set(request.precisions)) != len(request.precisions):
        raise ExportError(f"Precisions are {request.precisions}; name at least one, and each at most once.")
    with atomic_folder(request.out) as folder:
        encoder, preprocess = load_encoder(request.checkpoint)
        _require_one_input(request.checkpoint)
        data = read_evaluation_set(request.data, request.max_images)
        origin = read_origin(request.checkpoint, data)
        for precision in request.precisions:
            content = to_onnx(encoder, preprocess, precision)
            (folder / model_name(precision)).write_bytes(content)
            _report(f"{model_name(precision)}: {len(content) / 1e6:.1f} MB")
        reports = run_gate(folder, request, encoder, preprocess, data)
        write_selftest(folder, encoder, preprocess, data)
        manifest = Manifest(
            encoder=encoder.name,
            dim=encoder.dim,
            max_batch=MAX_BATCH,
            preprocess=preprocess,
            files=digest_files(folder),
            parity={report.precision: report.to_manifest() for report in reports},
            origin=origin,
        )
        (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return manifest
