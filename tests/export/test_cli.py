"""dphr-export from its command line: --encoder NAME gives a bundle that flies, and README.md names every option."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from dphr_infer.files.bundle import file_digest, open_bundle
from dphr_infer.images.preprocess import Preprocess, read_image
from dphr_infer.locate.devices import open_engine
from dphr_infer.locate.embedder import Embedder
from dphr_train.encoder import import_timm
from export.cli import _COMMANDS, _export_parser, main

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
    words = ["--encoder", name, "--weights", str(tmp_path / file), "--image-px", str(PX), "--precisions", "fp32"]
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


def test_the_readme_names_every_option_and_its_commands_have_no_other() -> None:
    parsers = {"": _export_parser(), **{name: make() for name, (make, _) in _COMMANDS.items()}}
    known = {
        name: set(re.findall(r"^  (--[a-z][a-z0-9-]*)", parser.format_help(), re.MULTILINE))
        for name, parser in parsers.items()
    }
    assert {"--encoder", "--dataset"} <= known[""] and known["sign"] == {"--key"} and known["make-key"] == set()
    text = README.read_text(encoding="utf-8")
    assert set().union(*known.values()) - named_options(text) == set()
    lines = [line.split("#")[0] for line in re.findall(r"^dphr-export (.*)", text, re.MULTILINE)]
    assert len(lines) > 8
    for line in lines:
        assert named_options(line) <= known.get(line.split()[0], known[""]), line
