import json
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
from PIL import Image

from dphr_infer.engines.embedder import Embedder
from dphr_infer.errors import ConfigError, DatasetError
from dphr_infer.images.preprocess import Preprocess
from dphr_train.checkpoint import LAST_CHECKPOINT, Checkpoint, write_checkpoint
from dphr_train.commands import Evaluate
from dphr_train.config import DataConfig, ModelConfig, TrainConfig
from dphr_train.datasets.reading import ViewReader
from dphr_train.datasets.university1652 import University1652
from dphr_train.encoder import Encoder
from dphr_train.evaluate import (
    EmbeddedImages,
    RankedDirection,
    bundle_embedder,
    directions_to_json,
    evaluate,
    format_table,
    network_embedder,
)
from dphr_train.failures import draw_failures, worst_queries
from dphr_train.metrics import report_retrieval
from dphr_train.rank_model import _device_of_bundle, rank_model
from dphr_train.types import Direction, GroundPositions, PlaceImage, Rules


def unit(*degrees):
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def hand_made(tiny_root):
    """Gallery places 6..9 at 0, 90, 180, 270 degrees; queries 6 at 10, 7 at 170 (wrong: nearest is 8) and 40."""
    path = tiny_root / "test/gallery_satellite"
    gallery = EmbeddedImages(
        [PlaceImage(path / f"{p:04d}/{p:04d}.jpg", p) for p in (6, 7, 8, 9)], unit(0, 90, 180, 270)
    )
    query = [PlaceImage(tiny_root / f"test/query_drone/{p:04d}/image-01.jpeg", p) for p in (6, 7, 7)]
    queries = EmbeddedImages(query, unit(10, 170, 40))
    report = report_retrieval(queries.embeddings, queries.place_ids, gallery.embeddings, gallery.place_ids)
    return RankedDirection("drone->satellite", queries, gallery, {"full": report})


def test_the_worst_query_of_each_place_comes_first(tiny_root):
    chosen = worst_queries(hand_made(tiny_root), 5)
    # Query 2 (40 degrees, place 7 at 90) is found second after place 6; query 1 (170) second after place 8.
    assert [(row, rank) for row, rank, _ in chosen] == [(1, 1), (0, 0)]
    assert chosen[0][2] == [2, 1, 3, 0]


def test_the_picture_of_failures_holds_one_line_a_query(tiny_root, tmp_path):
    draw_failures(hand_made(tiny_root), tmp_path / "worst.png", count=2)
    with Image.open(tmp_path / "worst.png") as sheet:
        assert sheet.size == (7 * 166 + 6, 2 * 186 + 26)
        assert sheet.getpixel((166 + 4, 19)) == (30, 150, 70)  # the truth is framed in green


def test_evaluate_reports_both_directions_and_protocols(tiny_root):
    encoder = Encoder(ModelConfig(name="test_resnet", weights="random"), 32).train()
    embed = network_embedder(encoder, DataConfig(image_px=32), "cpu")
    directions = evaluate(embed, University1652(tiny_root).test_directions())
    sizes = {
        (direction.name, protocol): (report.n_queries, report.n_gallery)
        for direction in directions
        for protocol, report in direction.reports.items()
    }
    assert sizes == {
        ("drone->satellite", "full"): (12, 6),
        ("drone->satellite", "matched"): (12, 4),
        ("satellite->drone", "full"): (4, 18),
        ("satellite->drone", "matched"): (4, 12),
    }
    assert encoder.training
    table = format_table(directions)
    assert "12 in 6" in table
    assert "hit" not in table and "R@1 5m" not in table
    assert "hit_rate" not in directions_to_json(directions)["drone->satellite"]["full"]


DEGREES = {"q0": 10, "q1": 100, "g0": 0, "g1": 15, "g2": 90, "g3": 130, "g4": 180}


def embed_by_name(paths, view, label):
    """The unit vector at the angle that a file's name stands for."""
    assert view == {"q": "ground", "g": "satellite"}[paths[0].name[0]]
    return unit(*(DEGREES[path.name] for path in paths))


