from __future__ import annotations

import copy
import dataclasses
import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import export.build_bundle as building
from dphr_infer.errors import CheckpointError, DphrError, ExportError, StorageError
from dphr_infer.files.bundle import open_bundle
from dphr_infer.images.preprocess import Preprocess
from dphr_infer.locate.devices import open_engine
from dphr_infer.locate.settings import DeviceSettings
from dphr_train.checkpoint import read_checkpoint, write_checkpoint
from dphr_train.encoder import Encoder
from export.build_bundle import build_bundle
from export.cli import main
from export.request import ExportRequest


@pytest.fixture(scope="module")
def bundle_folder(checkpoint: Path, places: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "bundle"
    build_bundle(ExportRequest(checkpoint, places, out))
    return out


def refuse(request: ExportRequest, kind: type[DphrError], match: str) -> None:
    """The request must fail and leave nothing in the folder around its output."""
    before = sorted(path.name for path in request.out.parent.iterdir())
    with pytest.raises(kind, match=match):
        build_bundle(request)
    assert sorted(path.name for path in request.out.parent.iterdir()) == before


def test_a_bundle_opens_and_both_models_answer_the_self_test_as_torch_did(bundle_folder: Path) -> None:
    bundle = open_bundle(bundle_folder)
    images, expected = bundle.read_selftest()
    assert images.shape == (12, 32, 32, 3)
    for precision, limit in (("fp32", 0.99999), ("fp16", 0.9999)):
        with open_engine(bundle, DeviceSettings(precision=precision)) as engine:
            assert np.einsum("nd,nd->n", engine.embed(images), expected).min() > limit


def test_the_manifest_says_what_the_gate_measured_and_where_the_model_comes_from(
    bundle_folder: Path, checkpoint: Path
) -> None:
    manifest = open_bundle(bundle_folder).manifest
    assert (manifest.dim, manifest.max_batch, manifest.encoder) == (24, 16, "test_efficientnet")
    assert manifest.parity["fp32"].n_images == 26
    assert manifest.parity["fp32"].min_cosine > 0.99999
    assert manifest.origin["training_steps"] == "40"
    assert manifest.origin["training_seed"] == "11"
    assert json.loads(manifest.origin["training_config"])["model"]["name"] == "test_efficientnet"
    assert len(manifest.origin["checkpoint_sha256"]) == 64
    assert manifest.origin["version_torch"].startswith("2.")


def test_the_bundle_names_no_path_of_the_machine_that_made_it(bundle_folder: Path) -> None:
    text = (bundle_folder / "manifest.json").read_text()
    assert "/home" not in text
    assert "/tmp" not in text


def test_the_self_test_shows_each_place_from_both_views(bundle_folder: Path) -> None:
    names = sorted(path.name for path in (bundle_folder / "selftest/images").iterdir())
    assert names[0] == "00_drone_0000.png"
    assert names[6] == "06_satellite_0000.png"


def test_a_model_with_another_mean_fails_the_gate_and_leaves_nothing(
    checkpoint: Path,
    places: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    export_once: Callable[..., bytes],
) -> None:
    def wrong_mean(encoder: Encoder, preprocess: Preprocess, precision: str, opset: int) -> bytes:
        planted = copy.deepcopy(encoder)
        planted.mean = (0.4, 0.5, 0.5)
        return export_once(planted, preprocess, precision, opset)

    monkeypatch.setattr(building, "to_onnx", wrong_mean)
    request = ExportRequest(checkpoint, places, tmp_path / "bundle", ("fp32",))
    refuse(request, ExportError, r"fp32 model does not agree with torch on 26 images: the smallest cosine .*test/")


def test_an_optional_precision_that_fails_is_left_out_and_said_to_be(
    checkpoint: Path,
    places: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    export_once: Callable[..., bytes],
) -> None:
    def wrong_half(encoder: Encoder, preprocess: Preprocess, precision: str, opset: int) -> bytes:
        planted = copy.deepcopy(encoder)
        planted.mean = (0.4, 0.5, 0.5) if precision == "fp16" else encoder.mean
        return export_once(planted, preprocess, precision, opset)

    monkeypatch.setattr(building, "to_onnx", wrong_half)
    out = tmp_path / "bundle"
    refuse(ExportRequest(checkpoint, places, out), ExportError, "fp16 model does not agree")
    refuse(
        ExportRequest(checkpoint, places, out, ("fp16",), ("fp16",)), ExportError, "No model passed the gate of fp16"
    )
    manifest = build_bundle(ExportRequest(checkpoint, places, out, optional=("fp16",)))
    assert "fp16 is left out of the bundle: the smallest cosine" in capsys.readouterr().err
    assert set(manifest.parity) == {"fp32"}
    assert "model.fp16.onnx" not in open_bundle(out).manifest.files
    assert not (out / "model.fp16.onnx").exists()


def test_weights_beyond_the_range_of_a_half_fail_the_gate_by_name(
    encoder: Encoder, checkpoint: Path, places: Path, tmp_path: Path
) -> None:
    state = {name: value.clone() for name, value in encoder.state_dict().items()}
    second = [name for name, value in state.items() if value.ndim == 4][1]  # the first convolution stays in float32
    state[second] *= 1e6
    trained = read_checkpoint(checkpoint)
    write_checkpoint(tmp_path / "big.safetensors", dataclasses.replace(trained, encoder=state))
    request = ExportRequest(tmp_path / "big.safetensors", places, tmp_path / "bundle", ("fp16",))
    refuse(request, ExportError, "The fp16 model")


def test_a_graph_that_the_engine_refuses_is_an_export_error(
    checkpoint: Path, places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "to_onnx", lambda *_: b"no graph")
    request = ExportRequest(checkpoint, places, tmp_path / "bundle", ("fp32",))
    refuse(request, ExportError, "The fp32 model fails in the engine that flies")


def test_nan_weights_are_refused(encoder: Encoder, checkpoint: Path, places: Path, tmp_path: Path) -> None:
    state = {name: value.clone() for name, value in encoder.state_dict().items()}
    state["head.1.weight"][0, 0] = float("nan")
    trained = read_checkpoint(checkpoint)
    write_checkpoint(tmp_path / "nan.safetensors", dataclasses.replace(trained, encoder=state))
    refuse(ExportRequest(tmp_path / "nan.safetensors", places, tmp_path / "bundle"), CheckpointError, "NaN")


def test_an_encoder_of_panoramas_in_another_size_is_refused(checkpoint: Path, places: Path, tmp_path: Path) -> None:
    trained = read_checkpoint(checkpoint)
    data = dataclasses.replace(trained.config.data, dataset="cvusa", ground_px=(32, 96))
    config = dataclasses.replace(trained.config, data=data)
    path = tmp_path / "ground.safetensors"
    write_checkpoint(path, dataclasses.replace(trained, config=config))
    refuse(ExportRequest(path, places, tmp_path / "out"), ExportError, "panoramas of 96x32 px beside .* of 32x32 px")


def test_a_truncated_checkpoint_is_refused(checkpoint: Path, places: Path, tmp_path: Path) -> None:
    content = checkpoint.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[: len(content) // 2])
    refuse(ExportRequest(tmp_path / "cut.safetensors", places, tmp_path / "bundle"), CheckpointError, "cut short")


def test_an_output_that_exists_is_never_overwritten(checkpoint: Path, places: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "mine.txt").write_text("keep")
    refuse(ExportRequest(checkpoint, places, tmp_path / "bundle"), StorageError, "exists already")
    assert (tmp_path / "bundle" / "mine.txt").read_text() == "keep"


@contextmanager
def file_size_limit(limit_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_the_system_refuses_leaves_nothing(checkpoint: Path, places: Path, tmp_path: Path) -> None:
    with file_size_limit(10_000):
        refuse(ExportRequest(checkpoint, places, tmp_path / "bundle"), StorageError, "could not be written")


def test_a_precision_named_twice_is_refused(checkpoint: Path, places: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="at most once"):
        ExportRequest(checkpoint, places, tmp_path / "bundle", ("fp32", "fp32"))


def test_the_command_prints_one_line_and_exits_2(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bundle", str(checkpoint), "--data", str(tmp_path / "none"), "--out", str(tmp_path / "bundle")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "is not a folder" in error


def test_the_command_refuses_to_export_without_real_images(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bundle", str(checkpoint), "--out", str(tmp_path / "bundle")]) == 2
    assert "The parity gate compares the exported models with torch on real" in capsys.readouterr().err
