"""Weights that the authors of Sample4Geo published, or that their code trained -> a checkpoint of ours.

Their file is the state dict of a module with two members: `model`, a timm network without classifier, and
`logit_scale`, the logarithm of InfoNCE's inverse temperature. So its names begin with "model.", but for "logit_scale";
trained on several GPUs and saved without unwrapping, all of them begin with "module." as well. The network's own pooled
output, brought to unit length, is the embedding, and pixels are normalised by the mean and std that timm has for it
(Deuser, Habel, Oswald: Sample4Geo, ICCV 2023, and its published code).

Ours differs in one thing outside the network: their resize does not antialias.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from dphr_infer.errors import CheckpointError, StorageError
from dphr_infer.files.bundle import file_digest
from dphr_train.checkpoint import Checkpoint, write_checkpoint
from dphr_train.config import DataConfig, DatasetName, ModelConfig, TrainConfig
from dphr_train.config_data import DEFAULT_DATASET
from dphr_train.encoder import Encoder, import_timm, load_exactly, read_state_dict
from dphr_train.presets.sample4geo import SAMPLE4GEO
from export.sources.source import IMPORTED, make_encoder

LAYOUT = "sample4geo"
_WRAPPED, _NETWORK, _SCALE = "module.", "model.", "logit_scale"
_CANDIDATES = {
    "stem.0.weight": tuple(f"convnext_{size}" for size in ("atto", "nano", "tiny", "small", "base", "large")),
    "cls_token": tuple(f"vit_{size}_patch16_224" for size in ("tiny", "small", "base", "large")),
    "layer1.0.conv1.weight": ("resnet18", "resnet34", "resnet50", "resnet101"),
    "conv_stem.weight": ("tf_efficientnet_lite0", "mobilenetv3_large_100", "mobilenetv2_100"),
}
"""A tensor that a family has -> its networks that the method was published with, or is tried with in their place."""
_POSITIONS = "pos_embed"  # its length depends on the image's size


def import_sample4geo(
    weights: Path,
    encoder: str,
    image_px: int,
    out: Path,
    dataset: DatasetName = DEFAULT_DATASET,
    ground_px: tuple[int, int] | None = None,
) -> Path:
    """Convert weights in Sample4Geo's layout to a checkpoint that dphr-train evaluates and dphr-export exports.

    Args:
        weights: .pth, or .safetensors with the same names.
        encoder: timm name of the network, such as convnext_base.fb_in22k_ft_in1k_384.
        image_px: side of the square images that it was trained with.
        out: the checkpoint to write; it must not exist.
        dataset: the benchmark that it was trained on.
        ground_px: (height, width) of the panoramas that it was trained with; None takes the authors' for the
            benchmark: twice as wide as the satellite image, in the shape of CVUSA's panoramas for CVUSA and CVACT, half
            as high as wide for VIGOR, none for drone images.

    Returns:
        `out`.

    Raises:
        CheckpointError: the file is damaged, of another layout or architecture, holds Python objects besides tensors,
            or values that are not finite or beyond float32.
        ConfigError: timm has no such network, it does not take the sizes, or there is no such data set.
        StorageError: `out` exists already or cannot be written.
    """
    if out.exists():
        raise StorageError(f"{out} exists already. Remove it, or choose another file.")
    config = _config(encoder, image_px, dataset, ground_px)
    state = _read_state(weights)
    network = {name.removeprefix(_NETWORK): value for name, value in state.items() if name.startswith(_NETWORK)}
    scale = _logit_scale(weights, state)
    made = make_encoder(config.model, image_px, config.data.ground_px)
    _require_fitting(weights, network, made, image_px)
    load_exactly(made.backbone, network, str(weights))
    imported = {"layout": LAYOUT, "weights_sha256": file_digest(weights)}
    write_checkpoint(
        out,
        Checkpoint(
            config,
            step=0,
            epoch=0,
            offset=0,
            processes=1,
            encoder=made.state_dict(),
            objective={f"infonce.{_SCALE}": scale},
            metrics={IMPORTED: imported},
        ),
    )
    return out


def _config(encoder: str, image_px: int, dataset: DatasetName, ground_px: tuple[int, int] | None) -> TrainConfig:
    """The recipe of the paper for the benchmark, with this network and these sizes."""
    data = DataConfig(dataset=dataset, image_px=image_px, ground_px=ground_px)
    if ground_px is None:
        data = dataclasses.replace(data, ground_px=_authors_ground_px(dataset, image_px))
    trained_on = "cvact-val" if dataset == "cvact-test" else dataset
    recipe = next(recipe for recipe in SAMPLE4GEO.values() if recipe.data.dataset == trained_on)
    model = ModelConfig(name=encoder, weights="random", pooling="average")
    return dataclasses.replace(recipe, data=data, model=model, device="cpu")


def _authors_ground_px(dataset: DatasetName, image_px: int) -> tuple[int, int] | None:
    """(height, width) of the panoramas in the authors' scripts."""
    width_px = 2 * image_px
    if dataset.startswith("cv"):
        return round(224 / 1232 * width_px), width_px
    return (image_px, width_px) if dataset.startswith("vigor") else None


