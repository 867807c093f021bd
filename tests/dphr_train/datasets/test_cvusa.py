import contextlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dphr_infer.errors import DatasetError
from dphr_train.datasets import cvusa as module
from dphr_train.datasets.cvusa import Cvusa


def test_pairs_are_those_of_the_list_in_its_order(cvusa):
    split = Cvusa(cvusa).train_split()
    assert [pair.place_id for pair in split.pairs] == [5, 2, 4] and split.query_view == "ground"
    assert split.pairs[0].query == cvusa / "streetview/panos/0000005.jpg"
    assert split.pairs[0].reference == cvusa / "bingmap/19/0000005.jpg"


def test_positions_are_the_panoramas_by_sorted_place(cvusa):
    positions = Cvusa(cvusa).train_split().positions
    # Places 2, 4, 5: the third and fourth column of lines 2, 4, 5, not the satellites' 0, 0 before them.
    assert positions.kind == "degrees" and positions.values.dtype == float
    assert positions.values.tolist() == [[32, -92], [34, -94], [35, -95]]


@given(places=st.permutations(range(1, 6)), n=st.integers(1, 5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_positions_follow_sorted_places_whatever_the_order_of_the_list(cvusa, places, n):
    rows = [f"bingmap/19/{place:07d}.jpg,streetview/panos/{place:07d}.jpg,-\n" for place in places[:n]]
    (cvusa / "splits/train-19zl.csv").write_text("".join(rows))
    split = Cvusa(cvusa).train_split()
    assert [pair.place_id for pair in split.pairs] == places[:n]
    assert split.positions.values.tolist() == [[30 + place, -90 - place] for place in sorted(places[:n])]


@given(text=st.text(max_size=60), name=st.sampled_from(["splits/train-19zl.csv", "split_locations/all.csv"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_text_in_a_list_is_read_or_refused_in_words(cvusa, text, name):
    kept = (cvusa / name).read_bytes()
    (cvusa / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(DatasetError):
        Cvusa(cvusa).train_split()
    (cvusa / name).write_bytes(kept)


def test_without_the_file_of_locations_there_are_no_positions(cvusa):
    (cvusa / "split_locations/all.csv").unlink()
    assert Cvusa(cvusa).train_split().positions is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,0,31,-91\n" * 4, r"has 4 rows, but place 0000005 needs row 5"),
        ("0,0,95,-91\n" * 5, r"all.csv:2 has no latitude and longitude"),
        ("0,0,nan,-91\n" * 5, r"all.csv:2 has no latitude"),
        ("0,0,31\n" * 5, r"all.csv:2 has no latitude"),
    ],
)
def test_damaged_locations_are_refused_by_line(cvusa, text, message):
    (cvusa / "split_locations/all.csv").write_text(text)
    with pytest.raises(DatasetError, match=message):
        Cvusa(cvusa).train_split()


def test_the_one_direction_is_ground_to_satellite_on_the_validation_list(cvusa):
    (direction,) = Cvusa(cvusa).test_directions()
    assert (direction.name, direction.protocols, direction.rules.one_percent) == (
        "ground->satellite",
        ("full",),
        "floor",
    )
    assert [image.place_id for image in direction.queries] == [image.place_id for image in direction.gallery] == [3, 1]
    assert direction.queries[0].path.parent.name == "panos" and direction.gallery[0].path.parent.name == "19"
    assert direction.rules.semi_positives is None and direction.rules.positions is None


def test_without_a_validation_list_there_is_no_direction(cvusa):
    (cvusa / "splits/val-19zl.csv").unlink()
    assert Cvusa(cvusa).test_directions() == []


def test_missing_images_are_refused_with_their_number_and_names(cvusa):
    (cvusa / "bingmap/19/0000002.jpg").unlink()
    (cvusa / "streetview/panos/0000004.jpg").unlink()
    with pytest.raises(
        DatasetError, match=r"2 of the 6 images .*train-19zl.csv.*19/0000002.jpg, .*panos/0000004.jpg\."
    ):
        Cvusa(cvusa).train_split()
    assert len(Cvusa(cvusa).test_directions()) == 1


@pytest.mark.parametrize("row", ["bingmap/19/0000002.jpg", "bingmap/19/x2.jpg,streetview/panos/0000002.jpg", ""])
def test_a_damaged_row_is_named_by_its_line(cvusa, row):
    path = cvusa / "splits/train-19zl.csv"
    path.write_text(path.read_text() + row + "\n")
    with pytest.raises(DatasetError, match=r"train-19zl.csv:4 is not"):
        Cvusa(cvusa).train_split()


def test_an_empty_list_is_refused(cvusa):
    (cvusa / "splits/train-19zl.csv").write_text("")
    with pytest.raises(DatasetError, match="is empty"):
        Cvusa(cvusa).train_split()


def test_a_check_counts_by_list_and_view(cvusa, monkeypatch):
    (cvusa / "bingmap/19/0000002.jpg").unlink()
    (cvusa / "streetview/panos/0000001.jpg").write_bytes(b"\xff\xd8\xff")
    report = Cvusa(cvusa).check()
    assert [(count.what, count.found, count.official) for count in report.counts] == [
        ("train ground", 3, 35_532),
        ("train satellite", 2, 35_532),
        ("val ground", 2, 8_884),
        ("val satellite", 2, 8_884),
    ]
    assert report.missing == ["bingmap/19/0000002.jpg"]
    assert [name.split()[0] for name in report.unreadable] == ["streetview/panos/0000001.jpg"]
    monkeypatch.setattr(module, "OFFICIAL", {"train": 3, "val": 2})
    assert not Cvusa(cvusa).check(read_images=False).complete


def test_a_whole_folder_with_the_official_counts_is_complete(cvusa, monkeypatch):
    monkeypatch.setattr(module, "OFFICIAL", {"train": 3, "val": 2})
    assert Cvusa(cvusa).check().complete
