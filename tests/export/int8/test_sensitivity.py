from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dphr_infer.errors import EngineError, ExportError, StorageError
from export.int8.quantiser import Quantiser
from export.int8.recipes import Recipe
from export.int8.search import give_back
from export.int8.sensitivity import (
    LayerSensitivity,
    embed_model,
    mean_cosine_loss,
    measure_sensitivity,
    rank,
    to_markdown,
    write_table,
)

PLAIN = Recipe("plain", "^$", ("Conv", "MatMul"), half=(), weights_only=())
TABLE = (
    LayerSensitivity("a", "Conv", 1e-5, 10),
    LayerSensitivity("b", "MatMul", 3e-3, 20),
    LayerSensitivity("c", "Conv (weights)", 1e-5, 30),
)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (24, 2, 2, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def planted(small_graph: Callable, images: np.ndarray) -> Quantiser:
    """Layer "bad" reads one channel of up to 25 000 beside two of up to 255, which it needs as much."""
    graph = small_graph().conv("first", np.array([[100, 0, 0], [0, 1, 0], [0, 0, 1]]), np.zeros(3)).add("Relu")
    graph.conv("bad", np.array([[0.01, 0, 0], [0, 1, 0], [0, 0, 1]]), np.zeros(3)).add("Relu")
    graph.conv("last", np.array([[1, 0.5, 0], [0, 1, 0.25], [0.5, 0, 1]]), np.zeros(3))
    return Quantiser(graph.linear("map", np.eye(3)).to_bytes(3, unit_length=True), PLAIN, images)


def test_the_loss_is_one_minus_the_mean_cosine() -> None:
    reference = np.array([[1, 0], [0, 1], [0.6, 0.8], [1, 0]], np.float32)
    others = np.array([[0, 1], [0, 1], [0.8, 0.6], [-1, 0]], np.float32)
    assert mean_cosine_loss(reference, others) == pytest.approx((1 + 0 + 0.04 + 2) / 4, abs=1e-7)


def test_a_planted_bad_layer_leads_the_table_and_is_the_one_given_back(planted: Quantiser, images: np.ndarray) -> None:
    table = measure_sensitivity(planted, images)
    assert [row.layer for row in table] == ["first", "bad", "last", "map"]
    assert [row.weight_bytes for row in table] == [9, 9, 9, 9]
    ranked = rank(table)
    assert ranked[0].layer == "bad"
    assert ranked[0].cosine_loss > 20 * ranked[1].cosine_loss
    half = embed_model(planted.build(planted.layers), images)
    limit = ranked[0].cosine_loss / 2
    found = give_back(planted, table, lambda model: mean_cosine_loss(half, embed_model(model, images)) < limit)
    assert found.float_layers == ("bad",)
    assert found.model == planted.build(["bad"])
    assert found.evaluations == 2


def test_each_loss_is_that_of_the_layer_alone(planted: Quantiser, images: np.ndarray) -> None:
    (row,) = [row for row in measure_sensitivity(planted, images) if row.layer == "last"]
    half = embed_model(planted.build(planted.layers), images)
    alone = embed_model(planted.build(["first", "bad", "map"]), images)
    cosines = (half.astype(np.float64) * alone).sum(axis=1)
    assert row.cosine_loss == pytest.approx(1 - cosines.mean(), abs=2e-7)
    assert row.cosine_loss > 0


def test_the_table_is_ranked_and_equal_losses_keep_their_order() -> None:
    assert [row.layer for row in rank(TABLE)] == ["b", "a", "c"]
    assert to_markdown(TABLE).splitlines()[2:] == [
        "| 1 | b | MatMul | 3.00e-03 | 20 |",
        "| 2 | a | Conv | 1.00e-05 | 10 |",
        "| 3 | c | Conv (weights) | 1.00e-05 | 30 |",
    ]


def test_the_table_is_written_as_json_and_markdown(tmp_path: Path) -> None:
    as_json, as_markdown = write_table(TABLE, tmp_path / "new")
    assert [LayerSensitivity(**row) for row in json.loads(as_json.read_text())] == list(rank(TABLE))
    assert as_markdown.read_text() == to_markdown(TABLE)


def test_a_table_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        write_table(TABLE, tmp_path / "file")


def test_no_images_and_images_of_another_size_are_refused(planted: Quantiser) -> None:
    with pytest.raises(ExportError, match="0 images to measure"):
        measure_sensitivity(planted, np.zeros((0, 2, 2, 3), np.uint8))
    with pytest.raises(EngineError, match=r"takes uint8 \(B, 2, 2, 3\)"):
        measure_sensitivity(planted, np.zeros((4, 3, 2, 3), np.uint8))
