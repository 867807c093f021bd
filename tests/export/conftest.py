"""A small trained-looking checkpoint and a small data set in University-1652's layout."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import export.build_bundle
from dphr_infer.images.preprocess import Preprocess
from dphr_infer.types import Precision
from dphr_train.checkpoint import Checkpoint, write_checkpoint
from dphr_train.config import DataConfig, ModelConfig, TrainConfig
from dphr_train.encoder import Encoder
from export.graph.to_onnx import to_onnx
from export.request import OPSET

IMAGE_PX = 32
PLACES = 6
DRONE_IMAGES = 3
MODEL = ModelConfig(name="test_efficientnet", weights="random", pooling="gem", projection_dim=24)


def make_encoder(seed: int = 0) -> Encoder:
    """A tiny encoder whose batch norms have seen data, as after training."""
    torch.manual_seed(seed)
    encoder = Encoder(MODEL, IMAGE_PX).train()
    with torch.no_grad():
        for _ in range(10):
            encoder(torch.randn(8, 3, IMAGE_PX, IMAGE_PX))
    return encoder.eval()


def write_places(root: Path, places: int, drone_images: int = DRONE_IMAGES, distractors: int = 0) -> Path:
    """A test split: each place has its own colours; drone images are its satellite image with noise."""
    rng = np.random.default_rng(5)
    for place in range(places + distractors):
        base = np.kron(rng.integers(0, 256, (5, 5, 3)), np.ones((8, 8, 1)))
        views = [("gallery_satellite", 1)]
        if place < places:
            views.append(("query_drone", drone_images))
        for view, count in views:
            folder = root / "test" / view / f"{place:04d}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(base + rng.normal(0, 6, base.shape), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return root


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    return make_encoder()


@pytest.fixture(scope="session")
def preprocess() -> Preprocess:
    return Preprocess(IMAGE_PX, IMAGE_PX)


@pytest.fixture(scope="session")
def checkpoint(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "last.safetensors"
    config = TrainConfig(
        out=Path("/home/somebody/run"), seed=11, data=DataConfig(root=Path("/home/x"), image_px=IMAGE_PX), model=MODEL
    )
    write_checkpoint(path, Checkpoint(config, 40, 1, 2, 1, encoder.state_dict()))
    return path


@pytest.fixture(scope="session")
def make_places() -> Callable[..., Path]:
    return write_places


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_places(tmp_path_factory.mktemp("data"), PLACES, distractors=2)


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """uint8 (16, 32, 32, 3), smooth."""
    rng = np.random.default_rng(1)
    return np.stack([np.kron(rng.integers(0, 256, (4, 4, 3)), np.ones((8, 8, 1))).astype(np.uint8) for _ in range(16)])


@pytest.fixture(scope="session", autouse=True)
def export_once(once: Callable[[str, Callable[[], bytes]], bytes]) -> Iterator[Callable[..., bytes]]:
    """`to_onnx` that traces the same weights once: 5 s each. `build_bundle` takes it here too; see `fresh_exports`."""

    def to_onnx_once(encoder: Encoder, preprocess: Preprocess, precision: Precision, opset: int = OPSET) -> bytes:
        weights = b"".join(value.numpy().tobytes() for value in encoder.state_dict().values())
        digest = hashlib.sha256(weights).hexdigest()
        settings = (type(encoder), repr(encoder), encoder.mean, encoder.std, encoder.training)
        key = repr((*settings, digest, preprocess, precision, opset))
        return once(key, lambda: to_onnx(encoder, preprocess, precision, opset))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export.build_bundle, "to_onnx", to_onnx_once)
        yield to_onnx_once


@pytest.fixture(scope="session", autouse=True)
def operators_once() -> Iterator[None]:
    """torch reads onnxscript's source of every operator again for each export, a second each time; here once."""
    with pytest.MonkeyPatch.context() as patch:
        with contextlib.suppress(ImportError):  # torch's own, and not in every release
            from torch.onnx._internal.exporter._registration import ONNXRegistry

            patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.fixture
def fresh_exports(monkeypatch: pytest.MonkeyPatch) -> None:
    """`build_bundle` traces again, as it does outside tests."""
    monkeypatch.setattr(export.build_bundle, "to_onnx", to_onnx)


FAMILIES = {
    "convnext": "test_convnext",
    "efficientnet": "test_efficientnet",
    "resnet": "test_resnet",
    "vit": "test_vit",
}


@pytest.fixture(scope="session")
def family_export(export_once: Callable[..., bytes]) -> Callable[[str, Precision], bytes]:
    """(family, precision) -> export of the smallest network, with the statistics of noise in the batch norms."""
    encoders: dict[str, Encoder] = {}

    def make(family: str, precision: Precision) -> bytes:
        if family not in encoders:
            torch.manual_seed(0)
            config = ModelConfig(name=FAMILIES[family], weights="random", pooling="average")
            encoders[family] = Encoder(config, IMAGE_PX).train()
            with torch.no_grad():
                for _ in range(4):
                    encoders[family](torch.randn(8, 3, IMAGE_PX, IMAGE_PX))
        return export_once(encoders[family].eval(), Preprocess(IMAGE_PX, IMAGE_PX), precision)

    return make


@pytest.fixture(scope="session")
def exports(family_export: Callable[[str, Precision], bytes]) -> dict[str, bytes]:
    """{family: fp16 export}."""
    return {family: family_export(family, "fp16") for family in FAMILIES}


@pytest.fixture(scope="session")
def calibration() -> np.ndarray:
    """uint8 (16, 32, 32, 3), smooth."""
    rng = np.random.default_rng(3)
    return np.stack([np.kron(rng.integers(0, 256, (4, 4, 3)), np.ones((8, 8, 1))).astype(np.uint8) for _ in range(16)])
