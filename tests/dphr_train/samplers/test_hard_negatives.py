from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dphr_infer.errors import ConfigError, TrainingError
from dphr_train.config import SamplerConfig
from dphr_train.samplers.hard_negatives import HardSampler, hard_batches
from dphr_train.samplers.neighbours import nearest_places
from dphr_train.samplers.open import open_sampler
from dphr_train.types import Positions, TrainPair, TrainSplit


def line(n):
    return Positions("metres", np.stack([np.arange(n, dtype=float), np.zeros(n)], axis=1))


def split_of(places, positions=None):
    return TrainSplit(
        [TrainPair(Path(f"q{i}"), Path("r"), place) for i, place in enumerate(places)], "ground", positions
    )


def one_pair_each(n):
    return [[number] for number in range(n)]


@given(st.integers(8, 120), st.integers(2, 8), st.integers(0, 6))
def test_a_place_with_one_pair_comes_once_an_epoch(n, batch_size, seed):
    lists = nearest_places(line(n), 16)
    batches = hard_batches(one_pair_each(n), lists, batch_size, 6, np.random.default_rng(seed))
    places = [place for batch in batches for place in batch]
    assert len(places) == len(set(places))
    assert all(len(batch) == batch_size for batch in batches)
    assert len(batches) == n // batch_size  # below 1,024 places nothing stops the epoch early


@given(st.lists(st.integers(1, 4), min_size=6, max_size=40), st.integers(2, 6), st.integers(0, 4))
def test_a_satellite_with_several_panoramas_comes_once_a_batch_and_each_panorama_once_an_epoch(sizes, batch_size, seed):
    first = np.cumsum([0, *sizes])
    pairs_of_place = [list(range(first[i], first[i + 1])) for i in range(len(sizes))]
    place_of = np.repeat(np.arange(len(sizes)), sizes)
    lists = nearest_places(line(len(sizes)), 8)
    batches = hard_batches(pairs_of_place, lists, batch_size, 4, np.random.default_rng(seed))
    pairs = [pair for batch in batches for pair in batch]
    assert len(pairs) == len(set(pairs))
    assert all(len({place_of[pair] for pair in batch}) == len(batch) == batch_size for batch in batches)


def test_another_epoch_takes_other_panoramas_first():
    sampler = HardSampler(
        split_of([0, 0, 0, 1, 1, 1, 2, 2, 2], line(3)), SamplerConfig("hard", select=2, range=2), 3, 7
    )
    firsts = {tuple(sorted(sampler.batches(epoch)[0])) for epoch in range(8)}
    assert len(firsts) > 3


def test_the_first_place_brings_its_nearest_half_and_draws_the_rest_from_its_range():
    lists = nearest_places(line(400), 32)
    for seed in range(20):
        first = hard_batches(one_pair_each(400), lists, 9, 8, np.random.default_rng(seed))[0]
        place, near, far = first[0], first[1:5], first[5:]
        assert near == lists[place, :4].tolist()
        assert set(far) <= set(lists[place, 4:].tolist()) and len(set(far)) == 4


def test_hard_batches_hold_nearer_places_than_random_ones():
    lists = nearest_places(line(600), 64)
    batches = hard_batches(one_pair_each(600), lists, 20, 32, np.random.default_rng(0))
    assert np.median([np.std(batch) for batch in batches]) < 60  # random batches of 20 of 600 spread over about 173


def test_an_epoch_ends_after_1024_pairs_in_a_row_that_cannot_be_taken():
    # Place 0 has 3,000 pairs, two more places have one: after one batch of 3 only pairs of place 0 are left.
    pairs_of_place = [list(range(3000)), [3000], [3001]]
    assert len(hard_batches(pairs_of_place, nearest_places(line(3), 2), 3, 2, np.random.default_rng(0))) == 1


def test_batches_are_determined_by_seed_and_epoch():
    places = [3, 9, 3, 4, 7, 9]
    one, two, other = (
        HardSampler(split_of(places, line(4)), SamplerConfig("hard", select=2, range=3), 2, s) for s in (1, 1, 2)
    )
    assert [one.batches(e) for e in range(5)] == [two.batches(e) for e in range(5)]
    assert [one.batches(e) for e in range(5)] != [other.batches(e) for e in range(5)]


def test_without_positions_the_first_epochs_are_exclusive_and_lists_can_be_set_later():
    sampler = HardSampler(split_of([0, 1, 2, 3]), SamplerConfig("hard", start="random", select=2, range=2), 2, 0)
    assert sampler.neighbours is None
    assert sorted(pair for batch in sampler.batches(0) for pair in batch) == [0, 1, 2, 3]
    sampler.neighbours = np.array([[1], [0], [3], [2]])
    assert {frozenset(batch) for batch in sampler.batches(1)} == {frozenset({0, 1}), frozenset({2, 3})}


def test_lists_are_refreshed_every_fourth_epoch_but_never_before_the_first():
    sampler = HardSampler(split_of([0, 1], line(2)), SamplerConfig("hard", refresh_epochs=4), 2, 0)
    assert [epoch for epoch in range(13) if sampler.wants_refresh(epoch)] == [4, 8, 12]
    never = HardSampler(split_of([0, 1], line(2)), SamplerConfig("hard", refresh_epochs=0), 2, 0)
    assert not any(never.wants_refresh(epoch) for epoch in range(13))


def test_gps_without_positions_is_refused_with_the_way_out():
    with pytest.raises(ConfigError, match=r"choose sampler\.start random"):
        open_sampler(SamplerConfig("hard"), split_of([0, 1]), 2, 0)


def test_fewer_places_than_a_batch_is_refused():
    with pytest.raises(TrainingError, match="5 places but a batch needs 8"):
        open_sampler(SamplerConfig("hard"), split_of(range(5), line(5)), 8, 0)
