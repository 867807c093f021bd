import numpy as np
import pytest

from dphr_train.augment import augment_pair
from dphr_train.config import AugmentConfig

NOTHING = AugmentConfig(jpeg=0, colour_jitter=0, blur_or_sharpen=0, dropout=0, flip=0, rotate_satellite=False)
EVERYTHING = AugmentConfig(jpeg=1, colour_jitter=1, blur_or_sharpen=1, dropout=1, flip=1, zoom=0.3)


def images():
    random = np.random.default_rng(0)
    return random.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)


def test_everything_off_changes_nothing():
    drone, satellite = images()
    out = augment_pair(drone, satellite, NOTHING, np.random.default_rng(1))
    assert np.array_equal(out[0], drone) and np.array_equal(out[1], satellite)


def test_the_flip_mirrors_both_views_together():
    drone, satellite = images()
    config = AugmentConfig(jpeg=0, colour_jitter=0, blur_or_sharpen=0, dropout=0, flip=1, rotate_satellite=False)
    out = augment_pair(drone, satellite, config, np.random.default_rng(1))
    assert np.array_equal(out[0], drone[:, ::-1]) and np.array_equal(out[1], satellite[:, ::-1])


def test_only_the_satellite_view_is_turned():
    drone, satellite = images()
    config = AugmentConfig(jpeg=0, colour_jitter=0, blur_or_sharpen=0, dropout=0, flip=0)
    turned = set()
    for seed in range(40):
        out = augment_pair(drone, satellite, config, np.random.default_rng(seed))
        assert np.array_equal(out[0], drone)
        turned |= {k for k in range(4) if np.array_equal(out[1], np.rot90(satellite, k))}
    assert turned == {0, 1, 2, 3}


def test_the_same_generator_gives_the_same_pixels_and_another_does_not():
    drone, satellite = images()
    one, two, other = (augment_pair(drone, satellite, EVERYTHING, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert np.array_equal(one[0], two[0]) and np.array_equal(one[1], two[1])
    assert not np.array_equal(one[0], other[0])


@pytest.mark.parametrize("px", [32, 50, 129])
def test_shape_and_type_survive(px):
    image = np.full((px, px, 3), 120, np.uint8)
    for seed in range(20):
        for out in augment_pair(image, image, EVERYTHING, np.random.default_rng(seed)):
            assert out.shape == (px, px, 3) and out.dtype == np.uint8


def test_the_input_is_left_alone():
    drone, satellite = images()
    copies = drone.copy(), satellite.copy()
    augment_pair(drone, satellite, EVERYTHING, np.random.default_rng(0))
    assert np.array_equal(drone, copies[0]) and np.array_equal(satellite, copies[1])
