"""A bundle -> the same bundle with an int8 model, calibrated and judged on images of its user, without a checkpoint."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from dphr_infer.atomic import atomic_folder
from dphr_infer.bundle import MANIFEST_NAME, Manifest, digest_files, model_name, open_bundle
from dphr_infer.engines.onnxrt import OnnxRuntimeEngine
from dphr_infer.errors import ExportError
from export.build_bundle import ExportRequest, evaluation_facts, write_int8_model
from export.evaluation_set import read_evaluation_set, require_enough
from export.parity import Gate, embed_evaluation_set


def add_int8(request: ExportRequest) -> Manifest:
    """Copy a bundle and give it an int8 model, calibrated and judged on images of the user's own.

    The reference is the bundle's fp32 model, whose own agreement with torch its manifest states; its fp16 model is what
    int8 starts from. A signature is not copied, since it is of another manifest.

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
    reference, half = opened.model_path("fp32"), opened.model_path("fp16").read_bytes()
    if model_name("int8") in opened.manifest.files:
        raise ExportError(f"{bundle} has an int8 model already. Name a bundle without one.")
    preprocess = opened.manifest.preprocess
    with atomic_folder(request.out) as folder:
        data = read_evaluation_set(request.data, request.max_images, request.dataset)
        require_enough(data, ["int8"])
        for name in opened.manifest.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((bundle / name).read_bytes())
        with OnnxRuntimeEngine(reference, "onnxruntime CPU fp32") as engine:
            gate = Gate(data, preprocess, embed_evaluation_set(data, preprocess, engine.embed, "fp32"))
        quantisation, report = write_int8_model(folder, request, half, opened.manifest.encoder, gate)
        facts = {f"int8_{key}": value for key, value in evaluation_facts(data).items()}
        manifest = dataclasses.replace(
            opened.manifest,
            files=digest_files(folder),
            parity={**opened.manifest.parity, "int8": report.to_manifest()},
            origin={**opened.manifest.origin, **facts, "int8_bundle_digest": opened.digest},
            quantisation=quantisation,
        )
        (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return manifest
