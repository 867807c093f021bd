"""A bundle -> the same bundle with an int8 model, calibrated and judged on images of its user, without a checkpoint."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from dphr_infer.engines.onnxruntime import OnnxRuntimeEngine
from dphr_infer.errors import ExportError
from dphr_infer.files.atomic import atomic_folder
from dphr_infer.files.bundle import MANIFEST_NAME, Manifest, digest_files, model_name, open_bundle
from dphr_train.datasets.reading import reader_of_bundle
from export.build_bundle import evaluation_facts, int8_calibration, write_int8_model
from export.gate.evaluation_set import read_evaluation_set
from export.gate.parity import Gate, compare, embed_evaluation_set, say
from export.int8.model import require_recipe
from export.request import ExportRequest

FIRST_PARITY = "fp32_parity_with_its_reference"


def add_int8(request: ExportRequest) -> Manifest:
    """Copy a bundle and give it an int8 model, calibrated and judged on images of the user's own.

    The reference is the bundle's fp32 model, and all figures of the new manifest are measured against it on the same
    images; how far fp32 was from its own reference moves to `origin`. int8 starts from the fp16 model. A signature is
    not copied, since it is of another manifest.

    Args:
        request: its source is the bundle, with an fp32 and an fp16 model and without an int8 one; its precisions and
            its opset are not read.

    Raises:
        BundleError: the bundle is damaged, or lacks one of the two models.
        ExportError, DatasetError, ImageError, StorageError: as `build_bundle`; nothing is left behind.
    """
    if not isinstance(request.source, Path):
        raise ExportError(f"An int8 model is added to a bundle, not to the network {request.source.name}.")
    bundle = request.source
    opened = open_bundle(bundle)
    paths = {precision: opened.model_path(precision) for precision in ("fp32", "fp16")}
    if model_name("int8") in opened.manifest.files:
        raise ExportError(f"{bundle} has an int8 model already. Name a bundle without one.")
    preprocess = opened.manifest.preprocess
    with atomic_folder(request.out) as folder:
        content = paths["fp16"].read_bytes()
        require_recipe(content, opened.manifest.encoder)
        reader = reader_of_bundle(opened.manifest)
        data = read_evaluation_set(request.data, request.max_images, request.dataset, reader)
        calibration = int8_calibration(request, preprocess, data)
        for name in opened.manifest.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((bundle / name).read_bytes())
        with OnnxRuntimeEngine(paths["fp32"], "onnxruntime CPU fp32") as engine:
            reference = embed_evaluation_set(data, preprocess, engine.embed, "fp32")
        gate = Gate(data, preprocess, reference)
        half = gate.judge("fp16", paths["fp16"])
        say(half)
        half.require()
        quantisation, report = write_int8_model(folder, request, content, opened.manifest.encoder, gate, calibration)
        reports = {"fp32": compare("fp32", reference, reference, data), "fp16": half, "int8": report}
        first = json.dumps(dataclasses.asdict(opened.manifest.parity["fp32"]))
        manifest = dataclasses.replace(
            opened.manifest,
            files=digest_files(folder),
            parity={precision: each.to_manifest() for precision, each in reports.items()},
            origin={
                **opened.manifest.origin,
                **evaluation_facts(data),
                "reference": f"{model_name('fp32')} of the bundle {opened.digest}",
                FIRST_PARITY: opened.manifest.origin.get(FIRST_PARITY, first),
            },
            quantisation=quantisation,
        )
        (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return manifest
