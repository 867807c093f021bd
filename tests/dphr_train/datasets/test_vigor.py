import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dphr_infer.errors import ConfigError, DatasetError
from dphr_train.datasets import vigor as module
from dphr_train.datasets.vigor import OFFICIAL, Vigor

CITIES = ("Chicago", "NewYork", "SanFrancisco", "Seattle")


def move_to_other_convention(root):
    for city in CITIES:
        for old, new in (("panorama", "ground"), ("satellite", "satellite")):
            (root / new).mkdir(exist_ok=True)
            (root / city / old).rename(root / new / city)
        (root / city).rmdir()


def test_a_place_is_a_satellite_image_numbered_across_the_cities(vigor):
    pairs = Vigor(vigor, "same").train_split().pairs
    # Five tiles a city, and p0 lies in tile 1 of each.
    assert [pair.place_id for pair in pairs] == [1, 6, 11, 16]
    assert pairs[1].query == vigor / "NewYork/panorama/NewYork_p0,41.2,-87.6,.jpg"
    assert pairs[1].reference == vigor / "NewYork/satellite/satellite_41.01_-71.png"


def test_same_area_tests_on_its_own_panoramas_in_all_four_cities(vigor):
    (direction,) = Vigor(vigor, "same").test_directions()
    assert (direction.name, direction.protocols, direction.rules.one_percent) == (
        "ground->satellite",
        ("full",),
        "floor",
    )
    assert [query.place_id for query in direction.queries] == [3, 8, 13, 18]
    assert all("_p1," in query.path.name for query in direction.queries)
    assert [image.place_id for image in direction.gallery] == list(range(20))
    assert direction.gallery[8].path == vigor / "NewYork/satellite/satellite_41.03_-71.png"


def test_semi_positives_are_gallery_rows_without_the_positive(vigor):
    (direction,) = Vigor(vigor, "same").test_directions()
    assert direction.rules.semi_positives.dtype == np.int64
    assert direction.rules.semi_positives.tolist() == [[4, 2, 1], [9, 7, 6], [14, 12, 11], [19, 17, 16]]


