import shutil

import pytest

from dphr_infer.errors import ConfigError, DatasetError
from dphr_train.datasets.sues200 import OFFICIAL, TRAIN_PLACES, Sues200


def places(images):
    return [image.place_id for image in images]


def test_the_prepared_layout_gives_pairs_of_one_height(sues_prepared, write_images):
    write_images(sues_prepared, ["Training/300/drone/0009/0.jpg", "Training/300/satellite/0009/0.png"])
    pairs = Sues200(sues_prepared, 150).train_split().pairs
    assert [(pair.place_id, pair.query.name) for pair in pairs] == [
        (1, "0.jpg"),
        (1, "1.jpg"),
        (2, "0.jpg"),
        (2, "1.jpg"),
    ]
    assert pairs[3].reference == sues_prepared / "Training/150/satellite/0002/0.png"
    assert places_of_pairs(Sues200(sues_prepared, 300)) == [9]


def places_of_pairs(data):
    return [pair.place_id for pair in data.train_split().pairs]


def test_the_prepared_galleries_hold_training_places_and_distractors(sues_prepared):
    forth, back = Sues200(sues_prepared, 150).test_directions()
    assert (forth.name, places(forth.queries), places(forth.gallery)) == ("drone->satellite", [3, 3], [1, 2, 3, 4])
    assert (back.name, places(back.queries)) == ("satellite->drone", [3])
    assert places(back.gallery) == [1, 1, 2, 2, 3, 3, 4, 4]
    assert forth.protocols == back.protocols == ("full", "matched")


def test_the_raw_layout_is_split_by_the_official_places(raw_sues_once):
    data = Sues200(raw_sues_once, 150)
    pairs = data.train_split().pairs
    assert len(pairs) == 240 and {pair.place_id for pair in pairs} == TRAIN_PLACES
    assert pairs[0].query == raw_sues_once / "drone_view_512/0001/150/0.jpg"
    assert pairs[0].reference == raw_sues_once / "satellite-view/0001/0.png"
    forth, back = data.test_directions()
    assert len(forth.queries) == 160 and set(places(forth.queries)) == set(range(1, 201)) - TRAIN_PLACES
    assert places(back.queries) == sorted(set(range(1, 201)) - TRAIN_PLACES)
    assert places(forth.gallery) == list(range(1, 201)) and len(back.gallery) == 400


def test_raw_heights_are_kept_apart(raw_sues_once):
    pairs = Sues200(raw_sues_once, 300).train_split().pairs
    assert len(pairs) == 120 and {pair.query.parent.name for pair in pairs} == {"300"}
    with pytest.raises(DatasetError, match=r"200 places without an image in 250/"):
        Sues200(raw_sues_once, 250).train_split()


def test_a_raw_folder_that_lacks_a_place_is_refused_since_the_split_is_by_number(sues_raw):
    shutil.rmtree(sues_raw / "satellite-view/0008")
    shutil.rmtree(sues_raw / "satellite-view/0012")
    (sues_raw / "satellite-view/0200").rename(sues_raw / "satellite-view/0201")
    with pytest.raises(
        DatasetError, match=r"satellite-view lacks 3 of the official 200 places and has 1 others .*0008"
    ):
        Sues200(sues_raw, 150).test_directions()


def test_120_places_train_and_80_are_queries():
    assert len(TRAIN_PLACES) == 120 and min(TRAIN_PLACES) == 1 and max(TRAIN_PLACES) == 200
    # The first gaps of the official list.
    assert sorted(set(range(1, 24)) - TRAIN_PLACES) == [8, 12, 14, 17, 18, 19, 22, 23]
    counts = {f"{role} {view}": count for (role, view), count in OFFICIAL.items()}
    assert counts == {
        "train drone": 120 * 50, "train satellite": 120, "query drone": 80 * 50, "query satellite": 80,
        "gallery drone": 200 * 50, "gallery satellite": 200,
    }  # fmt: skip


def test_a_check_of_the_prepared_layout_counts_one_height_and_names_what_is_missing(sues_prepared):
    shutil.rmtree(sues_prepared / "Testing/150/gallery_satellite/0004")
    (sues_prepared / "Training/150/drone/0001/1.jpg").write_text("no picture")
    report = Sues200(sues_prepared, 150).check()
    assert [count.found for count in report.counts] == [4, 2, 2, 1, 8, 3]
    assert [count.official for count in report.counts] == [6_000, 120, 4_000, 80, 10_000, 200]
    assert report.missing == ["Testing/150/gallery_satellite/0004"]
    assert [name.split()[0] for name in report.unreadable] == ["Training/150/drone/0001/1.jpg"]


def test_a_check_of_the_raw_layout_counts_by_split_and_names_missing_official_places(sues_raw):
    shutil.rmtree(sues_raw / "drone_view_512/0008/150")
    shutil.rmtree(sues_raw / "drone_view_512/0001")
    shutil.rmtree(sues_raw / "satellite-view/0001")
    report = Sues200(sues_raw, 150).check(read_images=False)
    assert [count.found for count in report.counts] == [238, 119, 158, 80, 396, 199]
    assert report.missing == ["drone_view_512/0001", "drone_view_512/0008", "satellite-view/0001"]


def test_a_height_that_was_not_flown_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="150, 200, 250, 300 m, not at 175 m"):
        Sues200(tmp_path, 175)


def test_a_height_that_is_not_there_is_named(sues_prepared):
    with pytest.raises(DatasetError, match=r"Training/200/drone is missing.*SUES-200 but is incomplete"):
        Sues200(sues_prepared, 200).train_split()


def test_a_prepared_folder_without_testing_has_no_directions(sues_prepared):
    shutil.rmtree(sues_prepared / "Testing")
    assert Sues200(sues_prepared, 150).test_directions() == []
