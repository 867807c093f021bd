import math

import pytest

from dphr_infer.errors import ConfigError
from dphr_infer.locate.search_options import Prior, prior_of
from dphr_infer.types import GeoPoint

HERE = GeoPoint(46.9, 9.0)


def test_a_prior_is_a_place_with_a_radius_or_none() -> None:
    assert prior_of(None, None) is None
    assert prior_of(HERE, 250.0) == Prior(HERE, 250.0)


@pytest.mark.parametrize(("near", "within_m"), [(HERE, None), (None, 250.0)])
def test_one_without_the_other_is_refused(near: GeoPoint | None, within_m: float | None) -> None:
    with pytest.raises(ConfigError, match="--near and --within belong together"):
        prior_of(near, within_m)


@pytest.mark.parametrize("within_m", [0.0, -1.0, math.inf, math.nan])
def test_a_radius_that_is_none_is_refused(within_m: float) -> None:
    with pytest.raises(ConfigError, match=f"--within is {within_m:g} m; a radius above 0 and finite is needed"):
        prior_of(HERE, within_m)
