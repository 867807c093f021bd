import shutil

import pytest

from dphr_infer.errors import DatasetError
from dphr_train.datasets.layout import LAYOUTS, recognise
from dphr_train.datasets.open import open_dataset

OPENED = {
    "university1652": "university1652", "sues200-150": "sues200", "cvusa": "cvusa", "cvact-val": "cvact",
    "cvact-test": "cvact", "vigor-same": "vigor", "vigor-cross": "vigor",
}  # fmt: skip


@pytest.fixture
def roots(university, sues_prepared, cvusa, cvact, vigor):
    return {"university1652": university, "sues200": sues_prepared, "cvusa": cvusa, "cvact": cvact, "vigor": vigor}


def test_each_layout_is_recognised_as_itself(roots, raw_sues_once):
    assert {name: recognise(root) for name, root in roots.items()} == {name: name for name in LAYOUTS}
    assert recognise(raw_sues_once) == "sues200"


def test_no_two_layouts_share_a_marker():
    markers = [marker for layout in LAYOUTS.values() for marker in layout.markers]
    assert len(markers) == len(set(markers))


def test_the_other_convention_of_vigor_is_recognised(vigor):
    for city in ("Chicago", "NewYork", "SanFrancisco", "Seattle"):
        shutil.rmtree(vigor / city)
    shutil.rmtree(vigor / "splits")
    assert recognise(vigor) is None
    (vigor / "ground/Chicago").mkdir(parents=True)
    assert recognise(vigor) == "vigor"


@pytest.mark.parametrize("name", OPENED)
def test_a_root_of_another_layout_is_named_in_every_method(roots, name):
    for found, root in roots.items():
        if found == OPENED[name]:
            continue
        data = open_dataset(name, root)
        for method in (data.train_split, data.test_directions, data.check):
            with pytest.raises(DatasetError) as caught:
                method()
            text = str(caught.value)
            assert f"has the layout of {LAYOUTS[found].title} (" in text
            assert f"not of {LAYOUTS[OPENED[name]].title}" in text
            assert f"Ask for the data set {LAYOUTS[found].dataset_names}." in text
            assert " is missing. " in text and "\n" not in text


@pytest.mark.parametrize("name", OPENED)
def test_a_root_that_is_not_there_or_empty_is_told_what_is_needed(tmp_path, name):
    needs = LAYOUTS[OPENED[name]].needs
    for root, words in ((tmp_path / "nowhere", "is not a folder"), (tmp_path, "has no layout known here")):
        data = open_dataset(name, root)
        for method in (data.train_split, data.test_directions, data.check):
            with pytest.raises(DatasetError) as caught:
                method()
            assert words in str(caught.value) and needs in str(caught.value)


def test_a_folder_one_level_too_high_is_told_which_one_to_give(cvusa):
    with pytest.raises(DatasetError, match=rf"has no layout known here, but {cvusa} has that of CVUSA"):
        open_dataset("vigor-same", cvusa.parent).train_split()


def test_another_benchmark_in_the_same_folder_does_not_matter(sues_prepared, university):
    shutil.copytree(university, sues_prepared, dirs_exist_ok=True)
    for name, pairs in (("sues200-150", 4), ("university1652", 18)):
        data = open_dataset(name, sues_prepared)
        assert len(data.train_split().pairs) == data.check(read_images=False).counts[0].found == pairs
    with pytest.raises(DatasetError, match="SUES-200 but is incomplete"):
        open_dataset("sues200-300", sues_prepared).train_split()
