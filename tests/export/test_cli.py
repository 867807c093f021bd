"""dphr-export from its command line: --encoder NAME gives a bundle that flies, and README.md names every option."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from dphr_infer.engines.embedder import Embedder
from dphr_infer.files.bundle import file_digest, open_bundle
from dphr_infer.images.preprocess import Preprocess, read_image
from dphr_infer.locate.devices import open_engine
from dphr_train.encoder import import_timm
from export.cli import COMMANDS, PROGRAM, main
from export.verbs import VERB_TYPES

README = Path(__file__).parents[2] / "export" / "README.md"
timm = import_timm()
PX = 32
# A small network of each family, the file of its weights, and the resize that timm says it was trained with.
FAMILIES = [
    ("test_convnext", "net.pth", "bicubic"),
    ("test_efficientnet", "net.safetensors", "bicubic"),
    ("test_resnet", "net.pth", "bilinear"),
    ("test_vit", "net.pth", "bicubic"),
]


def make_network(name: str, weights: Path) -> torch.nn.Module:
    """A network of timm without a classifier, and the file of its weights, as timm publishes them."""
    torch.manual_seed(3)
    size = {"img_size": PX} if "vit" in name else {}
    network = timm.create_model(name, num_classes=10, **size)
    state = network.state_dict()
    save_file(state, weights) if weights.suffix == ".safetensors" else torch.save(state, weights)
    network.reset_classifier(0)
    return network.eval()


def embed_with_timm(network: torch.nn.Module, pictures: list[Path], interpolation: str) -> np.ndarray:
    """float32 (n, dim), unit length: square pictures through timm's network, without any code of the project."""
    resize = Image.Resampling[interpolation.upper()]
    opened = [np.asarray(Image.open(path).resize((PX, PX), resize), np.float32) for path in pictures]
    mean, std = (np.array(network.default_cfg[key], np.float32) for key in ("mean", "std"))
    pixels = ((np.stack(opened) / 255 - mean) / std).transpose(0, 3, 1, 2)
    with torch.no_grad():
        features = network(torch.from_numpy(np.ascontiguousarray(pixels))).numpy()
    return features / np.linalg.norm(features, axis=1, keepdims=True)


@pytest.mark.parametrize(("name", "file", "interpolation"), FAMILIES)
def test_an_encoder_of_each_family_becomes_a_bundle_that_embeds_a_picture_as_timm_does(
    name: str, file: str, interpolation: str, places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network, out = make_network(name, tmp_path / file), tmp_path / "bundle"
    words = [
        "bundle",
        "--encoder",
        name,
        "--weights",
        str(tmp_path / file),
        "--image-px",
        str(PX),
        "--precisions",
        "fp32",
    ]
    assert main([*words, "--data", str(places), "--out", str(out)]) == 0
    pictures = [places / f"test/query_drone/000{place}/00.png" for place in (0, 1)]
    expected = embed_with_timm(network, pictures, interpolation)
    assert np.abs(expected[0] - expected[1]).max() > 0.05  # or any two pictures would do
    assert capsys.readouterr().out == f"{out}: {name}, {expected.shape[1]} dimensions, fp32\n"
    bundle = open_bundle(out)
    assert bundle.manifest.preprocess == Preprocess(PX, PX, interpolation)
    assert bundle.manifest.origin["weights_sha256"] == file_digest(tmp_path / file)
    with open_engine(bundle) as engine:
        embedder = Embedder(bundle.manifest.preprocess, engine)
        embeddings = embedder.embed_images([read_image(picture) for picture in pictures])
    np.testing.assert_allclose(embeddings, expected, rtol=0, atol=2e-6)


def named_options(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text))


def options_of(verb: str, capsys: pytest.CaptureFixture[str]) -> set[str]:
    """The options of a verb's --help."""
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    return set(re.findall(r"^\W*(--[a-z][a-z0-9-]*)", capsys.readouterr().out, re.MULTILINE))


def test_the_readme_names_every_option_and_its_commands_have_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(COMMANDS) == list(VERB_TYPES)
    known = {verb: options_of(verb, capsys) for verb in COMMANDS}
    assert {"--encoder", "--dataset"} <= known["bundle"] and known["sign"] == {"--key"} and known["make-key"] == set()
    text = README.read_text(encoding="utf-8")
    assert set().union(*known.values()) - named_options(text) == set()
    lines = [line.split("#")[0] for line in re.findall(r"^dphr-export (.*)", text, re.MULTILINE)]
    assert len(lines) > 8
    for line in lines:
        assert named_options(line) <= known[line.split()[0]], line


@pytest.mark.parametrize("words", [["runs/train"], ["--data", "x", "bundle"]])
def test_what_is_no_verb_ends_with_2_and_says_what_there_is(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert f"dphr-export: There is no command {words[0]!r}: choose one of bundle, " in capsys.readouterr().err


def test_what_is_no_option_ends_with_2_and_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bundle", "x", "--no-such"])
    assert ended.value.code == 2
    assert "--no-such" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "Name either a checkpoint or, with --encoder"),
        (["run", "--encoder", "resnet18"], "Name either a checkpoint or, with --encoder"),
        (["run", "--weights", "random"], "--weights belongs to --encoder"),
        (["run", "--image-px", "32"], "--image-px belongs to --encoder"),
        (["run", "--pooling", "gem"], "--pooling belongs to --encoder"),
        ([""], "The name of the checkpoint is empty"),
        (["--encoder", "resnet18"], "--encoder resnet18 needs --image-px"),
        (["--encoder", "resnet18", "--image-px", "15"], "--image-px is 15; the square input"),
        (["--encoder", "resnet18", "--image-px", "-32"], "--image-px is -32; "),
        (["--encoder", "resnet18", "--image-px", "2049"], "--image-px is 2049; the square input of a network has a"),
        (["--encoder", "test_vit", "--image-px", "32"], "No weights were named for test_vit"),
        (["--encoder", "test_vitt", "--image-px", "32", "--weights", "random"], "timm 1"),
        (["--encoder", "resnet18", "--image-px", "32", "--weights", ""], "--weights is empty"),
        (["run", "--calibration-images", "32"], "--calibration-images is about int8, but the precisions are fp32 fp16"),
        (["run", "--int8-weights", "float"], "--int8-weights is about int8, but the precisions are fp32 fp16"),
        (["run", "--precisions", "int8", "--calibration-images", "0"], "0 calibration images were asked for"),
        (["run", "--precisions", "fp32", "--optional", "fp16"], "fp16 is optional, but the precisions are fp32"),
    ],
)
def test_options_that_do_not_go_together_are_refused_in_one_line(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bundle", *words, "--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"{PROGRAM}: {said}") and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
