from __future__ import annotations

import numpy as np
import pytest

from dphr_infer.images.blank import blank_reason
from dphr_infer.images.photo import Photo
from export.calibrate.site import made_pictures
from export.calibrate.verdict import MARGINS, Answer, calibrate_verdict


def answers(right: list[tuple[float, float]], foreign: list[tuple[float, float]]) -> dict[str, list[Answer]]:
    """(similarity, margin) of right answers over the own map, and of wrong ones over another."""
    return {
        "own map": [Answer(*values, True) for values in right],
        "another map": [Answer(*values, False) for values in foreign],
    }


def test_the_margin_is_the_smallest_that_keeps_foreign_photos_out() -> None:
    # 100 right ones from 0.50 to 0.995; of 100 foreign ones two at margins 0.205 and 0.105.
    right = [(0.5 + 0.005 * number, 0.3) for number in range(100)]
    foreign = [(0.9, 0.205), (0.9, 0.105), *[(0.9, 0.035)] * 98]
    found = calibrate_verdict(answers(right, foreign), 0.05)
    # 5 % of the right ones lie below the floor; one wrong of 100 is at most 4.7 %, two are 6.2 %.
    assert (found.floor, found.margin) == (0.525, 0.11)
    assert (found.n, found.accepted_share) == (100, 0.95)
    assert found.false_shares == {"own map": 0.0, "another map": 0.01}
    assert calibrate_verdict(answers(right, foreign), 0.07).margin == 0.04


def test_what_lies_below_the_floor_is_not_accepted_at_any_margin() -> None:
    right = [(0.8, 0.3)] * 100
    found = calibrate_verdict(answers(right, [(0.79, 0.9)] * 100), 0.05)
    assert (found.floor, found.margin) == (0.8, 0.0)


def test_a_wrong_answer_over_its_own_map_counts_too() -> None:
    both = answers([(0.8, 0.3)] * 90, [(0.1, 0.0)] * 100)
    both["own map"] += [Answer(0.9, 0.2, False)] * 10
    found = calibrate_verdict(both, 0.05)
    assert found.margin == 0.21 and found.accepted_share == 0.9


@pytest.mark.parametrize(
    ("right", "foreign"),
    [
        ([(0.8, 0.3)] * 100, [(0.9, 0.7)] * 100),  # what no margin keeps out
        ([(0.8, 0.3)] * 100, [(0.9, 0.5)] * 100),  # where nothing right would be left
        ([(0.8, 0.3)] * 58, [(0.1, 0.0)] * 58),  # one photo too few
    ],
)
def test_where_nothing_holds_nothing_is_ever_accepted(right: list, foreign: list) -> None:
    found = calibrate_verdict(answers(right, foreign), 0.05)
    assert (found.floor, found.margin, found.accepted_share) == (None, None, 0.0)


def test_margins_are_tried_from_the_strictest() -> None:
    assert MARGINS[0] == 0.6 and MARGINS[-1] == 0.0 and list(MARGINS) == sorted(MARGINS, reverse=True)


def test_made_pictures_show_nothing_and_one_of_them_is_not_told_so_by_its_pixels() -> None:
    pictures = made_pictures()
    assert {(picture.shape, picture.dtype) for picture in pictures} == {((240, 320, 3), np.dtype(np.uint8))}
    assert [bool(blank_reason(Photo(picture))) for picture in pictures] == [True, True, True, False]
