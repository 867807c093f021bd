from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from dphr_infer.errors import CheckpointError, ConfigError, ExportError, StorageError
from dphr_infer.images.preprocess import Preprocess
from dphr_train.checkpoint import load_encoder, read_checkpoint
from dphr_train.encoder import import_timm, normalise
from dphr_train.objective import Objective, Task
from export.sources.sample4geo import import_sample4geo
from export.sources.source import from_checkpoint

timm = import_timm()
SIZES = {"test_convnext": 64, "test_vit": 96, "test_resnet": 64, "test_efficientnet": 64}


class Authors(nn.Module):
    """The published model, as its layout and its description say: a timm network and a logit scale."""

    def __init__(self, name: str, image_px: int) -> None:
        super().__init__()
        size = {"img_size": image_px} if "vit" in name else {}
        self.model = timm.create_model(name, pretrained=False, num_classes=0, **size)
        self.logit_scale = nn.Parameter(torch.ones([]) * np.log(1 / 0.07))


def make_authors(name: str) -> Authors:
    """Weights that are nowhere what an initialisation gives, and a logit scale that has been learned."""
    torch.manual_seed(3)
    authors = Authors(name, SIZES[name]).eval()
    with torch.no_grad():
        for value in authors.state_dict().values():
            if value.is_floating_point():
                value.add_(0.02 * torch.rand_like(value))
        authors.logit_scale.fill_(3.25)
    return authors


def save(authors: Authors, path: Path, layout: str = "zip") -> Path:
    state = authors.state_dict()
    if layout == "several GPUs":
        state = nn.DataParallel(authors).state_dict()
    if path.suffix == ".safetensors":
        save_file(dict(state), path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=layout != "legacy")
    return path


@pytest.fixture(scope="module")
def convnext(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(make_authors("test_convnext"), tmp_path_factory.mktemp("authors") / "weights_e1_0.9515.pth")


@pytest.mark.parametrize("name", SIZES)
def test_the_embeddings_are_the_authors_bit_for_bit(name: str, tmp_path: Path) -> None:
    authors, px = make_authors(name), SIZES[name]
    encoder, preprocess = load_encoder(
        import_sample4geo(save(authors, tmp_path / "w.pth"), name, px, tmp_path / "c.safetensors")
    )
    assert preprocess == Preprocess(px, px, "bilinear")
    data_config = timm.data.resolve_model_data_config(authors.model)
    assert (encoder.mean, encoder.std) == (data_config["mean"], data_config["std"])
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, px, px, 3), dtype=np.uint8))
    pixels = normalise(images, data_config["mean"], data_config["std"])
    with torch.no_grad():
        expected = F.normalize(authors.model(pixels), dim=1)
        assert torch.equal(encoder(pixels), expected)
    assert expected.std(dim=0).max() > 1e-4, "the images must not all give one embedding"


@pytest.mark.parametrize(
    ("file", "layout"),
    [("w.pth", "zip"), ("w.pth", "legacy"), ("w.pth", "several GPUs"), ("w.safetensors", "zip")],
)
def test_every_layout_of_the_file_gives_the_same_encoder(file: str, layout: str, tmp_path: Path) -> None:
    authors = make_authors("test_convnext")
    out = import_sample4geo(save(authors, tmp_path / file, layout), "test_convnext", 64, tmp_path / "c.safetensors")
    state = read_checkpoint(out).encoder
    assert {f"backbone.{name}" for name in authors.model.state_dict()} == state.keys()
    assert all(torch.equal(state[f"backbone.{name}"], value) for name, value in authors.model.state_dict().items())


