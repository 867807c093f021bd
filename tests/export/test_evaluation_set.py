from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from dphr_infer.errors import ExportError
from export.evaluation_set import read_evaluation_set


def test_the_whole_split_is_taken_when_it_fits(places: Path) -> None:
    data = read_evaluation_set(places, 1000)
    assert (len(data.queries), len(data.gallery)) == (18, 8)
    assert data.name(data.queries[0]) == "test/query_drone/0000/00.png"


def test_a_cut_takes_the_same_number_of_queries_from_every_place(places: Path) -> None:
    data = read_evaluation_set(places, 20)
    assert len(data.images()) == 20
    assert Counter(data.query_ids().tolist()) == {0: 2, 1: 2, 2: 2, 3: 2, 4: 2, 5: 2}


def test_a_cut_of_the_gallery_drops_distractors_first_and_keeps_every_query_answerable(
    tmp_path: Path, make_places: Callable[..., Path]
) -> None:
    data = read_evaluation_set(make_places(tmp_path, 6, 4, distractors=20), 16)
    assert data.gallery_ids().tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert set(data.query_ids()) <= set(data.gallery_ids())
    assert len(data.images()) == 16


def test_too_few_places_are_refused_with_both_numbers(tmp_path: Path, make_places: Callable[..., Path]) -> None:
    with pytest.raises(
        ExportError, match=r"has 3 test places with both views .* needs at least 4 places and 16 images"
    ):
        read_evaluation_set(make_places(tmp_path, 3, 10), 1000)


def test_too_few_images_are_refused_with_both_numbers(places: Path) -> None:
    with pytest.raises(ExportError, match="26 images, of which at most 10 may be used"):
        read_evaluation_set(places, 10)


def test_the_digest_changes_with_one_image(tmp_path: Path, make_places: Callable[..., Path]) -> None:
    before = read_evaluation_set(make_places(tmp_path, 6), 1000).digest()
    first = tmp_path / "test/query_drone/0000/00.png"
    first.write_bytes((tmp_path / "test/query_drone/0000/01.png").read_bytes())
    assert read_evaluation_set(tmp_path, 1000).digest() != before
