from __future__ import annotations

import io

import numpy as np
from PIL import Image

from dphr_train.cities.sensor import expose, to_jpeg, to_png


def grey(value: float) -> np.ndarray:
    return np.full((40, 60, 3), value, np.float32)


def test_more_light_gives_a_brighter_picture() -> None:
    dark, bright = (expose(grey(v), np.random.default_rng(1), "drone") for v in (60.0, 120.0))
    assert dark.dtype == np.uint8
    assert dark.shape == (40, 60, 3)
    assert bright.mean() > dark.mean() + 30


def test_radiance_beyond_the_range_saturates_and_does_not_wrap() -> None:
    assert expose(grey(5000.0), np.random.default_rng(1), "drone").min() > 200
    assert expose(grey(-50.0), np.random.default_rng(1), "satellite").max() < 60


def test_two_exposures_differ_and_the_same_seed_repeats() -> None:
    first, again, other = (expose(grey(100.0), np.random.default_rng(seed), "drone") for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert abs(float(first.mean()) - float(other.mean())) > 0.5


def test_blur_keeps_the_light_of_a_spot_and_spreads_it() -> None:
    radiance = grey(0.0)
    radiance[20, 30] = 255.0
    picture = expose(radiance, np.random.default_rng(3), "satellite").astype(int)
    assert picture[20, 31].mean() > picture[5, 5].mean() + 10


def test_files_decode_to_the_picture() -> None:
    picture = expose(grey(100.0), np.random.default_rng(1), "drone")
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(to_png(picture)))), picture)
    jpeg = np.asarray(Image.open(io.BytesIO(to_jpeg(picture, np.random.default_rng(0)))), np.int16)
    assert np.abs(jpeg - picture).mean() < 4
