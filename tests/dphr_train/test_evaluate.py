import numpy as np
from PIL import Image

from dphr_infer.metrics import report_retrieval
from dphr_infer.preprocess import Preprocess
from dphr_train.config import ModelConfig
from dphr_train.datasets.university1652 import PlaceImage
from dphr_train.encoder import Encoder
from dphr_train.evaluate import Direction, EmbeddedImages, evaluate, format_table, network_embedder
from dphr_train.failures import draw_failures, worst_queries


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
    return Direction("drone->satellite", queries, gallery, {"full": report})


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
    directions = evaluate(network_embedder(encoder, Preprocess(32, 32), "cpu"), tiny_root)
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
    assert "12 in 6" in format_table(directions)
