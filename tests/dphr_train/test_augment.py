import hashlib
import platform

import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dphr_infer.errors import ConfigError
from dphr_train.augment import augment_pair, require_fitting
from dphr_train.config import AugmentConfig, DataConfig
from dphr_train.datasets.pairs import BatchPlan, PairDataset, open_loader
from dphr_train.datasets.university1652 import University1652
from dphr_train.samplers.exclusive import exclusive_batches
from dphr_train.types import TrainSplit

OFF = {"jpeg": 0, "colour_jitter": 0, "blur_or_sharpen": 0, "dropout": 0, "flip": 0, "rotate_satellite": False}
NOTHING = AugmentConfig(**OFF)
EVERYTHING = AugmentConfig(jpeg=1, colour_jitter=1, blur_or_sharpen=1, dropout=1, flip=1, zoom=0.3)
EVERYTHING_GROUND = AugmentConfig(
    jpeg=1, colour_jitter=1, blur_or_sharpen=1, dropout=1, flip=0.5, rotate_satellite=False, rotate_pair=0.75
)

NORTH, EAST, SOUTH, WEST = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)


def images():
    random = np.random.default_rng(0)
    return random.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)


def patchwork(seed, px):
    """uint8 (px, px, 3): 8 x 8 coloured fields with noise, so that every filter finds flat parts and edges."""
    random = np.random.default_rng(seed)
    fields = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    noise = random.integers(0, 40, (px, px, 3), dtype=np.uint8)
    rows = np.arange(px) * 8 // px
    return fields[rows][:, rows] // 2 + noise


def scene():
    """A place with north up: the satellite view's four edges, and the panorama S | W | N | E | S of 16 columns."""
    satellite = np.zeros((16, 16, 3), np.uint8)
    satellite[0, 1:-1], satellite[-1, 1:-1], satellite[1:-1, -1], satellite[1:-1, 0] = NORTH, SOUTH, EAST, WEST
    columns = [SOUTH] * 2 + [WEST] * 4 + [NORTH] * 4 + [EAST] * 4 + [SOUTH] * 2
    return np.tile(np.array(columns, np.uint8), (4, 1, 1)), satellite


def directions(panorama, satellite):
    """Colours at the panorama's back, left, centre and right; and at the satellite view's bottom, left, top, right."""
    of_panorama = [tuple(panorama[1, column].tolist()) for column in (0, 4, 8, 12)]
    of_satellite = [tuple(satellite[at].tolist()) for at in ((-1, 8), (8, 0), (0, 8), (8, -1))]
    return of_panorama, of_satellite


def test_everything_off_changes_nothing():
    drone, satellite = images()
    out = augment_pair(drone, satellite, NOTHING, np.random.default_rng(1))
    assert np.array_equal(out[0], drone) and np.array_equal(out[1], satellite)


def test_the_flip_mirrors_both_views_together():
    drone, satellite = images()
    out = augment_pair(drone, satellite, AugmentConfig(**{**OFF, "flip": 1}), np.random.default_rng(1))
    assert np.array_equal(out[0], drone[:, ::-1]) and np.array_equal(out[1], satellite[:, ::-1])


def test_only_the_satellite_view_is_turned_by_rotate_satellite():
    query, satellite = images()
    config = AugmentConfig(**{**OFF, "rotate_satellite": True})
    turned = set()
    for seed in range(40):
        out = augment_pair(query, satellite, config, np.random.default_rng(seed))
        assert np.array_equal(out[0], query)
        turned |= {k for k in range(4) if np.array_equal(out[1], np.rot90(satellite, k))}
    assert turned == {0, 1, 2, 3}