def ground_direction(**rules):
    """Query 0 (10 degrees) ranks rows 1, 0, 2, 3, 4; query 1 (100 degrees) ranks 2, 3, 4, 1, 0."""
    queries = [PlaceImage(Path("q0"), 0), PlaceImage(Path("q1"), 4)]
    gallery = [PlaceImage(Path(f"g{row}"), row) for row in range(5)]
    return Direction("ground->satellite", "ground", "satellite", queries, gallery, ("full",), Rules("floor", **rules))


def test_the_rules_of_a_direction_reach_its_report_table_and_json():
    near_its_match, far_from_all = [0.0, 0.0], [900.0, 0.0]
    direction = ground_direction(
        semi_positives=np.array([[1, 2, 3], [0, 1, 2]]),  # query 1 is also outranked by row 3, a stranger
        positions=GroundPositions(
            np.array([near_its_match, far_from_all]),
            np.array([[0.0, 0.0], [3.0, 4.0], [80.0, 0.0], [90.0, 0.0], [70.0, 0.0]]),
        ),
    )
    (ranked,) = evaluate(embed_by_name, [direction])
    (report,) = ranked.reports.values()
    assert report.recall_at == {1: 0.0, 5: 1.0}
    assert (report.recall_at_1_percent, report.hit_rate, report.recall_within) == (0.0, 0.5, {1: 0.5, 5: 0.5})
    assert directions_to_json([ranked])["ground->satellite"]["full"]["hit_rate"] == 0.5

    (plain,) = evaluate(embed_by_name, [ground_direction()])
    header, with_rules, without = format_table([ranked, plain]).splitlines()
    assert header.split()[-5:] == ["AP", "hit", "R@1", "5m", "sizes"]
    assert with_rules.split()[-5:] == ["50.00", "50.00", "2", "in", "5"]
    assert without.split()[-5:] == ["-", "-", "2", "in", "5"]
    assert len(header) - len("  sizes") == len(with_rules) - len("  2 in 5")


class SizeEncoder(torch.nn.Module):
    """Embeds an image as (height, width), scaled to unit length."""

    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def forward(self, images):
        sides = torch.tensor([images.shape[2:]], dtype=torch.float32).repeat(len(images), 1)
        return sides / sides.norm(dim=1, keepdim=True)


def test_every_view_is_embedded_at_its_own_size(tiny_root):
    paths = [image.path for image in University1652(tiny_root).test_images("query", "satellite")]
    embed = network_embedder(SizeEncoder(), DataConfig("cvusa", image_px=40, ground_px=(30, 40)), "cpu")
    assert embed(paths, "ground", "")[0] == pytest.approx([0.6, 0.8])
    assert embed(paths, "satellite", "")[0] == pytest.approx([0.5**0.5, 0.5**0.5])


@pytest.fixture
def image_and_mirror(tiny_root, tmp_path):
    """Paths of one image and of its mirror image, without loss."""
    with Image.open(tiny_root / "test/query_satellite/0006/0006.jpg") as image:
        image.save(tmp_path / "image.png")
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "mirror.png")
    return [tmp_path / "image.png", tmp_path / "mirror.png"]


@pytest.mark.kernels
def test_flip_adds_the_mirror_image_and_normalises_again(image_and_mirror):
    encoder = Encoder(ModelConfig(name="test_resnet", weights="random"), 32)
    one_by_one = network_embedder(encoder, DataConfig(image_px=32), "cpu")(image_and_mirror, "drone", "")
    added = one_by_one[0] + one_by_one[1]
    found = network_embedder(encoder, DataConfig(image_px=32), "cpu", flip=True)(image_and_mirror, "drone", "")
    assert np.abs(one_by_one[0] - one_by_one[1]).max() > 1e-4
    np.testing.assert_allclose(found, np.stack([added, added]) / np.linalg.norm(added), atol=1e-6)


