import sys

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from dphr_infer.errors import ConfigError, DatasetError, MissingPackageError
from dphr_train.datasets import cvact as module
from dphr_train.datasets.cvact import OFFICIAL, Cvact, read_table


def rewrite(root, **changed):
    path = root / "ACT_data.mat"
    kept = {name: value for name, value in loadmat(path).items() if not name.startswith("__")}
    savemat(path, {name: value for name, value in (kept | changed).items() if value is not None})


def test_indices_count_from_one(cvact):
    # trainInd 5, 1, 3 are the fifth, first and third panorama.
    pairs = Cvact(cvact, "val").train_split().pairs
    assert [pair.query.name for pair in pairs] == ["eee_grdView.jpg", "aaa_grdView.jpg", "ccc_grdView.jpg"]
    assert [pair.place_id for pair in pairs] == [4, 0, 2]
    assert pairs[0].reference == cvact / "ANU_data_small/satview_polish/eee_satView_polish.jpg"


def test_positions_are_metres_by_sorted_place(cvact):
    positions = Cvact(cvact, "val").train_split().positions
    assert positions.kind == "metres"
    assert positions.values.tolist() == [[0, 0], [20, 200], [40, 400]]


def test_val_is_tested_by_place_alone(cvact):
    (direction,) = Cvact(cvact, "val").test_directions()
    assert (direction.name, direction.protocols, direction.rules.one_percent) == (
        "ground->satellite",
        ("full",),
        "floor",
    )
    assert [image.place_id for image in direction.gallery] == [1]
    assert direction.queries[0].path == cvact / "ANU_data_small/streetview/bbb_grdView.jpg"
    assert direction.rules.positions is None


def test_test_has_the_positions_of_queries_and_gallery_in_their_order(cvact):
    (direction,) = Cvact(cvact, "test").test_directions()
    assert [image.place_id for image in direction.queries] == [5, 3, 1]
    assert direction.gallery[1].path == cvact / "ANU_data_test/satview_polish/ddd_satView_polish.jpg"
    assert direction.rules.positions.queries_m.tolist() == [[50, 500], [30, 300], [10, 100]]
    assert direction.rules.positions.gallery_m.tolist() == direction.rules.positions.queries_m.tolist()
    assert direction.rules.positions.within_m == 5.0
    assert [pair.place_id for pair in Cvact(cvact, "test").train_split().pairs] == [4, 0, 2]


def test_the_one_pair_that_the_release_lacks_is_left_out_and_does_not_make_it_incomplete(cvact, monkeypatch):
    monkeypatch.setattr(module, "OFFICIAL", {"train": 3, "val": 1, "test": 3})
    (cvact / "ANU_data_small/satview_polish/aaa_satView_polish.jpg").unlink()
    split = Cvact(cvact, "val").train_split()
    assert [pair.place_id for pair in split.pairs] == [4, 2]
    assert split.positions.values.tolist() == [[20, 200], [40, 400]]
    report = Cvact(cvact, "val").check()
    counts = {count.what: (count.found, count.official) for count in report.counts}
    assert counts["train satellite (less the one never released)"] == (2, 2)
    assert counts["train ground"] == (3, 3)
    assert report.complete


def test_a_second_missing_pair_is_refused(cvact):
    for name in ("streetview/aaa_grdView.jpg", "streetview/ccc_grdView.jpg", "satview_polish/ccc_satView_polish.jpg"):
        (cvact / "ANU_data_small" / name).unlink()
    with pytest.raises(DatasetError, match=r"3 of the 6 images that .*ACT_data.mat names are missing: .*aaa_grdView"):
        Cvact(cvact, "val").train_split()


def test_no_image_of_a_test_split_may_be_missing(cvact):
    (cvact / "ANU_data_test/streetview/ddd_grdView.jpg").unlink()
    with pytest.raises(DatasetError, match=r"1 of the 6 images .*ddd_grdView.jpg"):
        Cvact(cvact, "test").test_directions()


def test_the_folder_of_a_split_that_was_asked_for_has_to_be_there(cvact):
    (cvact / "ANU_data_test").rename(cvact / "elsewhere")
    with pytest.raises(DatasetError, match=r"ANU_data_test is missing.*incomplete"):
        Cvact(cvact, "test").test_directions()
    assert len(Cvact(cvact, "val").test_directions()) == 1


@pytest.mark.parametrize("index", [0, 7])
def test_an_index_outside_the_panoramas_is_refused(cvact, index):
    rewrite(cvact, valSet={"valInd": np.array([[index]])})
    with pytest.raises(DatasetError, match=rf"valSet.valInd {index}, but its 6 panoramas count from 1"):
        Cvact(cvact, "val").test_directions()


def test_names_in_a_cell_array_are_read_like_names_in_a_matrix(cvact):
    before = read_table(cvact / "ACT_data.mat")
    rewrite(cvact, panoIds=np.array([["aaa"], ["bbb"], ["ccc"], ["ddd"], ["eee"], ["fff"]], dtype=object))
    after = read_table(cvact / "ACT_data.mat")
    assert after.ids == before.ids == ["aaa", "bbb", "ccc", "ddd", "eee", "fff"]
    assert after.rows["train"].tolist() == before.rows["train"].tolist() == [4, 0, 2]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"utm": np.zeros((5, 2))}, "5 positions for 6 panoramas"),
        ({"valSetAll": None}, "has not CVACT's panoIds"),
        ({"trainSet": {"other": 1}}, "has not CVACT's panoIds"),
        ({"utm": np.zeros((6, 3))}, "9 positions for 6 panoramas"),
        ({"utm": np.zeros((3, 3))}, "has not CVACT's panoIds"),
        ({"utm": np.array([[0.0, 0.0]] * 5 + [[np.nan, 0.0]])}, "5 positions for 6 panoramas"),
    ],
)
def test_a_table_without_its_parts_is_refused(cvact, changed, message):
    rewrite(cvact, **changed)
    with pytest.raises(DatasetError, match=message):
        Cvact(cvact, "val").train_split()


@pytest.mark.parametrize("content", [b"", b"MATLAB 5.0 MAT-file", b"\x00" * 200])
def test_a_damaged_table_is_refused(cvact, content):
    (cvact / "ACT_data.mat").write_bytes(content)
    with pytest.raises(DatasetError, match=r"ACT_data\.mat"):
        Cvact(cvact, "val").train_split()


def test_a_table_cut_anywhere_is_refused_or_read_whole(cvact):
    path = cvact / "ACT_data.mat"
    whole = path.read_bytes()
    refused = 0
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        try:
            assert read_table(path).ids[0] == "aaa"
        except DatasetError:
            refused += 1
    assert refused > 100


def test_without_scipy_the_error_names_the_extra(cvact, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(MissingPackageError, match=r"ACT_data.mat needs the package scipy.*'dphr\[train\]'"):
        Cvact(cvact, "val").train_split()


def test_another_split_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="'train'; choose val or test"):
        Cvact(tmp_path, "train")


@pytest.mark.parametrize(("split", "size"), [("val", 1), ("test", 3)])
def test_a_check_counts_train_and_the_split_by_view(cvact, monkeypatch, split, size):
    report = Cvact(cvact, split).check()
    assert [(count.what, count.found, count.official) for count in report.counts] == [
        ("train ground", 3, 35_532),
        ("train satellite", 3, 35_532),
        (f"{split} ground", size, {"val": 8_884, "test": 92_802}[split]),
        (f"{split} satellite", size, OFFICIAL[split]),
    ]
    monkeypatch.setattr(module, "OFFICIAL", {"train": 3, "val": 1, "test": 3})
    assert Cvact(cvact, split).check().complete
