"""Rank a test split with what lies on a disk: a checkpoint, a run's folder, a bundle, or the ImageNet network."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from dphr_infer.engines.embedder import Embedder
from dphr_infer.errors import ConfigError, DatasetError
from dphr_infer.files.bundle import MANIFEST_NAME, open_bundle
from dphr_infer.locate.devices import open_engine
from dphr_infer.locate.settings import DeviceSettings
from dphr_train.checkpoint import last_checkpoint, load_encoder, read_checkpoint
from dphr_train.config import DataConfig, DatasetName, ModelConfig, Rectification
from dphr_train.config_data import DEFAULT_DATASET
from dphr_train.datasets.open import open_dataset
from dphr_train.datasets.reading import ViewReader, drone_photos, reader_of, reader_of_bundle
from dphr_train.device import require_device
from dphr_train.encoder import Encoder, load_pretrained
from dphr_train.evaluate import RankedDirection, bundle_embedder, evaluate, network_embedder
from dphr_train.types import Direction


def rank_model(
    model: Path | Literal["imagenet"],
    data: Path,
    dataset: DatasetName | None,
    flip: bool = False,
    device: str = "cpu",
    rectification: Rectification | None = None,
) -> list[RankedDirection]:
    """Embed and rank in each direction of a test split.

    Args:
        model: "imagenet" is the ImageNet network without any training on places, at 128 px.
        data: the benchmark's folder.
        dataset: the benchmark; None takes the one that a checkpoint was trained on, or university1652.
        flip: see `evaluate.embed_files`.
        device: "cpu", "cuda" or "cuda:NUMBER"; a bundle takes the first GPU.
        rectification: of drone photos; None takes `Rectification()`.

    Raises:
        ConfigError: the device is not there, or photos are to be rectified to tiles of no size.
        DatasetError: the folder has no test split, it cannot be read, or photos that are to be rectified cannot be.
        CheckpointError, BundleError, EngineError: the model cannot be read or run.
    """
    wanted = rectification or Rectification()
    if model != "imagenet" and (model / MANIFEST_NAME).is_file():
        bundle = open_bundle(model)
        directions = _directions(dataset or DEFAULT_DATASET, data)
        reader = _reader(wanted, reader_of_bundle(bundle.manifest))
        reader.require_attitudes(drone_photos(directions))
        with open_engine(bundle, DeviceSettings(_device_of_bundle(device, model))) as engine:
            return evaluate(bundle_embedder(Embedder(bundle.manifest.preprocess, engine), reader, flip), directions)
    require_device(device)
    if model == "imagenet":
        settings, preparation = ModelConfig(pooling="average"), DataConfig(image_px=128)
        encoder = Encoder(settings, preparation.image_px)
        load_pretrained(encoder, settings.weights)
    else:
        path = last_checkpoint(model)
        encoder, preparation = load_encoder(path)[0], read_checkpoint(path).config.data
    directions = _directions(dataset or preparation.dataset, data)
    reader = _reader(wanted, reader_of(preparation))
    reader.require_attitudes(drone_photos(directions))
    return evaluate(network_embedder(encoder.to(device), preparation, device, flip, reader), directions)


def _reader(wanted: Rectification, trained: ViewReader) -> ViewReader:
    """What is wanted, before what the model was trained with."""
    chosen = {name: value for name, value in dataclasses.asdict(wanted).items() if value is not None}
    return dataclasses.replace(trained, **chosen)


def _device_of_bundle(device: str, model: Path) -> str:
    """An engine runs on the first GPU that it sees, which has other names here."""
    name, _, number = device.partition(":")
    if name != "cuda":
        return device
    if number and (not number.isdecimal() or int(number)):
        raise ConfigError(
            f"The device is {device}, but {model} is a bundle, whose engine takes the first GPU: give cuda, and choose "
            "the GPU by CUDA_VISIBLE_DEVICES."
        )
    return "cuda"


def _directions(name: DatasetName, data: Path) -> list[Direction]:
    directions = open_dataset(name, data).test_directions()
    if not directions:
        raise DatasetError(f"{data} has no test split of {name}: give --data a folder that has one.")
    return directions
