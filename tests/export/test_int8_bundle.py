"""int8 from the command line's side: a bundle with three models, an int8 model added later, and what is refused."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dphr_infer.errors import BundleError, DphrError, ExportError
from dphr_infer.files.bundle import Bundle, open_bundle
from dphr_infer.locate.devices import open_engine
from dphr_infer.locate.settings import DeviceSettings
from export.add_int8 import add_int8
from export.build_bundle import build_bundle
from export.cli import main
from export.request import ExportRequest, Int8Options

PLACES, PHOTOS = 40, 5
OPTIONS = Int8Options(n_calibration_images=32)


def write_training_images(root: Path, places: int) -> None:
    rng = np.random.default_rng(9)
    for place in range(1000, 1000 + places):
        base = np.kron(rng.integers(0, 256, (5, 5, 3)), np.ones((8, 8, 1)))
        for view in ("satellite", "drone"):
            folder = root / "train" / view / f"{place:04d}"
            folder.mkdir(parents=True)
            pixels = np.clip(base + rng.normal(0, 6, base.shape), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "0.png")


@pytest.fixture(scope="module")
def data(make_places: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 queries of 40 places, and training images of 20 others."""
    root = make_places(tmp_path_factory.mktemp("large"), PLACES, PHOTOS)
    write_training_images(root, 20)
    return root


@pytest.fixture(scope="module")
def plain(checkpoint: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plain") / "bundle"
    build_bundle(ExportRequest(checkpoint, data, out))
    return out


@pytest.fixture(scope="module")
def whole(checkpoint: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("whole") / "bundle"
    build_bundle(ExportRequest(checkpoint, data, out, ("fp32", "fp16", "int8"), int8=OPTIONS))
    return open_bundle(out)


def test_the_int8_model_answers_the_self_test_and_its_manifest_says_how_it_was_made(whole: Bundle) -> None:
    images, expected = whole.read_selftest()
    with open_engine(whole, DeviceSettings(precision="int8")) as engine:
        assert np.einsum("nd,nd->n", engine.embed(images), expected).min() > 0.95
    made, parity = whole.manifest.quantisation, whole.manifest.parity["int8"]
    assert made is not None
    assert (made.recipe, made.weights, made.n_calibration_images) == ("efficientnet", "int8", 32)
    assert 0.99 <= parity.mean_cosine < 1 and parity.n_images == PLACES * PHOTOS + PLACES
    assert max(parity.recall_drop, parity.ap_drop) <= 0.005
    layers = {row["layer"] for row in json.loads((whole.folder / "int8/sensitivity.json").read_text())}
    assert set(made.float_layers) <= layers
    assert "int8/sensitivity.json" in whole.manifest.files


def test_int8_added_later_keeps_every_other_byte_and_names_the_bundle_it_came_from(
    plain: Path, data: Path, tmp_path: Path
) -> None:
    add_int8(ExportRequest(plain, data, tmp_path / "with", int8=OPTIONS))
    before, after = open_bundle(plain), open_bundle(tmp_path / "with")
    assert {name: after.manifest.files[name] for name in before.manifest.files} == before.manifest.files
    assert set(after.manifest.files) - set(before.manifest.files) == {
        "model.int8.onnx",
        "int8/sensitivity.json",
        "int8/sensitivity.md",
    }
    assert after.manifest.origin["reference"] == f"model.fp32.onnx of the bundle {before.digest}"
    kept = json.loads(after.manifest.origin["fp32_parity_with_its_reference"])
    assert kept == dataclasses.asdict(before.manifest.parity["fp32"])
    # All three are of the same images now; the reference agrees with itself.
    assert {parity.n_images for parity in after.manifest.parity.values()} == {PLACES * PHOTOS + PLACES}
    assert after.manifest.parity["fp32"].min_cosine == 1
    with pytest.raises(ExportError, match="has an int8 model already"):
        add_int8(ExportRequest(tmp_path / "with", data, tmp_path / "again", int8=OPTIONS))


def test_the_same_checkpoint_gives_the_same_bytes(
    fresh_exports: None, whole: Bundle, checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    request = ExportRequest(checkpoint, data, tmp_path / "again", ("fp32", "fp16", "int8"), int8=OPTIONS)
    build_bundle(request)
    assert open_bundle(request.out).digest == whole.digest


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"max_images": 150}, ExportError, r"has 110 queries; int8 needs at least 200"),
        ({"int8": Int8Options(n_calibration_images=100)}, ExportError, "100 calibration images were asked for"),
        ({"precisions": ("fp32", "int8"), "dataset": "sues200-150"}, DphrError, "SUES|folder|Training|Testing"),
    ],
)
def test_what_int8_cannot_be_made_of_is_refused_and_leaves_nothing(
    checkpoint: Path, data: Path, tmp_path: Path, change: dict, kind: type[DphrError], message: str
) -> None:
    request = ExportRequest(checkpoint, data, tmp_path / "bundle", ("int8",), int8=OPTIONS)
    with pytest.raises(kind, match=message):
        build_bundle(dataclasses.replace(request, **change))
    assert list(tmp_path.iterdir()) == []


