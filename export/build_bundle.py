"""A source and evaluation images -> bundle folder, which appears only when every model has passed the gate."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save as to_safetensors

from dphr_infer.errors import DatasetError, EngineError, ExportError, ImageError
from dphr_infer.files.atomic import atomic_folder
from dphr_infer.files.bundle import (
    MANIFEST_NAME,
    SELFTEST_EMBEDDINGS,
    SELFTEST_IMAGES,
    Manifest,
    Precision,
    Quantisation,
    digest_files,
    model_name,
)
from dphr_infer.images.preprocess import Preprocess
from dphr_train.encoder import Encoder
from dphr_train.types import PlaceImage
from export.gate.calibration_set import CalibrationSet, calibration_images
from export.gate.evaluation_set import EvaluationSet, read_evaluation_set, require_enough
from export.gate.parity import MAX_BATCH, Gate, ParityReport, embed_evaluation_set, one_thread, say, torch_embedder
from export.graph.opset import require_opset
from export.graph.to_onnx import to_onnx
from export.int8.model import make_int8, require_recipe
from export.int8.sensitivity import write_table
from export.request import ExportRequest, TimmSource
from export.sources.source import ExportSource, from_checkpoint, from_timm

SELFTEST_COUNT = 12
INT8_FOLDER = "int8"


def report_line(text: str) -> None:
    """One line on stderr."""
    print(text, file=sys.stderr, flush=True)


def read_source(source: Path | TimmSource) -> ExportSource:
    """The encoder to export; errors as `from_checkpoint` and `from_timm`."""
    if isinstance(source, TimmSource):
        return from_timm(source.name, source.image_px, source.weights, source.pooling)
    return from_checkpoint(source)


def evaluation_facts(data: EvaluationSet) -> dict[str, str]:
    """What the gate ran on, for the manifest."""
    return {
        "evaluation_gallery": str(len(data.gallery)),
        "evaluation_queries": str(len(data.queries)),
        "evaluation_sha256": data.digest(),
    }


def choose_selftest(data: EvaluationSet) -> list[tuple[str, PlaceImage]]:
    """(file name, image) of the self-test: the first queries, each of another place, and their gallery images."""
    half = SELFTEST_COUNT // 2
    queries = list({image.place_id: image for image in reversed(data.queries)}.values())[::-1][:half]
    places = {image.place_id for image in queries}
    gallery = [image for image in data.gallery if image.place_id in places][: SELFTEST_COUNT - len(queries)]
    chosen = [(data.query_view, image) for image in queries] + [(data.gallery_view, image) for image in gallery]
    return [(f"{row:02d}_{view}_{image.place_id:04d}.png", image) for row, (view, image) in enumerate(chosen)]


def write_selftest(folder: Path, encoder: Encoder, preprocess: Preprocess, data: EvaluationSet) -> None:
    """Write the self-test's images at model size, and torch's embeddings of them."""
    chosen = choose_selftest(data)
    row_of = {image: row for row, image in enumerate(data.images())}
    pixels = np.stack([preprocess(data.read(row_of[image])) for _, image in chosen])
    (folder / SELFTEST_IMAGES).mkdir(parents=True)
    for (name, _), picture in zip(chosen, pixels, strict=True):
        content = io.BytesIO()
        Image.fromarray(picture).save(content, format="PNG", optimize=True)
        (folder / SELFTEST_IMAGES / name).write_bytes(content.getvalue())
    with one_thread():
        embeddings = torch_embedder(encoder)(pixels)
    (folder / SELFTEST_EMBEDDINGS).write_bytes(to_safetensors({"embeddings": embeddings}))


def write_float_models(
    folder: Path, request: ExportRequest, source: ExportSource, gate: Gate, half: bytes | None = None
) -> dict[Precision, ParityReport]:
    """Write model.fp32.onnx and model.fp16.onnx as far as they are asked for, and pass the gate.

    Args:
        half: the bytes of model.fp16.onnx, where they were made already.

    Returns:
        A report for each model that stays in `folder`; optional ones that failed are removed.

    Raises:
        ExportError: a model that is not optional does not agree with torch.
    """
    kept: dict[Precision, ParityReport] = {}
    for precision in (p for p in request.precisions if p != "int8"):
        path = folder / model_name(precision)
        if precision == "fp16" and half is not None:
            path.write_bytes(half)
        else:
            path.write_bytes(to_onnx(source.encoder, source.preprocess, precision, request.opset))
        report_line(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")
        report = gate.judge(precision, path)
        say(report)
        if not report.passed and precision in request.optional:
            path.unlink()
            report_line(f"{precision} is left out of the bundle: {'; '.join(report.failures())}")
            continue
        report.require()
        kept[precision] = report
    return kept


def int8_calibration(request: ExportRequest, preprocess: Preprocess, data: EvaluationSet) -> CalibrationSet:
    """The images that int8 is calibrated on, once it is known that it can be judged; before anything is exported.

    Raises:
        ExportError: too few queries, no training split, or too few images in it.
        DatasetError, ImageError: an image cannot be read.
    """
    require_enough(data, ["int8"])
    return calibration_images(request.data, preprocess, request.int8.n_calibration_images, data, request.dataset)


@contextmanager
def _left_out_if_optional(request: ExportRequest) -> Iterator[None]:
    """Where the bundle may do without int8, what cannot be made is said and left out."""
    try:
        yield
    except (ExportError, DatasetError, ImageError, EngineError) as error:
        if "int8" not in request.optional:
            raise
        report_line(f"int8 is left out of the bundle: {error}")


def write_int8_model(
    folder: Path,
    request: ExportRequest,
    half: bytes,
    encoder: str,
    gate: Gate,
    calibration: CalibrationSet,
) -> tuple[Quantisation, ParityReport]:
    """Write model.int8.onnx and what its layers cost.

    Args:
        calibration: of `int8_calibration`.

    Raises:
        ExportError: it cannot be made, or passes the gate with no choice of layers.
        EngineError: ONNX Runtime cannot run it.
    """
    reports: dict[bytes, ParityReport] = {}

    def passes(model: bytes) -> bool:
        reports[model] = gate.judge_bytes("int8", model)
        say(reports[model])
        return reports[model].passed

    made = make_int8(half, encoder, calibration, request.int8.weights, passes)
    path = folder / model_name("int8")
    path.write_bytes(made.content)
    report_line(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")
    write_table(made.sensitivity, folder / INT8_FOLDER)
    return made.quantisation, reports[made.content]


def build_bundle(request: ExportRequest) -> Manifest:
    """Export a model as a bundle.

    Returns:
        The manifest as written.

    Raises:
        CheckpointError, ConfigError: the source cannot be used.
        DatasetError, ImageError: the images cannot be read.
        ExportError: a model cannot be exported, or does not agree with torch; nothing is left behind.
        EngineError: ONNX Runtime cannot run a model that is quantised.
        StorageError: `out` exists already or cannot be written; nothing is left behind.
    """
    require_opset(request.opset)
    with atomic_folder(request.out) as folder:
        source = read_source(request.source)
        encoder, preprocess = source.encoder, source.preprocess
        data = read_evaluation_set(request.data, request.max_images, request.dataset, source.reader)
        require_enough(data, [p for p in request.precisions if p not in request.optional])
        half = ready = quantisation = None
        if "int8" in request.precisions:
            with _left_out_if_optional(request):
                calibration = int8_calibration(request, preprocess, data)
                half = to_onnx(encoder, preprocess, "fp16", request.opset)
                require_recipe(half, encoder.name)
                ready = half, calibration
        reference = embed_evaluation_set(data, preprocess, torch_embedder(encoder), "torch")
        gate = Gate(data, preprocess, reference)
        reports = write_float_models(folder, request, source, gate, half)
        if ready is not None:
            with _left_out_if_optional(request):
                quantisation, reports["int8"] = write_int8_model(
                    folder, request, ready[0], encoder.name, gate, ready[1]
                )
        if not reports:
            raise ExportError(f"No model passed the gate of {', '.join(request.precisions)}. No bundle was written.")
        write_selftest(folder, encoder, preprocess, data)
        manifest = Manifest(
            encoder=encoder.name,
            dim=encoder.dim,
            max_batch=MAX_BATCH,
            preprocess=preprocess,
            files=digest_files(folder),
            parity={precision: report.to_manifest() for precision, report in reports.items()},
            origin={**source.origin, **evaluation_facts(data)},
            quantisation=quantisation,
        )
        (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return manifest