@given(labels=st.lists(st.permutations(range(5)), min_size=1, max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
def test_rows_of_any_labels_are_those_of_a_plain_loop(vigor, labels):
    name = "Seattle_p1,41.2,-87.6,.jpg"
    rows = [" ".join([name, *(f"satellite_43.0{tile}_-73.png 0.5 -1" for tile in row[:4])]) for row in labels]
    (vigor / "splits/Seattle/same_area_balanced_test.txt").write_text("\n".join(rows) + "\n")
    (direction,) = Vigor(vigor, "same").test_directions()
    # Seattle is the fourth city: its tiles are rows 15-19.
    assert [query.place_id for query in direction.queries[3:]] == [15 + row[0] for row in labels]
    assert direction.rules.semi_positives[3:].tolist() == [[15 + tile for tile in row[1:4]] for row in labels]


def test_cross_area_trains_on_two_cities_and_tests_on_the_other_two(vigor):
    data = Vigor(vigor, "cross")
    pairs = data.train_split().pairs
    assert [(pair.query.parent.parent.name, pair.place_id) for pair in pairs] == [
        ("NewYork", 1), ("NewYork", 3), ("Seattle", 6), ("Seattle", 8),
    ]  # fmt: skip
    (direction,) = data.test_directions()
    assert [(query.path.parent.parent.name, query.place_id) for query in direction.queries] == [
        ("Chicago", 1), ("Chicago", 3), ("SanFrancisco", 6), ("SanFrancisco", 8),
    ]  # fmt: skip
    assert len(direction.gallery) == 10 and direction.rules.semi_positives[3].tolist() == [9, 7, 6]


def test_positions_are_the_degrees_in_the_names_of_the_positives(vigor):
    positions = Vigor(vigor, "same").train_split().positions
    assert positions.kind == "degrees"
    assert positions.values.tolist() == [[40.01, -70], [41.01, -71], [42.01, -72], [43.01, -73]]


@pytest.mark.parametrize("area", ["same", "cross"])
def test_both_folder_conventions_give_the_same_places(vigor, area):
    before = Vigor(vigor, area)
    pairs, (direction,) = before.train_split().pairs, before.test_directions()
    move_to_other_convention(vigor)
    after = Vigor(vigor, area)
    moved, (again,) = after.train_split().pairs, after.test_directions()
    assert [pair.place_id for pair in moved] == [pair.place_id for pair in pairs]
    assert moved[0].query.parts[-3:-1] == ("ground", pairs[0].query.parts[-3])
    assert again.rules.semi_positives.tolist() == direction.rules.semi_positives.tolist()
    assert [image.path.name for image in again.gallery] == [image.path.name for image in direction.gallery]


def test_missing_images_are_refused_with_their_number_and_names(vigor):
    (vigor / "Seattle/panorama/Seattle_p0,41.2,-87.6,.jpg").unlink()
    (vigor / "Chicago/satellite/satellite_40.00_-70.png").unlink()
    with pytest.raises(DatasetError, match=r"2 of the 24 images .*splits names are missing: .*Seattle_p0"):
        Vigor(vigor, "same").train_split()
    with pytest.raises(DatasetError, match=r"1 of the 14 images .*satellite_40.00_-70.png"):
        Vigor(vigor, "cross").test_directions()


def test_a_row_of_another_width_is_named_by_its_line(vigor):
    path = vigor / "splits/NewYork/same_area_balanced_train.txt"
    path.write_text(path.read_text() + "pano.jpg satellite_1_2.png 0 0\n")
    with pytest.raises(DatasetError, match=r"same_area_balanced_train.txt:2 has 4 columns instead of 13"):
        Vigor(vigor, "same").train_split()


def test_a_satellite_image_that_no_list_has_is_refused(vigor):
    path = vigor / "splits/NewYork/same_area_balanced_train.txt"
    path.write_text(path.read_text().replace("satellite_41.02_-71.png", "satellite_9.00_9.png"))
    with pytest.raises(DatasetError, match=r"train.txt:1 names satellite_9.00_9.png, which .*satellite_list.txt"):
        Vigor(vigor, "same").train_split()


def test_a_satellite_image_listed_twice_is_refused(vigor):
    path = vigor / "splits/Chicago/satellite_list.txt"
    path.write_text(path.read_text() * 2)
    with pytest.raises(DatasetError, match=r"lists satellite_40.00_-70.png twice"):
        Vigor(vigor, "same").train_split()


def test_a_satellite_name_without_a_position_is_refused(vigor):
    old, new = "satellite_40.01_-70.png", "tile.png"
    (vigor / "Chicago/satellite" / old).rename(vigor / "Chicago/satellite" / new)
    for path in (vigor / "splits/Chicago").iterdir():
        path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DatasetError, match=r"tile.png is not named satellite_<latitude>_<longitude>.png"):
        Vigor(vigor, "same").train_split()


def test_a_missing_list_or_city_is_named(vigor):
    (vigor / "splits/Seattle/satellite_list.txt").unlink()
    with pytest.raises(DatasetError, match=r"Seattle/satellite_list.txt is missing.*incomplete"):
        Vigor(vigor, "cross").train_split()
    shutil.rmtree(vigor / "Chicago/panorama")
    with pytest.raises(DatasetError, match=r"Chicago/panorama is missing"):
        Vigor(vigor, "cross").test_directions()


def test_without_any_list_of_the_test_split_there_is_no_direction(vigor):
    for city in CITIES:
        (vigor / f"splits/{city}/same_area_balanced_test.txt").unlink()
    assert Vigor(vigor, "same").test_directions() == []


def test_another_area_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="'other'; choose same or cross"):
        Vigor(tmp_path, "other")


def test_the_official_lists_part_the_same_panoramas_and_tiles():
    panoramas = {key: counts[0] for key, counts in OFFICIAL.items()}
    assert panoramas["same", "train"] + panoramas["same", "test"] == 105_214
    assert panoramas["cross", "train"] + panoramas["cross", "test"] == 105_214
    assert OFFICIAL["cross", "train"][1] + OFFICIAL["cross", "test"][1] == OFFICIAL["same", "test"][1] == 90_618


def test_a_check_counts_both_splits_by_view(vigor, monkeypatch):
    (vigor / "Chicago/satellite/satellite_40.00_-70.png").unlink()
    (vigor / "Seattle/panorama/Seattle_p0,41.2,-87.6,.jpg").write_bytes(b"GIF89a")
    report = Vigor(vigor, "same").check()
    assert [(count.what, count.found, count.official) for count in report.counts] == [
        ("train ground", 4, 52_609),
        ("train satellite", 19, 90_618),
        ("test ground", 4, 52_605),
        ("test satellite", 19, 90_618),
    ]
    # In both splits, yet named once.
    assert report.missing == ["Chicago/satellite/satellite_40.00_-70.png"]
    assert [name.split()[0] for name in report.unreadable] == ["Seattle/panorama/Seattle_p0,41.2,-87.6,.jpg"]
    monkeypatch.setattr(module, "OFFICIAL", {("cross", "train"): (4, 10), ("cross", "test"): (4, 9)})
    cross = Vigor(vigor, "cross").check(read_images=False)
    assert all(count.found == count.official for count in cross.counts) and not cross.complete