def _read_state(path: Path) -> dict[str, Tensor]:
    """Tensors by name, without the prefix of several GPUs."""
    state = read_state_dict(path)
    if all(name.startswith(_WRAPPED) for name in state):
        return {name.removeprefix(_WRAPPED): value for name, value in state.items()}
    return state


def _logit_scale(path: Path, state: dict[str, Tensor]) -> Tensor:
    """The learned scale, float32 (); refuses a file of another layout."""
    strange = [name for name in state if not name.startswith(_NETWORK) and name != _SCALE]
    if strange or _SCALE not in state or state[_SCALE].numel() != 1:
        first = repr(strange[0]) if strange else f"no single value {_SCALE!r}"
        raise CheckpointError(
            f"{path} is not in Sample4Geo's layout, where every name begins with {_NETWORK!r} but for {_SCALE!r}: it "
            f"has {first}. Weights of a timm network alone are read by --encoder with --weights."
        )
    scale = state[_SCALE].float().reshape(())
    if not torch.isfinite(scale):
        raise CheckpointError(f"The weights {path} hold NaN or infinity in {_SCALE}: the run that made them diverged.")
    return scale


def _require_fitting(path: Path, network: dict[str, Tensor], made: Encoder, image_px: int) -> None:
    """Refuse weights of another network; says what differs first, and which network they would fit."""
    own = made.backbone.state_dict()
    missing = [name for name in own if name not in network]
    extra = [name for name in network if name not in own]
    differ = [name for name in own if name in network and own[name].shape != network[name].shape]
    if not missing and not extra and not differ:
        return
    if differ == [_POSITIONS] and not missing and not extra:
        raise CheckpointError(
            f"{path} has {network[_POSITIONS].shape[1]} positions, {made.name} at {image_px} px has "
            f"{own[_POSITIONS].shape[1]}: give the image size that it was trained with."
        )
    clauses = []
    if missing:
        clauses.append(f"lacks {len(missing)} of its tensors (the first: {_NETWORK}{missing[0]})")
    if extra:
        clauses.append(f"has {len(extra)} that it does not know (the first: {_NETWORK}{extra[0]})")
    if differ:
        found, wanted = tuple(network[differ[0]].shape), tuple(own[differ[0]].shape)
        clauses.append(f"has {len(differ)} of another shape (the first: {_NETWORK}{differ[0]}, {found} for {wanted})")
    tried = [name for mark, names in _CANDIDATES.items() if mark in network for name in names]
    fitting = [name for name in tried if _fits(name, network)]
    mend = f"They fit {' or '.join(fitting)}" if fitting else "Give the timm name that they were trained with"
    raise CheckpointError(f"{path} is of another architecture than {made.name}: it {', '.join(clauses)}. {mend}.")


def _fits(name: str, network: dict[str, Tensor]) -> bool:
    """Whether a timm network has exactly these tensors; made without memory for its weights."""
    with torch.device("meta"):
        own = import_timm().create_model(name, pretrained=False, num_classes=0).state_dict()
    return own.keys() == network.keys() and all(
        own[key].shape == network[key].shape for key in own if key != _POSITIONS
    )
