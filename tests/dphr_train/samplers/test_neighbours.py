import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dphr_infer.errors import DatasetError
from dphr_train.samplers.neighbours import most_similar, nearest_places
from dphr_train.types import Positions


def degrees(*rows):
    return Positions("degrees", np.array(rows, float))


def metres(*rows):
    return Positions("metres", np.array(rows, float))


def haversine(a, b):
    """Great-circle distance on the unit sphere, as the textbook has it."""
    (phi, lam), (other_phi, other_lam) = (tuple(map(math.radians, point)) for point in (a, b))
    half = math.sin((other_phi - phi) / 2) ** 2
    half += math.cos(phi) * math.cos(other_phi) * math.sin((other_lam - lam) / 2) ** 2
    return 2 * math.asin(math.sqrt(half))


def test_near_a_pole_longitude_counts_less_than_latitude():
    # At 80 degrees a degree of longitude is a sixth of one of latitude: place 1 (1 degree east) beats place 2.
    assert nearest_places(degrees((80.0, 0.0), (80.0, 1.0), (80.5, 0.0)), 2)[0].tolist() == [1, 2]


def test_the_date_line_is_no_border():
    lists = nearest_places(degrees((0.0, 179.9), (0.0, 179.0), (0.0, -179.9)), 2)
    assert lists[0].tolist() == [2, 1]


def test_neighbours_in_the_plane_by_hand_with_ties_to_the_lower_number():
    positions = metres((0.0, 0.0), (0.0, 3.0), (4.0, 0.0), (0.0, -3.0))
    assert nearest_places(positions, 3).tolist() == [[1, 3, 2], [0, 2, 3], [0, 1, 3], [0, 2, 1]]
    assert nearest_places(positions, 2)[0].tolist() == [1, 3]


def test_places_at_the_same_spot_are_neighbours_and_never_their_own():
    lists = nearest_places(metres(*[(1.0, 1.0)] * 5), 2)
    assert lists.shape == (5, 2)
    assert all(place not in row and len(set(row)) == 2 for place, row in enumerate(lists.tolist()))


@given(st.integers(2, 30), st.integers(1, 40), st.integers(0, 5))
def test_neighbours_in_metres_are_really_the_nearest(n, count, seed):
    points = np.random.default_rng(seed).uniform(0, 100, (n, 2))
    lists = nearest_places(Positions("metres", points), count)
    assert lists.shape == (n, min(count, n - 1))
    for place, row in enumerate(lists):
        distances = sorted((math.dist(points[place], points[o]), o) for o in range(n) if o != place)
        assert row.tolist() == [other for _, other in distances[: len(row)]]


@given(st.integers(2, 30), st.integers(1, 40), st.integers(0, 5))
def test_neighbours_in_degrees_are_really_the_nearest_by_haversine(n, count, seed):
    random = np.random.default_rng(seed)
    points = np.stack([random.uniform(-89, 89, n), random.uniform(-180, 180, n)], axis=1)
    lists = nearest_places(Positions("degrees", points), count)
    for place, row in enumerate(lists):
        distances = sorted((haversine(points[place], points[o]), o) for o in range(n) if o != place)
        assert row.tolist() == [other for _, other in distances[: len(row)]]


@given(st.integers(2, 25), st.integers(1, 30), st.integers(0, 5))
def test_the_most_similar_are_those_of_a_plain_sort_without_the_place_itself(n, count, seed):
    random = np.random.default_rng(seed)
    queries, references = random.standard_normal((2, n, 6)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    references /= np.linalg.norm(references, axis=1, keepdims=True)
    lists = most_similar(queries, references, count)
    for place in range(n):
        order = np.argsort(-(references @ queries[place]), kind="stable")
        assert lists[place].tolist() == [other for other in order.tolist() if other != place][:count]


def test_a_place_without_coordinates_is_refused():
    with pytest.raises(DatasetError, match=r"3 places, 1 of them without"):
        nearest_places(degrees((1.0, 0.0), (2.0, 0.0), (np.nan, 0.0)), 2)
