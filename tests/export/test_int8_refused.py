"""What int8 cannot be made of: said before the time of an export and its gates is spent, or left out aloud."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import export.build_bundle as building
from dphr_infer.errors import DphrError, EngineError, ExportError, ImageError
from dphr_infer.files.bundle import open_bundle
from export.build_bundle import build_bundle
from export.int8.model import make_int8, require_recipe
from export.request import ExportRequest, Int8Options, TimmSource

OPTIONS = Int8Options(n_calibration_images=16)


@pytest.fixture(scope="module")
def data(make_places: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 queries of 40 places, and 16 training images of 8 others."""
    root = make_places(tmp_path_factory.mktemp("large"), 40, 5)
    rng = np.random.default_rng(9)
    for place in range(1000, 1008):
        for view in ("satellite", "drone"):
            folder = root / "train" / view / f"{place:04d}"
            folder.mkdir(parents=True)
            Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(folder / "0.png")
    return root


@pytest.fixture
def no_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever embeds an image before a refusal has come too late."""

    def too_late(*_: object) -> None:
        raise AssertionError("the gate ran first")

    monkeypatch.setattr(building, "embed_evaluation_set", too_late)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"int8": Int8Options(n_calibration_images=100)}, "100 calibration images were asked for, but the training"),
        ({"max_images": 100}, "has 60 queries; int8 needs at least 200"),
    ],
)
def test_images_that_do_not_suffice_are_refused_before_the_gate(
    no_gate: None, checkpoint: Path, data: Path, tmp_path: Path, change: dict, message: str
) -> None:
    request = ExportRequest(checkpoint, data, tmp_path / "bundle", ("fp32", "fp16", "int8"), int8=OPTIONS)
    with pytest.raises(ExportError, match=message):
        build_bundle(dataclasses.replace(request, **change))
    assert list(tmp_path.iterdir()) == []


def test_a_data_set_without_training_images_and_a_network_without_recipe_are_refused_before_the_gate(
    no_gate: None, make_places: Callable[..., Path], data: Path, tmp_path: Path
) -> None:
    bare = make_places(tmp_path / "bare", 40, 5)
    source = TimmSource("test_nfnet", 32, "random")
    for root, words in ((bare, "has no training split"), (data, "test_nfnet is of no family with an int8 recipe")):
        with pytest.raises(ExportError, match=words):
            build_bundle(ExportRequest(source, root, tmp_path / "out", ("fp32", "int8"), int8=OPTIONS))
    assert [path.name for path in tmp_path.iterdir()] == ["bare"]


@pytest.mark.parametrize("kind", [EngineError, ImageError])
def test_an_optional_int8_is_left_out_whatever_stops_it(
    kind: type[DphrError],
    checkpoint: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if kind is EngineError:

        def fails(*_: object) -> None:
            raise EngineError("ONNX Runtime has no memory left.")

        monkeypatch.setattr(building, "make_int8", fails)
    damaged = data / "train/drone/1003/0.png"
    whole = damaged.read_bytes()
    if kind is ImageError:
        damaged.write_bytes(whole[:60])
    try:
        request = ExportRequest(checkpoint, data, tmp_path / "bundle", ("fp32", "int8"), int8=OPTIONS)
        with pytest.raises(kind):
            build_bundle(request)
        assert list(tmp_path.iterdir()) == []
        manifest = build_bundle(dataclasses.replace(request, optional=("int8",)))
    finally:
        damaged.write_bytes(whole)
    assert set(manifest.parity) == {"fp32"}
    assert "model.int8.onnx" not in open_bundle(request.out).manifest.files
    assert capsys.readouterr().err.count("int8 is left out of the bundle: ") == 1


def test_too_few_calibration_images_are_refused_as_they_are_asked_for() -> None:
    with pytest.raises(ExportError, match="15 calibration images were asked for; at least 16 are needed"):
        Int8Options(n_calibration_images=15)


@pytest.mark.parametrize(
    ("content", "reason"), [(b"<html>", "it is no ONNX file"), (b"", "it holds no graph"), (b"\x08\x07", "no graph")]
)
def test_bytes_that_are_no_model_are_said_to_be_unreadable(content: bytes, reason: str) -> None:
    for act in (
        lambda: require_recipe(content, "net"),
        lambda: make_int8(content, "net", None, "int8", lambda _: True),  # type: ignore[arg-type]
    ):
        with pytest.raises(ExportError, match=rf"fp16 model of {len(content)} bytes cannot be read: .*{reason}"):
            act()


def test_an_optional_precision_that_is_not_asked_for_is_refused(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="int8 is optional, but the precisions are fp32 fp16"):
        ExportRequest(checkpoint, data, tmp_path / "bundle", optional=("int8",))
