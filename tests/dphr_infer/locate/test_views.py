"""One line where a photo reaches the encoder in another way than those that it was trained on."""

from __future__ import annotations

import dataclasses
import re

import pytest
from town_site import PHOTOS, TILE_M

from dphr_infer.errors import BundleError
from dphr_infer.files.gallery import open_gallery
from dphr_infer.images.photo import read_photo
from dphr_infer.images.preprocess import Preprocess
from dphr_infer.locate.open import open_localizer
from dphr_infer.locate.settings import CameraSettings, LocateSettings
from dphr_infer.locate.views import Views


@pytest.fixture
def photo(town_site):
    return read_photo(town_site.folder / "photos" / next(iter(PHOTOS)))


@pytest.mark.parametrize(
    ("trained", "rectify", "attitude", "said"),
    [
        (True, "auto", True, None),
        (True, "auto", False, "was trained on rectified photos, but .* its attitude is not known, for want of height,"),
        (True, "off", True, "was trained on rectified photos, but .* `rectify` is off"),
        (False, "auto", True, "was trained on photos as they are, but .* is rectified.*`rectify` off takes"),
        (False, "auto", False, None),
        (False, "off", True, None),
        (None, "auto", True, None),
        (None, "off", True, None),
    ],
)
def test_a_photo_unlike_those_of_training_is_said_once(photo, caplog, trained, rectify, attitude, said) -> None:
    views = Views(LocateSettings(), CameraSettings(rectify), Preprocess(32, 32), TILE_M, trained)
    taken = photo if attitude else dataclasses.replace(photo, metadata=type(photo.metadata)())
    for _ in range(2):
        views.images(taken)
    assert len(caplog.records) == (said is not None)
    if said is not None:
        assert re.search(said, caplog.text)


def test_a_bundle_that_was_trained_on_photos_as_they_are_says_so(bundle, town_site, photo, caplog) -> None:
    stated = dataclasses.replace(bundle.manifest, origin={"training_rectify": "off"})
    trained_so = dataclasses.replace(bundle, manifest=stated)
    with open_localizer(trained_so, open_gallery(town_site.folder / "g"), threads=1) as localizer:
        localizer.locate(photo)
    assert "photos as they are, but" in caplog.text


@pytest.mark.parametrize(
    ("origin", "rectified", "tile_m"),
    [
        ({}, None, None),
        ({"training_rectify": "off"}, False, None),
        ({"training_rectify": "auto", "training_tile_m": "160"}, True, 160.0),
        ({"training_rectify": "all", "training_tile_m": "62.5"}, True, 62.5),
    ],
)
def test_the_origin_says_how_photos_reached_training(bundle, origin, rectified, tile_m) -> None:
    manifest = dataclasses.replace(bundle.manifest, origin=origin)
    assert (manifest.trained_rectified, manifest.trained_tile_m) == (rectified, tile_m)


@pytest.mark.parametrize("text", ["", "-5", "nan", "1e400", "wide"])
def test_a_tile_that_is_no_length_is_refused(bundle, text) -> None:
    origin = {"training_rectify": "all", "training_tile_m": text}
    with pytest.raises(BundleError, match=r"training_tile_m is .*not a length in metres"):
        dataclasses.replace(bundle.manifest, origin=origin).trained_tile_m  # noqa: B018
