from typing import NamedTuple

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dphr_infer.register.features import _chosen


class Key(NamedTuple):
    pt: tuple[float, float]
    size: float
    response: float


def test_each_cell_gives_its_strongest_before_any_gives_its_second() -> None:
    left = [Key((1, 1), 2, response) for response in (9.0, 8.0, 7.0)]
    left = [key._replace(pt=(1 + index, 1)) for index, key in enumerate(left)]
    keys = [*left, Key((15, 1), 2, 3.0), Key((15, 15), 2, 1.0), Key((16, 15), 2, 2.0)]
    # Cells of 10 pixels: three keys in the first, one in the second, two in the third.
    assert [keys[row].response for row in _chosen(keys, 5, 10.0, False)] == [9.0, 3.0, 2.0, 8.0, 1.0]
    assert len(_chosen(keys, 6, 10.0, False)) == 6
    assert len(_chosen([], 6, 10.0, True)) == 0


def test_upright_a_place_and_size_count_once() -> None:
    keys = [Key((3, 3), 2, 5.0), Key((3, 3), 2, 5.0), Key((3, 3), 4, 5.0), Key((4, 3), 2, 5.0)]
    assert _chosen(keys, 9, 10.0, True).tolist() == [0, 2, 3]
    assert _chosen(keys, 9, 10.0, False).tolist() == [0, 1, 2, 3]


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99), st.integers(0, 20)), max_size=60), st.integers(1, 70))
def test_as_a_loop_chooses(told: list[tuple[int, int, int]], most: int) -> None:
    keys = [Key((x, y), 1, response) for x, y, response in told]
    waiting, chosen = sorted(range(len(keys)), key=lambda row: -keys[row].response), []
    while waiting:
        first = {}
        for row in waiting:
            first.setdefault((keys[row].pt[0] // 25, keys[row].pt[1] // 25), row)
        chosen += sorted(first.values(), key=lambda row: -keys[row].response)
        waiting = [row for row in waiting if row not in first.values()]
    found = _chosen(keys, most, 25.0, False)
    assert len(found) == min(most, len(keys)) == len(set(found.tolist()))
    wanted = [keys[row].response for row in chosen[:most]]
    assert sorted(keys[row].response for row in found) == sorted(wanted)
    if len(keys) > most:
        assert [keys[row].response for row in found] == wanted
    assert found.dtype == np.intp
