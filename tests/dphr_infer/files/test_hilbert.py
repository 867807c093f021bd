import numpy as np
import pytest

from dphr_infer.files.hilbert import ORDER, hilbert_distance, hilbert_order


def _walk(order: int) -> list[tuple[int, int]]:
    """The curve's beginning, through the square of 2**order cells a side that it fills first."""
    y, x = (axis.ravel() for axis in np.indices((1 << order, 1 << order)))
    distance = hilbert_distance(x, y)
    along = np.argsort(distance)
    assert distance[along].tolist() == list(range(4**order))
    return list(zip(x[along].tolist(), y[along].tolist(), strict=True))


def test_the_curve_through_four_cells_goes_right_up_left() -> None:
    assert _walk(1) == [(0, 0), (1, 0), (1, 1), (0, 1)]


def test_the_whole_curve_ends_at_the_far_corner_of_its_first_row() -> None:
    most = (1 << ORDER) - 1
    assert hilbert_distance(np.array([most]), np.array([0])).tolist() == [4**ORDER - 1]


def test_the_curve_through_sixteen_cells_is_the_one_drawn_by_hand() -> None:
    lower_left, upper_left = [(0, 0), (1, 0), (1, 1), (0, 1)], [(0, 2), (0, 3), (1, 3), (1, 2)]
    upper_right, lower_right = [(2, 2), (2, 3), (3, 3), (3, 2)], [(3, 1), (2, 1), (2, 0), (3, 0)]
    assert _walk(2) == lower_left + upper_left + upper_right + lower_right


@pytest.mark.parametrize("order", [3, 5])
def test_each_step_of_the_curve_goes_to_a_neighbour_and_visits_each_cell_once(order: int) -> None:
    walk = np.array(_walk(order))
    assert len({tuple(cell) for cell in walk.tolist()}) == 4**order
    assert (np.abs(np.diff(walk, axis=0)).sum(axis=1) == 1).all()


def test_order_puts_points_at_corners_along_the_curve_and_keeps_equal_points_in_sequence() -> None:
    east = np.array([10.0, 0.0, 10.0, 0.0, 0.0])
    north = np.array([0.0, 10.0, 10.0, 0.0, 0.0])
    assert hilbert_order(east, north).tolist() == [3, 4, 1, 2, 0]


def test_order_takes_a_single_point() -> None:
    assert hilbert_order(np.array([3.0]), np.array([4.0])).tolist() == [0]
