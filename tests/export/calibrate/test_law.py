from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import lomax

from dphr_infer.errors import ExportError
from dphr_infer.flight.settings import FilterSettings
from export.calibrate.law import RankLaw, fit_law


def log_likelihood(shape: float, scale: float, areas: np.ndarray) -> float:
    """Mean of log f, one rank after the other."""
    total = 0.0
    for area in areas:
        total += math.log(shape / scale * (1 + area / scale) ** -(shape + 1))
    return total / len(areas)


@pytest.mark.parametrize(("shape", "scale"), [(2.1, 0.295), (1.6, 0.11), (5.5, 0.85)])
def test_the_law_of_a_sample_is_found_again(shape: float, scale: float) -> None:
    areas = lomax.rvs(shape, scale=scale, size=4000, random_state=3)
    found = fit_law(areas)
    assert found.shape == pytest.approx(shape, rel=0.25) and found.scale == pytest.approx(scale, rel=0.3)
    assert found.mean_log_density(areas) == pytest.approx(log_likelihood(found.shape, found.scale, areas), rel=1e-9)
    # No law nearby and no other of a coarse grid is likelier, nor is the one that made the sample.
    tried = [(found.shape * a, found.scale * b) for a in (0.97, 1, 1.03) for b in (0.97, 1, 1.03)]
    tried += [(shape, scale), *((k, theta) for k in (0.5, 1, 2, 4, 8) for theta in (0.01, 0.1, 1, 10))]
    assert max(log_likelihood(k, theta, areas) for k, theta in tried) <= found.mean_log_density(areas) + 1e-9


def test_it_is_the_law_that_the_filter_weighs_by() -> None:
    law, areas = RankLaw(1.7, 0.4), np.array([0.03, 0.5, 4.0])
    settings = FilterSettings(rank_shape=1.7, rank_scale=0.4, outlier_share=1e-12)
    density = settings.rank_gain(areas, 1.0)
    assert np.log(density).mean() == pytest.approx(law.mean_log_density(areas), rel=1e-9)
    assert density == pytest.approx(lomax.pdf(areas, 1.7, scale=0.4))


def test_ranks_that_fall_off_faster_end_at_the_largest_scale() -> None:
    found = fit_law(np.full(50, 0.03125))
    assert found.scale == pytest.approx(100.0, rel=1e-3)
    assert found.scale / found.shape == pytest.approx(0.03125, rel=1e-3)  # an exponential law with that mean


@pytest.mark.parametrize("areas", [np.full(19, 0.1), np.r_[np.full(30, 0.1), 0.0], np.r_[np.full(30, 0.1), np.nan]])
def test_too_few_or_no_ranks_are_refused(areas: np.ndarray) -> None:
    with pytest.raises(ExportError, match=rf"fitted to {len(areas)} frames; at least 20 are needed, each with a rank"):
        fit_law(areas)
