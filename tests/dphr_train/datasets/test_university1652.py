import shutil

import pytest

from dphr_infer.errors import DatasetError
from dphr_train.datasets.university1652 import University1652


@pytest.fixture
def root(tiny_root, tmp_path):
    return shutil.copytree(tiny_root, tmp_path / "set")


def test_every_drone_image_is_paired_with_the_satellite_image_of_its_place(root):
    pairs = University1652(root).train_pairs()
    assert len(pairs) == 18
    assert all(pair.drone.parent.name == pair.satellite.parent.name == f"{pair.place_id:04d}" for pair in pairs)
    assert pairs[4].satellite == root / "train/satellite/0001/0001.jpg"


def test_galleries_hold_distractors_and_queries_do_not(root):
    data = University1652(root)
    assert len(data.test_images("query", "drone")) == 12
    assert len(data.test_images("gallery", "drone")) == 18
    assert {image.place_id for image in data.test_images("gallery", "satellite")} == set(range(6, 12))


def test_missing_satellite_places_are_named_and_counted(root):
    shutil.rmtree(root / "train/satellite/0002")
    shutil.rmtree(root / "train/satellite/0005")
    with pytest.raises(DatasetError, match=r"satellite lacks 2 of the 6 places .*0002, 0005"):
        University1652(root).train_pairs()


def test_a_missing_view_is_named(root):
    shutil.rmtree(root / "train/drone")
    with pytest.raises(DatasetError, match=r"train/drone is missing"):
        University1652(root).train_pairs()


def test_places_without_an_image_are_counted(root):
    for image in (root / "test/query_drone/0007").iterdir():
        image.unlink()
    with pytest.raises(DatasetError, match=r"1 places without an image .*0007"):
        University1652(root).test_images("query", "drone")


def test_a_folder_that_is_no_place_is_refused(root):
    (root / "train/drone/thumbnails").mkdir()
    with pytest.raises(DatasetError, match="thumbnails"):
        University1652(root).train_pairs()