def test_the_logit_scale_is_the_temperature_of_the_objective(convnext: Path, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(import_sample4geo(convnext, "test_convnext", 64, tmp_path / "c.safetensors"))
    objective = Objective(checkpoint.config.loss, Task([0, 1], 1, 4))
    objective.load_state_dict(checkpoint.objective)  # strictly: no more and no less
    units = torch.eye(2, 4)
    _, terms = objective(units[:, None], units[:, None], torch.tensor([0, 1]))
    assert terms["logit_scale"] == pytest.approx(math.exp(3.25))


@pytest.mark.parametrize(
    ("dataset", "given", "expected"),
    [
        ("university1652", None, None),
        ("cvusa", None, (35, 192)),  # round(224 / 1232 * 192)
        ("cvact-test", None, (35, 192)),
        ("vigor-cross", None, (96, 192)),
        ("cvusa", (32, 128), (32, 128)),
    ],
)
def test_panoramas_have_the_authors_size_unless_another_is_given(
    convnext: Path, tmp_path: Path, dataset, given, expected
) -> None:
    out = import_sample4geo(convnext, "test_convnext", 96, tmp_path / "c.safetensors", dataset, given)
    data = read_checkpoint(out).config.data
    assert (data.dataset, data.image_px, data.ground_px) == (dataset, 96, expected)


def test_the_authors_sizes_at_384_px_are_those_of_the_paper(convnext: Path, tmp_path: Path) -> None:
    for dataset, expected in (("cvusa", (140, 768)), ("vigor-same", (384, 768))):
        out = import_sample4geo(convnext, "test_convnext", 384, tmp_path / dataset, dataset)
        assert read_checkpoint(out).config.data.ground_px == expected


def test_panoramas_of_another_size_import_but_do_not_export(convnext: Path, tmp_path: Path) -> None:
    out = import_sample4geo(convnext, "test_convnext", 96, tmp_path / "c.safetensors", "cvusa")
    with pytest.raises(
        ExportError,
        match=r"panoramas of 192x35 px beside .* of 96x96 px; .* Import the weights again as of university1652",
    ):
        from_checkpoint(out)


def test_the_provenance_names_the_authors_file_and_no_training_of_ours(convnext: Path, tmp_path: Path) -> None:
    origin = from_checkpoint(import_sample4geo(convnext, "test_convnext", 64, tmp_path / "c.safetensors")).origin
    assert origin["source"] == "sample4geo"
    assert len(origin["imported_weights_sha256"]) == 64
    assert origin["training_dataset"] == "university1652"
    assert "training_config" not in origin
    assert "training_steps" not in origin
    assert str(tmp_path) not in str(origin)


def refuse(weights: Path, match: str, kind=CheckpointError, encoder: str = "test_convnext", px: int = 64) -> None:
    out = weights.parent / "refused.safetensors"
    with pytest.raises(kind, match=match) as caught:
        import_sample4geo(weights, encoder, px, out)
    assert "\n" not in str(caught.value)
    assert not out.exists()


def test_another_architecture_is_told_by_its_first_tensors(tmp_path: Path) -> None:
    refuse(
        save(make_authors("test_resnet"), tmp_path / "w.pth"),
        r"another architecture than test_convnext: it lacks \d+ of its tensors \(the first: model\.stem\.0\.weight\), "
        r"has \d+ that it does not know \(the first: model\.conv1\.\w+\.?\w*\)\. Give the timm name",
    )


def test_weights_of_another_size_of_the_family_name_the_network_that_they_fit(tmp_path: Path) -> None:
    network = timm.create_model("convnext_atto", num_classes=0)
    state = {f"model.{name}": value for name, value in network.state_dict().items()}
    torch.save({**state, "logit_scale": torch.tensor(3.0)}, tmp_path / "w.pth")
    refuse(tmp_path / "w.pth", r"has \d+ of another shape .*They fit convnext_atto\.$", encoder="convnext_femto")


def test_a_transformer_of_another_image_size_is_told_by_its_positions(tmp_path: Path) -> None:
    weights = save(make_authors("test_vit"), tmp_path / "w.pth")
    refuse(weights, "has 37 positions, test_vit at 160 px has 101: give the image size", encoder="test_vit", px=160)


def test_an_unknown_network_is_refused_with_near_names(convnext: Path) -> None:
    refuse(convnext, "has no model 'test_convnex'. Near names: test_convnext", ConfigError, "test_convnex")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_truncated_file_is_refused(suffix: str, tmp_path: Path) -> None:
    whole = save(make_authors("test_convnext"), tmp_path / f"whole{suffix}").read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(whole[: len(whole) // 2])
    refuse(cut, "is damaged, cut short")


def test_a_file_that_is_no_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"<html>not found</html>" * 50)
    refuse(tmp_path / "w.pth", r"is damaged, cut short or no \.pth")


def test_nan_is_refused_by_the_name_of_its_tensor(tmp_path: Path) -> None:
    authors = make_authors("test_convnext")
    with torch.no_grad():
        authors.model.stem[0].weight[0, 0, 0, 0] = float("nan")
    refuse(save(authors, tmp_path / "w.pth"), r"hold NaN or infinity in stem\.0\.weight")
    with torch.no_grad():
        authors.logit_scale.fill_(float("inf"))
    refuse(save(authors, tmp_path / "s.pth"), "hold NaN or infinity in logit_scale")


def test_a_pickled_model_is_never_unpacked(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "w.pth")
    refuse(tmp_path / "w.pth", r"Python objects besides tensors \(the first: torch\.nn\.modules\.linear\.Linear\)")


def test_code_in_a_file_does_not_run(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "owned",))

    torch.save({"model.x": Attack()}, tmp_path / "w.pth")
    refuse(tmp_path / "w.pth", "Python objects besides tensors")
    assert not (tmp_path / "owned").exists()


def test_what_is_no_state_dict_of_this_layout_is_refused(tmp_path: Path) -> None:
    authors = make_authors("test_convnext")
    torch.save({"epoch": 3, "state": authors.state_dict()}, tmp_path / "a.pth")
    refuse(tmp_path / "a.pth", "holds a dict of other things than tensors, not a state dict")
    torch.save(authors.model.state_dict(), tmp_path / "b.pth")
    refuse(tmp_path / "b.pth", r"not in Sample4Geo's layout, .* it has 'stem\.0\.weight'")
    state = {name: value for name, value in authors.state_dict().items() if name != "logit_scale"}
    torch.save(state, tmp_path / "c.pth")
    refuse(tmp_path / "c.pth", "it has no single value 'logit_scale'")


def test_tensors_that_float32_cannot_hold_and_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    state = make_authors("test_convnext").state_dict()
    torch.save({**state, 7: torch.zeros(2)}, tmp_path / "name.pth")
    refuse(tmp_path / "name.pth", "names a tensor 7, which is no text")
    wide = state["model.stem.0.weight"].double().clone()
    wide[0, 0, 0, 0] = 1e300
    torch.save({**state, "model.stem.0.weight": wide}, tmp_path / "wide.pth")
    refuse(tmp_path / "wide.pth", r"hold 1e\+300 in stem\.0\.weight; the network's torch\.float32 ends at 3\.4e\+38")
    torch.save({**state, "model.stem.0.weight": wide.to(torch.complex64)}, tmp_path / "complex.pth")
    refuse(tmp_path / "complex.pth", r"holds 'model\.stem\.0\.weight' as torch\.complex64")
    torch.save({**state, "model.stem.0.weight": wide.to_sparse()}, tmp_path / "sparse.pth")
    refuse(tmp_path / "sparse.pth", r"in the layout torch\.sparse_coo")


def test_float64_that_float32_can_hold_is_taken(tmp_path: Path) -> None:
    state = {name: value.double() for name, value in make_authors("test_convnext").state_dict().items()}
    torch.save(state, tmp_path / "w.pth")
    out = import_sample4geo(tmp_path / "w.pth", "test_convnext", 64, tmp_path / "c.safetensors")
    assert read_checkpoint(out).encoder["backbone.stem.0.weight"].dtype == torch.float32


def test_a_missing_file_and_an_output_that_exists_are_refused(convnext: Path, tmp_path: Path) -> None:
    refuse(tmp_path / "none.pth", r"none\.pth do not exist")
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(StorageError, match="mine exists already"):
        import_sample4geo(convnext, "test_convnext", 64, tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "keep"


def test_an_unknown_data_set_is_refused(convnext: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.dataset is 'cvact'"):
        import_sample4geo(convnext, "test_convnext", 64, tmp_path / "c", "cvact")
