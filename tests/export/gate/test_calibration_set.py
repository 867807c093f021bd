from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dphr_infer.errors import ConfigError, ExportError, ImageError
from dphr_infer.images.preprocess import Preprocess, read_image
from export.gate.calibration_set import CalibrationSet, calibration_images
from export.gate.evaluation_set import EvaluationSet, read_evaluation_set

PREPROCESS = Preprocess(16, 24)
TRAINING, TEST = range(10, 18), range(4)


def write_picture(path: Path, seed: list[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """8 training places with 6 drone images, 4 test places with 4; one satellite image each, every picture another."""
    for place in TRAINING:
        write_picture(tmp_path / f"train/satellite/{place:04d}/0.png", [place, 99])
        for view in range(6):
            write_picture(tmp_path / f"train/drone/{place:04d}/{view}.png", [place, view])
    for place in TEST:
        write_picture(tmp_path / f"test/gallery_satellite/{place:04d}/0.png", [place, 99])
        for view in range(4):
            write_picture(tmp_path / f"test/query_drone/{place:04d}/{view}.png", [place, view])
    return tmp_path


@pytest.fixture
def judged_on(root: Path) -> EvaluationSet:
    return read_evaluation_set(root, 1000)


def of_view(found: CalibrationSet, view: str) -> list[str]:
    return [name for name in found.names if name.startswith(f"train/{view}/")]


def test_half_of_the_images_show_each_view_and_places_take_equal_turns(root: Path, judged_on: EvaluationSet) -> None:
    found = calibration_images(root, PREPROCESS, 16, judged_on)
    assert (found.n, found.images.shape, found.images.dtype) == (16, (16, 16, 24, 3), np.uint8)
    assert [name.split("/")[2] for name in of_view(found, "drone")] == [f"{place:04d}" for place in TRAINING]
    assert [name.split("/")[2] for name in of_view(found, "satellite")] == [f"{place:04d}" for place in TRAINING]


def test_where_references_run_out_queries_fill_up_and_lie_evenly_in_their_place(
    root: Path, judged_on: EvaluationSet
) -> None:
    found = calibration_images(root, PREPROCESS, 26, judged_on)
    assert len(of_view(found, "satellite")) == 8
    per_place = Counter(name.split("/")[2] for name in of_view(found, "drone"))
    assert sorted(per_place.values(), reverse=True) == [3, 3, 2, 2, 2, 2, 2, 2]
    assert [name[-5:] for name in of_view(found, "drone")[:5]] == ["0.png", "2.png", "4.png", "0.png", "2.png"]
    assert [name[-5:] for name in of_view(found, "drone")[-2:]] == ["0.png", "3.png"]


def test_fewer_images_than_places_come_from_places_far_apart(root: Path, judged_on: EvaluationSet) -> None:
    found = calibration_images(root, PREPROCESS, 8, judged_on)
    assert [name.split("/")[2] for name in of_view(found, "drone")] == ["0010", "0012", "0014", "0016"]


def test_the_pixels_are_those_of_the_bundle_s_preprocess_in_the_order_of_the_names(
    root: Path, judged_on: EvaluationSet
) -> None:
    found = calibration_images(root, PREPROCESS, 20, judged_on)
    for name, image in zip(found.names, found.images, strict=True):
        assert np.array_equal(image, PREPROCESS(read_image(root / name)))


def test_the_digest_names_the_files_and_their_contents(root: Path, judged_on: EvaluationSet) -> None:
    before = calibration_images(root, PREPROCESS, 16, judged_on)
    assert calibration_images(root, PREPROCESS, 16, judged_on).sha256 == before.sha256
    assert calibration_images(root, PREPROCESS, 18, judged_on).sha256 != before.sha256
    write_picture(root / before.names[3], [7, 7, 7])
    changed = calibration_images(root, PREPROCESS, 16, judged_on)
    assert changed.names == before.names
    assert changed.sha256 != before.sha256


def test_no_copy_of_a_judged_image_is_taken_under_another_name(root: Path, judged_on: EvaluationSet) -> None:
    for place in TRAINING:
        for view in range(5):
            copied = judged_on.queries[(place + view) % len(judged_on.queries)].path.read_bytes()
            (root / f"train/drone/{place:04d}/{view}.png").write_bytes(copied)
    found = calibration_images(root, PREPROCESS, 16, judged_on)
    assert {name[-5:] for name in of_view(found, "drone")} == {"5.png"}
    with pytest.raises(ExportError, match=r"17 calibration images were asked for, .* has 8 queries and 8 references"):
        calibration_images(root, PREPROCESS, 17, judged_on)


def test_a_distractor_of_the_gallery_may_be_taken_where_it_is_a_training_image(root: Path) -> None:
    for place in TRAINING:
        copied = (root / f"train/satellite/{place:04d}/0.png").read_bytes()
        (root / f"test/gallery_satellite/{place:04d}").mkdir()
        (root / f"test/gallery_satellite/{place:04d}/0.png").write_bytes(copied)
    judged_on = read_evaluation_set(root, 1000)
    assert len(judged_on.gallery) == 12
    assert len(of_view(calibration_images(root, PREPROCESS, 16, judged_on), "satellite")) == 8


@pytest.mark.parametrize("count", [0, 1])
def test_both_views_are_needed(root: Path, judged_on: EvaluationSet, count: int) -> None:
    with pytest.raises(ExportError, match=f"{count} calibration images were asked for, .* both views"):
        calibration_images(root, PREPROCESS, count, judged_on)


def test_a_data_set_without_a_training_split_is_refused(places: Path) -> None:
    with pytest.raises(ExportError, match=r"has no training split: .*train/drone is missing") as caught:
        calibration_images(places, PREPROCESS, 16, read_evaluation_set(places, 1000))
    assert "\n" not in str(caught.value)


def test_a_data_set_of_no_known_name_is_refused(root: Path, judged_on: EvaluationSet) -> None:
    with pytest.raises(ConfigError, match=r"data\.dataset is 'university'"):
        calibration_images(root, PREPROCESS, 16, judged_on, "university")


def test_an_image_that_is_cut_short_is_named(root: Path, judged_on: EvaluationSet) -> None:
    path = root / "train/drone/0010/0.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ImageError, match=r"train/drone/0010/0\.png is damaged or cut short"):
        calibration_images(root, PREPROCESS, 16, judged_on)
