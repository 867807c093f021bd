from __future__ import annotations

import numpy as np
import pytest

from dphr_train.cities.noise import fractal_noise, random01, value_noise


def test_value_noise_at_a_grid_corner_is_the_random_number_of_that_corner() -> None:
    assert value_noise(3.0, -2.0, 7) == random01(3, -2, 7)


def test_value_noise_half_way_is_the_mean_of_four_corners() -> None:
    corners = [random01(i, j, 7) for i in (3, 4) for j in (-2, -1)]
    assert value_noise(3.5, -1.5, 7) == pytest.approx(sum(corners) / 4)


def test_random01_fills_the_unit_interval_evenly() -> None:
    drawn = np.array([random01(i, j, 1) for i in range(100) for j in range(100)])
    assert 0 <= drawn.min() < 0.01
    assert 0.99 < drawn.max() < 1
    assert abs(drawn.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.05


def test_noise_is_pinned_so_that_a_seed_means_the_same_city_everywhere() -> None:
    assert random01(1, 2, 3) == pytest.approx(PINNED_RANDOM, abs=1e-12)
    assert fractal_noise(1.25, -2.5, 3) == pytest.approx(PINNED_NOISE, abs=1e-12)


PINNED_RANDOM = 0.4063184857368469
PINNED_NOISE = 0.49157953684043604
