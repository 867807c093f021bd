"""A place must not be recognisable by anything but what stands there: not by tint, not by file size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dphr_infer.images.preprocess import read_image
from dphr_train.cities.config import CitiesConfig
from dphr_train.cities.university import write_university1652

PLACES = 24
# Chance is 1 / 24. Roofs and lawns really have the same colours in both views, so a little more is honest: two to
# three times chance was measured when this bound was chosen, ten times and more with a tint that both views share.
FEW_TIMES_CHANCE = 5 / PLACES

Pictures = NDArray[np.uint8]


class Pair:
    """Satellite pictures (P, h, w, 3) by place, drone pictures (Q, h, w, 3) and the place of each, file sizes."""

    def __init__(self, root: Path) -> None:
        tiles, photos = (sorted(root.glob(f"test/{kind}/*/*")) for kind in ("gallery_satellite", "query_drone"))
        self.satellite, self.drone = (np.stack([read_image(path) for path in paths]) for paths in (tiles, photos))
        ids = [path.parent.name for path in tiles]
        self.place = np.array([ids.index(path.parent.name) for path in photos])
        self.satellite_bytes, self.drone_bytes = (
            np.array([[path.stat().st_size] for path in paths], float) for paths in (tiles, photos)
        )


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    root = tmp_path_factory.mktemp("shortcuts")
    config = CitiesConfig(
        train_cities=1, train_places=1, test_places=PLACES, distractors=0, train_views=1, test_views=2,
        image_px=96, supersampling=1, city_m=1100,
    )  # fmt: skip
    write_university1652(config, root)
    return Pair(root)


def recall_at_1(gallery: NDArray[np.float64], queries: NDArray[np.float64], place: NDArray[np.int64]) -> float:
    """Share of queries whose nearest gallery row is their place; each side standardised on its own."""
    gallery, queries = ((x - x.mean(axis=0)) / (x.std(axis=0) + 1e-6) for x in (gallery, queries))
    distance = ((queries[:, None] - gallery[None]) ** 2).sum(axis=2)
    return float((distance.argmin(axis=1) == place).mean())


def mean_colour(pictures: Pictures) -> NDArray[np.float64]:
    return pictures.reshape(len(pictures), -1, 3).mean(axis=1)


def histogram(pictures: Pictures) -> NDArray[np.float64]:
    """Square roots of the shares of 6 x 6 x 6 colours."""
    bins = (pictures.astype(np.int64) * 6) // 256
    codes = (bins[..., 0] * 36 + bins[..., 1] * 6 + bins[..., 2]).reshape(len(pictures), -1)
    return np.sqrt(np.stack([np.bincount(row, minlength=216) for row in codes]))


def test_the_pictures_are_all_there(pair: Pair) -> None:
    assert (len(pair.satellite), len(pair.drone)) == (PLACES, 2 * PLACES)


def test_mean_colour_does_not_tell_the_place(pair: Pair) -> None:
    assert recall_at_1(mean_colour(pair.satellite), mean_colour(pair.drone), pair.place) < FEW_TIMES_CHANCE


def test_colour_histogram_does_not_tell_the_place(pair: Pair) -> None:
    assert recall_at_1(histogram(pair.satellite), histogram(pair.drone), pair.place) < FEW_TIMES_CHANCE


def test_file_size_does_not_tell_the_place(pair: Pair) -> None:
    assert recall_at_1(pair.satellite_bytes, pair.drone_bytes, pair.place) < FEW_TIMES_CHANCE


def test_the_guard_would_notice_light_that_both_views_share(pair: Pair) -> None:
    """With a tint per place, as one acquisition for both views would give, the bound is broken."""
    tint = np.random.default_rng(0).uniform(0.5, 1.5, (PLACES, 1, 1, 3))
    satellite = np.clip(pair.satellite * tint, 0, 255).astype(np.uint8)
    drone = np.clip(pair.drone * tint[pair.place], 0, 255).astype(np.uint8)
    assert recall_at_1(mean_colour(satellite), mean_colour(drone), pair.place) > 1.5 * FEW_TIMES_CHANCE
    assert recall_at_1(histogram(satellite), histogram(drone), pair.place) > 1.5 * FEW_TIMES_CHANCE
