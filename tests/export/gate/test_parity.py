from __future__ import annotations

from pathlib import Path
from unittest.mock import ANY

import numpy as np
import pytest

from dphr_infer.errors import ExportError
from dphr_train.types import PlaceImage
from export.gate.evaluation_set import EvaluationSet
from export.gate.parity import Embeddings, ParityReport, compare, embed_in_batches

pytestmark = pytest.mark.kernels

ROOT = Path("/data")
QUERIES = tuple(PlaceImage(ROOT / f"q{place}.png", place) for place in (1, 2))
GALLERY = tuple(PlaceImage(ROOT / f"g{place}.png", place) for place in (1, 2))
DATA = EvaluationSet(ROOT, QUERIES, GALLERY)


def unit(*angles_deg: float) -> np.ndarray:
    """float32 (n, 2), unit vectors at the given angles."""
    angles = np.radians(angles_deg)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def embeddings(vectors: np.ndarray, small: np.ndarray | None = None) -> Embeddings:
    first = vectors if small is None else small
    return Embeddings(vectors, {1: first, 2: first, 7: first})


def report(shipped: Embeddings, reference: np.ndarray | None = None) -> ParityReport:
    return compare("fp32", embeddings(unit(0, 90, 10, 80) if reference is None else reference), shipped, DATA)


def test_equal_embeddings_pass_with_cosine_1_and_no_drop() -> None:
    found = report(embeddings(unit(0, 90, 10, 80)))
    assert found.passed
    assert found.min_cosine == pytest.approx(1)
    assert (found.recall_drop, found.ap_drop, found.recall_at_1, found.ap, found.n_images) == (0, 0, 1, 1, 4)


def test_one_image_that_turned_by_half_a_degree_fails_fp32_and_is_named() -> None:
    found = report(embeddings(unit(0, 90, 10.5, 80)))
    assert found.min_cosine == pytest.approx(np.cos(np.radians(0.5)), abs=1e-7)
    with pytest.raises(ExportError, match=r"smallest cosine is 0\.999962, the limit is 0\.99999 \(moved most: g1\.png"):
        found.require()


def test_the_same_turn_passes_fp16() -> None:
    reference, shipped = embeddings(unit(0, 90, 10, 80)), embeddings(unit(0, 90, 10.5, 80))
    assert compare("fp16", reference, shipped, DATA).passed


def test_a_fault_at_one_small_batch_size_only_is_seen() -> None:
    good = unit(0, 90, 10, 80)
    shipped = Embeddings(good, {1: good, 2: good, 7: unit(0, 90, 10, 60)})
    found = report(shipped)
    assert found.min_cosine == pytest.approx(np.cos(np.radians(20)), abs=1e-6)
    assert found.moved[0].name == "g2.png"


def test_a_recall_drop_fails_though_every_cosine_is_high() -> None:
    # Both places lie 0.1 degrees apart, so a turn of 0.2 degrees swaps them.
    reference = unit(0, 0.1, 0, 0.1)
    found = report(embeddings(unit(0.1, 0.0, 0, 0.1)), reference)
    assert found.min_cosine > 0.99999
    assert found.recall_drop == 1.0
    # Each match falls to rank 1: an AP of 1/4 by the trapezoid rule.
    assert found.ap_drop == 0.75
    message = (
        r"recall@1 falls by 100\.00 points from 100\.00, the limit is 0\.1 \(one of 2 queries is 50\.00\); "
        r"AP falls by 75\.00 points from 100\.00"
    )
    with pytest.raises(ExportError, match=message):
        found.require()


@pytest.mark.parametrize(("turn_deg", "passes"), [(5, True), (17, True), (18.5, False)])
def test_int8_may_turn_an_image_by_18_degrees_at_most(turn_deg: float, passes: bool) -> None:
    # cos 18.19 degrees = 0.95; three images that stay lift the mean.
    reference, shipped = embeddings(unit(0, 90, 10, 80)), embeddings(unit(0, 90, 10, 80 + turn_deg))
    found = compare("int8", reference, shipped, DATA)
    assert [clause for clause in found.failures() if "smallest cosine" in clause] == ([] if passes else [ANY])


def test_int8_that_turns_every_image_by_ten_degrees_fails_by_its_mean() -> None:
    found = compare("int8", embeddings(unit(0, 90, 10, 80)), embeddings(unit(10, 80, 20, 70)), DATA)
    assert found.failures() == ["the mean cosine is 0.984808, the limit is 0.99"]


def test_embeddings_that_are_not_of_unit_length_fail_though_their_cosine_is_1() -> None:
    found = report(embeddings(1.01 * unit(0, 90, 10, 80)))
    assert not found.passed
    assert "length is off 1 by 0.01" in found.failures()[0]


def test_a_value_that_is_no_number_fails_and_its_image_is_named() -> None:
    vectors = unit(0, 90, 10, 80)
    vectors[1] = np.nan
    found = report(embeddings(vectors))
    assert not found.passed
    assert found.moved[0].name == "q2.png"


def test_another_embedding_length_is_refused() -> None:
    with pytest.raises(ExportError, match="length 3, torch of length 2"):
        report(embeddings(np.ones((4, 3), np.float32)))


def test_embed_in_batches_hands_over_every_image_once_in_order() -> None:
    sizes = []

    def embed(images: np.ndarray) -> np.ndarray:
        sizes.append(len(images))
        return images[:, 0, 0, :1].astype(np.float32)

    images = np.arange(16, dtype=np.uint8).reshape(16, 1, 1, 1)
    assert embed_in_batches(embed, images, 7)[:, 0].tolist() == list(range(16))
    assert sizes == [7, 7, 2]
