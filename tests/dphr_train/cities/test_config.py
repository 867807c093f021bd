from __future__ import annotations

import pytest

from dphr_infer.errors import ConfigError
from dphr_train.cities.config import CitiesConfig, places_of_city


def test_a_setting_out_of_range_is_refused_with_the_value_and_its_bounds() -> None:
    with pytest.raises(ConfigError, match="train-views is 55; it has to lie between 1 and 54"):
        CitiesConfig(train_views=55)


def test_fewer_places_than_cities_are_refused() -> None:
    with pytest.raises(ConfigError, match="train-places is 2; it has to lie between 3"):
        CitiesConfig(train_cities=3, train_places=2)


def test_places_are_shared_evenly_and_the_first_cities_take_the_rest() -> None:
    config = CitiesConfig(train_cities=3, train_places=11)
    assert [places_of_city(config, index) for index in range(3)] == [4, 4, 3]


def test_training_places_without_a_city_are_refused() -> None:
    with pytest.raises(ConfigError, match="train-places is 300 but train-cities is 0"):
        CitiesConfig(train_cities=0)


def test_no_training_at_all_may_be_asked_for() -> None:
    assert CitiesConfig(train_cities=0, train_places=0).test_places == 120


def test_unknown_conditions_are_refused_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match="conditions is 'snow'; choose one of mixed, low-sun, autumn, overcast"):
        CitiesConfig(conditions="snow")  # type: ignore[arg-type]
