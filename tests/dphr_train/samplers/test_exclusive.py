import pytest
from hypothesis import given
from hypothesis import strategies as st

from dphr_infer.errors import TrainingError
from dphr_train.samplers.exclusive import exclusive_batches

place_lists = st.lists(st.integers(0, 12), min_size=4, max_size=120).filter(lambda ids: len(set(ids)) >= 4)


@given(place_lists, st.integers(2, 4), st.integers(0, 3), st.integers(0, 3))
def test_no_place_twice_in_a_batch_and_no_pair_twice_in_an_epoch(places, batch_size, seed, epoch):
    batches = exclusive_batches(places, batch_size, seed, epoch)
    pairs = [pair for batch in batches for pair in batch]
    assert len(pairs) == len(set(pairs))
    assert all(len(batch) == len({places[pair] for pair in batch}) == batch_size for batch in batches)
    assert batches == exclusive_batches(places, batch_size, seed, epoch)


def test_balanced_places_lose_less_than_a_few_batches():
    places = [place for place in range(60) for _ in range(8)]
    assert len(exclusive_batches(places, 16, 0, 0)) >= 27  # 30 would use every pair


def test_epochs_differ():
    places = list(range(20))
    assert exclusive_batches(places, 4, 0, 0) != exclusive_batches(places, 4, 0, 1)


def test_fewer_places_than_a_batch_is_refused_with_both_numbers():
    with pytest.raises(TrainingError, match=r"3 places but a batch needs 4"):
        exclusive_batches([1, 2, 3, 3], 4, 0, 0)
