import shutil

import pytest

from dphr_infer.errors import DatasetError
from dphr_train.datasets import university1652
from dphr_train.datasets.university1652 import OFFICIAL, University1652


def test_every_drone_image_is_paired_with_the_satellite_image_of_its_place(university):
    split = University1652(university).train_split()
    assert len(split.pairs) == 18 and split.query_view == "drone" and split.positions is None
    for pair in split.pairs:
        assert pair.query.parts[-3:-1] == ("drone", f"{pair.place_id:04d}")
        assert pair.reference.parts[-3:-1] == ("satellite", f"{pair.place_id:04d}")
    assert split.pairs[4].reference == university / "train/satellite/0001/0001.jpg"


def test_galleries_hold_distractors_and_queries_do_not(university):
    forth, back = University1652(university).test_directions()
    assert (forth.name, back.name) == ("drone->satellite", "satellite->drone")
    assert (len(forth.queries), len(forth.gallery)) == (12, 6)
    assert (len(back.queries), len(back.gallery)) == (4, 18)
    assert {image.place_id for image in forth.queries} == {image.place_id for image in back.queries} == {6, 7, 8, 9}
    assert (
        {image.place_id for image in forth.gallery} == {image.place_id for image in back.gallery} == set(range(6, 12))
    )
    assert forth.protocols == back.protocols == ("full", "matched") and forth.rules.one_percent == "round"


def test_a_folder_without_a_test_split_has_no_directions(university):
    shutil.rmtree(university / "test")
    assert University1652(university).test_directions() == []


def test_missing_satellite_places_are_named_and_counted(university):
    shutil.rmtree(university / "train/satellite/0002")
    shutil.rmtree(university / "train/satellite/0005")
    with pytest.raises(DatasetError, match=r"satellite lacks 2 of the 6 places .*0002, 0005"):
        University1652(university).train_split()


def test_missing_drone_places_are_named_and_counted(university):
    shutil.rmtree(university / "train/drone/0003")
    with pytest.raises(DatasetError, match=r"train/drone lacks 1 of the 6 places .*satellite \(the first: 0003\)"):
        University1652(university).train_split()


def test_a_missing_view_is_named(university):
    shutil.rmtree(university / "train/drone")
    with pytest.raises(DatasetError, match=r"train/drone is missing.*incomplete"):
        University1652(university).train_split()


def test_places_without_an_image_are_counted(university):
    for image in (university / "test/query_drone/0007").iterdir():
        image.unlink()
    with pytest.raises(DatasetError, match=r"1 places without an image .*0007"):
        University1652(university).test_images("query", "drone")


@pytest.mark.parametrize("name", ["thumbnails", "٣"])
def test_a_folder_that_is_no_place_is_refused(university, name):
    (university / "train/drone" / name).mkdir()
    with pytest.raises(DatasetError, match=name):
        University1652(university).train_split()


def test_the_official_counts_are_those_of_the_paper():
    # 54 drone images for each of 701 training places; the test split has one more, and 250 distractors.
    assert OFFICIAL["train/drone"] == 54 * OFFICIAL["train/satellite"] == OFFICIAL["test/query_drone"] - 1
    assert OFFICIAL["test/gallery_satellite"] - OFFICIAL["test/query_satellite"] == 250
    assert OFFICIAL["test/gallery_drone"] == 51_355


def test_a_check_counts_each_folder_beside_the_official_count(university):
    report = University1652(university).check()
    assert [(count.what, count.found) for count in report.counts] == [
        ("train/drone", 18),
        ("train/satellite", 6),
        ("test/query_drone", 12),
        ("test/query_satellite", 4),
        ("test/gallery_drone", 18),
        ("test/gallery_satellite", 6),
    ]
    assert [count.official for count in report.counts] == list(OFFICIAL.values())
    assert (report.missing, report.unreadable, report.complete) == ([], [], False)


def test_a_check_is_complete_when_every_count_is_the_official_one(university, monkeypatch):
    found = {count.what: count.found for count in University1652(university).check(read_images=False).counts}
    monkeypatch.setattr(university1652, "OFFICIAL", found)
    assert University1652(university).check().complete


def test_a_check_names_places_that_lack_a_view_and_files_that_are_no_image(university):
    shutil.rmtree(university / "train/satellite/0002")
    for image in (university / "test/gallery_drone/0011").iterdir():
        image.unlink()
    shutil.rmtree(university / "test/query_satellite")
    (university / "train/drone/0001/image-02.jpeg").write_bytes(b"")
    report = University1652(university).check()
    assert report.missing == [
        "train/satellite/0002",
        *(f"test/query_satellite/{place:04d}" for place in (6, 7, 8, 9)),
        "test/gallery_drone/0011",
    ]
    assert [name.split()[0] for name in report.unreadable] == ["train/drone/0001/image-02.jpeg"]
    assert University1652(university).check(read_images=False).unreadable == []