class LeftRightEngine:
    """Embeds an image as the brightness of its left and its right half, scaled to unit length."""

    name, dim, height_px, width_px = "left and right", 2, 32, 32

    def embed(self, images):
        halves = np.stack([images[:, :, :16].mean(axis=(1, 2, 3)), images[:, :, 16:].mean(axis=(1, 2, 3))], axis=1)
        return (halves / np.linalg.norm(halves, axis=1, keepdims=True)).astype(np.float32)


def test_flip_of_a_bundle_mirrors_the_image_before_its_preprocess(tmp_path):
    half_white = np.zeros((64, 64, 3), np.uint8)
    half_white[:, :32] = 255
    Image.fromarray(half_white).save(tmp_path / "left.png")
    embedder = Embedder(Preprocess(32, 32, "box"), LeftRightEngine())
    (plain,), (flipped,) = (
        bundle_embedder(embedder, ViewReader(), flip)([tmp_path / "left.png"], "drone", "") for flip in (False, True)
    )
    assert plain == pytest.approx([1, 0])
    assert flipped == pytest.approx([0.5**0.5, 0.5**0.5])


def test_the_word_imagenet_is_a_model_and_a_folder_of_that_name_is_a_path():
    assert tyro.cli(Evaluate, args=["imagenet", "--data", "x"]).model == "imagenet"
    assert tyro.cli(Evaluate, args=["./imagenet", "--data", "x"]).model == Path("imagenet")


def test_imagenet_measures_what_no_training_reaches(tiny_root, tmp_path, capsys):
    Evaluate("imagenet", tiny_root, out=tmp_path / "figures.json", failures=tmp_path / "worst.png").run()
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["drone->satellite"]["full"]["n_queries"] == 12
    assert figures["drone->satellite"]["full"]["recall_at"]["1"] > 1 / 6  # six places: chance
    assert "12 in 6" in capsys.readouterr().out
    assert (tmp_path / "worst.png").is_file()


def test_a_checkpoint_is_measured_on_its_own_benchmark_unless_another_is_named(tiny_root, tmp_path, capsys):
    data = DataConfig(dataset="cvusa", image_px=32)
    config = TrainConfig(model=ModelConfig(name="test_resnet", weights="random"), data=data)
    state = Encoder(config.model, 32).state_dict()
    write_checkpoint(
        tmp_path / LAST_CHECKPOINT, Checkpoint(config, step=1, epoch=0, offset=0, processes=1, encoder=state)
    )
    Evaluate(tmp_path, tiny_root, dataset="university1652").run()
    assert "12 in 6" in capsys.readouterr().out
    with pytest.raises(DatasetError, match="CVUSA"):
        Evaluate(tmp_path, tiny_root).run()


def test_a_folder_without_a_test_split_is_refused(tiny_root, tmp_path):
    (tmp_path / "train").symlink_to(tiny_root / "train")
    with pytest.raises(DatasetError, match="has no test split of university1652"):
        Evaluate("imagenet", tmp_path).run()


BUNDLE = Path(__file__).resolve().parents[2] / "samples" / "bundle"


@pytest.mark.parametrize("device", ["cuda:1", "cuda:x"])
def test_a_bundle_on_another_gpu_than_the_first_is_refused_with_the_way_to_choose_it(device, tiny_root):
    with pytest.raises(ConfigError, match=f"The device is {device}, but .*give cuda, .*CUDA_VISIBLE_DEVICES"):
        rank_model(BUNDLE, tiny_root, None, device=device)


@pytest.mark.parametrize(
    ("device", "named"),
    [("cuda:0", "cuda"), ("cuda", "cuda"), ("cpu", "cpu"), ("cuda-onnxruntime", "cuda-onnxruntime")],
)
def test_the_first_gpu_has_one_name_for_networks_and_bundles(device, named):
    assert _device_of_bundle(device, BUNDLE) == named


def test_a_network_on_a_gpu_that_is_not_there_is_refused_with_the_count(tiny_root, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="The device is cuda:1, but this torch sees 1 CUDA GPUs"):
        rank_model("imagenet", tiny_root, None, device="cuda:1")