def test_an_optional_int8_that_cannot_be_made_is_left_out_aloud(
    checkpoint: Path, places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = build_bundle(
        ExportRequest(checkpoint, places, tmp_path / "bundle", ("fp32", "int8"), optional=("int8",), int8=OPTIONS)
    )
    assert set(manifest.parity) == {"fp32"} and manifest.quantisation is None
    assert "int8 is left out of the bundle: " in capsys.readouterr().err


def test_int8_needs_the_half_precision_model(plain: Path, data: Path, tmp_path: Path) -> None:
    manifest = json.loads((plain / "manifest.json").read_text())
    lame = tmp_path / "lame"
    for name in [*manifest["files"], "manifest.json"]:
        (lame / name).parent.mkdir(parents=True, exist_ok=True)
        (lame / name).write_bytes((plain / name).read_bytes())
    (lame / "model.fp16.onnx").unlink()
    del manifest["files"]["model.fp16.onnx"], manifest["parity"]["fp16"]
    (lame / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="holds no fp16 model"):
        add_int8(ExportRequest(lame, data, tmp_path / "out", int8=OPTIONS))


def test_add_int8_asks_for_images_in_its_own_words(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["add-int8", str(plain), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "int8 is calibrated on the training split of a data set" in error and "self-test" not in error


def test_a_report_shows_what_the_int8_layers_cost(
    whole: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(whole.folder), "--out", str(tmp_path / "report"), "--seconds", "0.01"]) == 0
    assert capsys.readouterr().out.endswith("report: report.html, report.md, report.json, sensitivity.png\n")
    png = (tmp_path / "report/sensitivity.png").read_bytes()
    assert base64.b64encode(png).decode() in (tmp_path / "report/report.html").read_text()
    assert "(sensitivity.png)" in (tmp_path / "report/report.md").read_text()


def test_the_commands_run_one_after_another(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cryptography")
    pytest.importorskip("tensorrt_rtx")
    engines = tmp_path / "engines.json"
    assert main(["build", str(plain), "--cache", str(tmp_path / "cache"), "--json", str(engines)]) == 0
    built = [(row["precision"], row["max_batch"]) for row in json.loads(engines.read_text())]
    assert built == [("fp32", 1), ("fp32", 16), ("fp16", 1), ("fp16", 16)]
    report = ["report", str(plain), "--out", str(tmp_path / "report"), "--engines", str(engines), "--seconds", "0.01"]
    assert main(report) == 0
    assert (tmp_path / "report/report.html").read_text().count("TensorRT-RTX") >= 2
    assert main(["compare", str(plain), str(plain), "--seconds", "0.01"]) == 0
    assert "fp16" in capsys.readouterr().out
    assert main(["make-key", str(tmp_path / "key.pem")]) == 0
    assert main(["sign", str(plain), "--key", str(tmp_path / "key.pem")]) == 0
    assert open_bundle(plain, tmp_path / "key.pub.pem").digest == open_bundle(plain).digest
    (plain / "signature.json").unlink()