def test_the_same_generator_gives_the_same_pixels_and_another_does_not():
    drone, satellite = images()
    one, two, other = (augment_pair(drone, satellite, EVERYTHING, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert np.array_equal(one[0], two[0]) and np.array_equal(one[1], two[1])
    assert not np.array_equal(one[0], other[0])


_filters_of_pillow_13 = pytest.mark.skipif(
    PIL.__version__.split(".")[0] != "13" or platform.machine() != "x86_64",
    reason="Pillow's filters and its JPEG encoder round otherwise in other releases and on other processors",
)


@pytest.mark.parametrize(
    ("config", "px", "digest"),
    [
        (AugmentConfig(**{**OFF, "dropout": 1, "rotate_satellite": True}), 64, "e1fdfa1955d0ec56"),
        (AugmentConfig(**{**OFF, "dropout": 1, "rotate_satellite": True}), 129, "bf7521b63ab8fd2c"),
        pytest.param(AugmentConfig(), 64, "b7cffea7cb9a4f80", marks=_filters_of_pillow_13),
        pytest.param(AugmentConfig(), 129, "9698ed48afa9ccab", marks=_filters_of_pillow_13),
        pytest.param(EVERYTHING, 64, "c438ea4417bdc07f", marks=_filters_of_pillow_13),
        pytest.param(EVERYTHING, 129, "65c42626bfa204bd", marks=_filters_of_pillow_13),
        pytest.param(
            AugmentConfig(jpeg=0.5, zoom=0.2, rotate_satellite=False),
            64,
            "1041b6aa1f333e1d",
            marks=_filters_of_pillow_13,
        ),
    ],
)
def test_drone_pairs_keep_the_pixels_of_earlier_runs(config, px, digest):
    """A run made again after an update sees the same pixels: pinned from the release before panoramas came."""
    found = hashlib.sha256()
    for seed in range(12):
        pair = patchwork(2 * seed, px), patchwork(2 * seed + 1, px)
        for out in augment_pair(*pair, config, np.random.default_rng(seed)):
            found.update(out.tobytes())
    assert found.hexdigest()[:16] == digest


def test_a_rotated_pair_still_faces_one_way_and_takes_each_quarter():
    config = AugmentConfig(**{**OFF, "rotate_pair": 1})
    tops = set()
    for seed in range(30):
        of_panorama, of_satellite = directions(*augment_pair(*scene(), config, np.random.default_rng(seed), "ground"))
        assert of_panorama == of_satellite
        tops.add(of_panorama[2])
    assert tops == {EAST, SOUTH, WEST}  # north at the top would be no rotation


def test_a_mirrored_pair_still_faces_one_way_turned_or_not():
    for rotate in (0, 1):
        config = AugmentConfig(**{**OFF, "flip": 1, "rotate_pair": rotate})
        for seed in range(20):
            # Column 8 of 16 lies right of the axis; fields of four columns hide that the mirror moves it to 7.
            of_panorama, of_satellite = directions(
                *augment_pair(*scene(), config, np.random.default_rng(seed), "ground")
            )
            assert of_panorama == of_satellite
            if not rotate:
                assert of_panorama == [SOUTH, EAST, NORTH, WEST]


def test_rotate_pair_is_drawn_as_often_as_asked():
    config = AugmentConfig(**{**OFF, "rotate_pair": 0.75})
    panorama, satellite = scene()
    kept = sum(
        np.array_equal(augment_pair(panorama, satellite, config, np.random.default_rng(seed), "ground")[1], satellite)
        for seed in range(400)
    )
    assert 70 < kept < 130  # 100 expected, 8.7 the standard deviation


def test_the_grid_blackens_more_of_a_panorama_than_of_a_satellite_view():
    """0.5 of a cell's side against 0.4: a quarter of the pixels against 0.16, less what flooring the hole takes."""
    white = np.full((160, 160, 3), 255, np.uint8)
    config = AugmentConfig(**{**OFF, "dropout": 1})
    shares = {"drone": [], "ground": []}
    for view, found in shares.items():
        for seed in range(200):
            query, _ = augment_pair(white, white, config, np.random.default_rng(seed), view)
            rows, columns = (query == 0).all(axis=2).any(axis=1), (query == 0).all(axis=2).any(axis=0)
            if np.array_equal((query == 0).all(axis=2), rows[:, None] & columns[None, :]):  # a grid, no loose holes
                found.append((query == 0).mean())
    assert len(shares["drone"]) > 50 and len(shares["ground"]) > 50
    assert 0.12 < np.mean(shares["drone"]) < 0.17 < 0.21 < np.mean(shares["ground"]) < 0.26


@given(
    query_size=st.tuples(st.integers(16, 70), st.integers(16, 200)),
    reference_px=st.integers(16, 70),
    seed=st.integers(0, 2**32),
    view=st.sampled_from(["drone", "ground"]),
)
@settings(max_examples=150, deadline=None)
def test_shapes_and_type_survive_and_the_arguments_are_left_alone(query_size, reference_px, seed, view):
    random = np.random.default_rng(seed)
    query_shape = (*query_size, 3) if view == "ground" else (query_size[0], query_size[0], 3)
    query = random.integers(0, 256, query_shape, dtype=np.uint8)
    reference = random.integers(0, 256, (reference_px, reference_px, 3), dtype=np.uint8)
    copies = query.copy(), reference.copy()
    config = EVERYTHING if view == "drone" else EVERYTHING_GROUND
    out = augment_pair(query, reference, config, random, view)
    for given_image, copy, result in zip((query, reference), copies, out, strict=True):
        assert np.array_equal(given_image, copy)
        assert result.shape == copy.shape and result.dtype == np.uint8 and result.flags.c_contiguous
        assert not np.shares_memory(result, given_image)


@pytest.mark.parametrize(
    ("config", "view", "named"),
    [
        (AugmentConfig(rotate_pair=0.75), "drone", "augment.rotate-pair is 0.75"),
        (AugmentConfig(zoom=0.2, rotate_satellite=False), "ground", "augment.zoom is 0.2"),
        (AugmentConfig(), "ground", "augment.no-rotate-satellite"),
    ],
)
def test_a_setting_that_does_not_fit_the_query_view_is_refused(config, view, named):
    with pytest.raises(ConfigError, match=named):
        require_fitting(config, view)
    with pytest.raises(ConfigError, match=named):
        augment_pair(*images(), config, np.random.default_rng(0), view)


@pytest.mark.parametrize("view", ["drone", "ground"])
def test_worker_processes_give_the_pixels_of_the_main_process(tiny_root, view):
    split = TrainSplit(University1652(tiny_root).train_split().pairs, view)
    data = DataConfig("cvusa", tiny_root, 32, (16, 48)) if view == "ground" else DataConfig(root=tiny_root, image_px=32)
    config = EVERYTHING if view == "drone" else EVERYTHING_GROUND
    found = []
    for workers in (0, 2):
        plan = BatchPlan()
        loader = open_loader(PairDataset(split, data, config, seed=3), plan, workers)
        batches = []
        for epoch in (0, 1):
            plan.set(epoch, exclusive_batches([pair.place_id for pair in split.pairs], 4, 3, epoch))
            batches += list(loader)
        found.append(batches)
    assert len(found[0]) == len(found[1]) >= 6
    for alone, helped in zip(*found, strict=True):
        assert all(np.array_equal(one, two) for one, two in zip(alone, helped, strict=True))
