"""Rectified drone photos in training and evaluation: as they fly, and never in silence."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import tyro
from PIL import Image

from dphr_infer.errors import ConfigError, DatasetError, ImageError
from dphr_infer.images.attitude import attitude_of
from dphr_infer.images.photo import read_photo
from dphr_infer.images.preprocess import Preprocess
from dphr_infer.images.rectify import rectify
from dphr_infer.indexing.index import index
from dphr_infer.locate.open import open_localizer
from dphr_infer.types import CameraView, GeoPoint
from dphr_train.augment import augment_pair, jittered
from dphr_train.checkpoint import last_checkpoint
from dphr_train.cities.exif import add_flight_data
from dphr_train.cities.geotiff import write_geotiff
from dphr_train.commands import Evaluate
from dphr_train.config import AugmentConfig, DataConfig, ModelConfig, OptimConfig, Rectification, TrainConfig
from dphr_train.datasets.pairs import PairDataset
from dphr_train.datasets.reading import ViewReader
from dphr_train.datasets.university1652 import University1652
from dphr_train.encoder import Encoder
from dphr_train.trainer import Trainer
from export.build_bundle import write_selftest
from export.gate.calibration_set import calibration_images
from export.gate.evaluation_set import read_evaluation_set
from export.sources.source import from_checkpoint

BUNDLE = Path(__file__).resolve().parents[3] / "samples" / "bundle"
CAMERA = GeoPoint(47.0, 9.0)
OBLIQUE = CameraView(180.0, -50.0, 40.0, 120.0)
TILE_M = 160.0
OFF = AugmentConfig(colour_jitter=0, blur_or_sharpen=0, dropout=0, flip=0, rotate_satellite=False)


def write_jpeg(path: Path, seed: int, px: int, view: CameraView | None = None) -> None:
    fields = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(fields).resize((px, px), Image.Resampling.BICUBIC).save(out, "JPEG", quality=95)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(out.getvalue() if view is None else add_flight_data(out.getvalue(), CAMERA, view, px))


@pytest.fixture
def flown(tmp_path: Path) -> Path:
    """Four places to train on and four to test, each with two photos of known attitude, and a satellite image."""
    root = tmp_path / "flown"
    for place in range(8):
        drones, satellites = (
            (["train/drone"], ["train/satellite"])
            if place < 4
            else (
                ["test/query_drone", "test/gallery_drone"],
                ["test/query_satellite", "test/gallery_satellite"],
            )
        )
        for folder in satellites:
            write_jpeg(root / folder / f"{place:04d}/0.jpg", place, 64)
        for folder in drones:
            for number in range(2):
                view = dataclasses.replace(OBLIQUE, yaw_deg=40.0 * place + number)
                write_jpeg(root / folder / f"{place:04d}/{number}.jpg", 100 + place, 256, view)
    return root


def strip_attitude(photo: Path) -> None:
    """Write the picture again without what the drone said."""
    with Image.open(photo) as image:
        pixels = np.asarray(image)
    Image.fromarray(pixels).save(photo)


def run_config(root: Path, out: Path, **data: object) -> TrainConfig:
    return TrainConfig(
        out=out,
        data=DataConfig(root=root, image_px=32, **{"rectify": "all", "tile_m": TILE_M, **data}),
        model=ModelConfig("test_resnet", "random"),
        optim=OptimConfig(batch_size=2, steps=2),
    )


def test_a_rectified_photo_reaches_training_as_dphr_infer_embeds_it(flown: Path, tmp_path: Path) -> None:
    ground = np.random.default_rng(1).integers(0, 256, (340, 340, 3), np.uint8)
    write_geotiff(tmp_path / "map.tif", ground, CAMERA, 1.0)
    index(tmp_path / "map.tif", bundle=BUNDLE, out=tmp_path / "g", tile_m=TILE_M, stride_m=TILE_M)
    write_jpeg(flown / "train/drone/0003/large.jpg", 9, 2048, OBLIQUE)  # decoded at a quarter of its size
    data = DataConfig(root=flown, image_px=128, rectify="all", tile_m=TILE_M)
    pairs = PairDataset(University1652(flown).train_split(), data, OFF, seed=0)
    with open_localizer(BUNDLE, tmp_path / "g", threads=1) as localizer:
        for number in (0, 3, 8):
            query, _, _ = pairs[0, number]
            (flies,) = localizer.prepare(pairs.pairs[number].query)
            assert np.array_equal(query, flies)
    assert not np.array_equal(query, Preprocess(128, 128)(read_photo(pairs.pairs[8].query).rgb))


def test_satellite_images_and_photos_of_rectify_off_are_read_as_they_are(flown: Path) -> None:
    photo, tile = flown / "train/drone/0001/0.jpg", flown / "train/satellite/0001/0.jpg"
    rectifying = ViewReader("all", TILE_M, 64)
    assert np.array_equal(rectifying.read(tile, "satellite").pixels, read_photo(tile).rgb)
    assert rectifying.read(tile, "satellite").north_up and rectifying.read(photo, "drone").north_up
    as_it_is = ViewReader().read(photo, "drone")
    assert np.array_equal(as_it_is.pixels, read_photo(photo).rgb) and not as_it_is.north_up


def test_a_data_set_with_photos_without_attitude_is_refused_with_their_number(flown: Path, tmp_path: Path) -> None:
    for name in ("train/drone/0002/1.jpg", "test/query_drone/0005/0.jpg"):
        strip_attitude(flown / name)
    lacking = (
        r"2 of 24 drone photos tell no attitude to rectify them by \(the first: .*train/drone/0002/1.jpg, lacks "
        r"height, pitch, field of view, yaw\)\. Remove them, or choose `rectify` auto"
    )
    with pytest.raises(DatasetError, match=lacking):
        Trainer(run_config(flown, tmp_path / "run"))
    with pytest.raises(ImageError, match=r"0002/1.jpg tells no attitude .* lacks height"):
        ViewReader("all", TILE_M, 32).read(flown / "train/drone/0002/1.jpg", "drone")
    with pytest.raises(DatasetError, match="1 of 16 drone photos"):
        Evaluate("imagenet", flown, photos=Rectification("all", TILE_M)).run()


def test_auto_leaves_photos_without_attitude_as_they_are_and_says_how_many(
    flown: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    photo = flown / "train/drone/0002/1.jpg"
    reader = ViewReader("auto", TILE_M, 32)
    with caplog.at_level(logging.WARNING):
        reader.require_attitudes([photo])
        assert not caplog.records
        strip_attitude(photo)
        Trainer(run_config(flown, tmp_path / "run", rectify="auto"))
    assert "1 of 24 drone photos tell no attitude" in caplog.text and "left as they are" in caplog.text
    found = reader.read(photo, "drone")
    assert np.array_equal(found.pixels, read_photo(photo).rgb) and not found.north_up


def test_jitter_changes_the_attitude_before_the_photo_is_rectified(flown: Path) -> None:
    sigmas = AugmentConfig(**{**dataclasses.asdict(OFF), "pitch_sigma_deg": 2.0, "height_sigma": 0.05})
    split = University1652(flown).train_split()
    pairs = PairDataset(split, run_config(flown, flown).data, sigmas, seed=4)
    photo = read_photo(split.pairs[5].query)
    view = attitude_of(photo.metadata, {}, 256, 256, TILE_M).view
    pitch, _, _, height = np.random.default_rng([4, 1, 5]).standard_normal(4)
    other = dataclasses.replace(
        view, pitch_deg=view.pitch_deg + 2 * pitch, height_m=view.height_m * (1 + 0.05 * height)
    )
    assert np.array_equal(pairs[1, 5][0], rectify(photo.rgb, other, 32, TILE_M / 32).image)
    assert np.array_equal(pairs[1, 5][0], pairs[1, 5][0])
    assert not np.array_equal(pairs[1, 5][0], pairs[2, 5][0])


def test_jitter_has_its_spreads_and_stays_a_view() -> None:
    config = AugmentConfig(pitch_sigma_deg=3, roll_sigma_deg=2, yaw_sigma_deg=5, height_sigma=0.1)
    random = np.random.default_rng(0)
    views = [jittered(CameraView(100.0, -60.0, 40.0, 359.0), config, random) for _ in range(4000)]
    spreads = [
        np.std([view.pitch_deg for view in views]),
        np.std([view.roll_deg for view in views]),
        np.std([(view.yaw_deg - 359 + 180) % 360 for view in views]),
        np.std([view.height_m for view in views]),
    ]
    assert spreads == pytest.approx([3, 2, 5, 10], rel=0.05)
    assert {view.fov_deg for view in views} == {40.0}
    near_the_horizon = [jittered(CameraView(100.0, -26.0, 40.0), config, random).pitch_deg for _ in range(200)]
    assert max(near_the_horizon) <= -25


def test_a_query_whose_top_is_north_turns_with_its_satellite_image() -> None:
    north = np.zeros((16, 16, 3), np.uint8)
    north[0] = 255
    config = dataclasses.replace(OFF, rotate_satellite=True)
    turned = [augment_pair(north, north, config, np.random.default_rng(seed), north_up=True) for seed in range(20)]
    assert all(np.array_equal(query, reference) for query, reference in turned)
    assert len({query.tobytes() for query, _ in turned}) == 4


def test_a_run_on_rectified_photos_is_evaluated_so_and_its_bundle_says_so(
    flown: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    trained = Trainer(run_config(flown, run)).run()["evaluations"]["2"]
    for arguments, same in (([], True), (["--rectify", "off"], False), (["--tile-m", "80"], False)):
        words = [str(run), "--data", str(flown), "--out", str(tmp_path / "figures.json"), *arguments]
        tyro.cli(Evaluate, args=words).run()
        assert (json.loads((tmp_path / "figures.json").read_text()) == trained) == same
    origin = from_checkpoint(last_checkpoint(run)).origin
    assert (origin["training_rectify"], origin["training_tile_m"]) == ("all", "160")


def test_gate_calibration_and_self_test_read_photos_as_training_did(flown: Path, tmp_path: Path) -> None:
    reader, preprocess = ViewReader("auto", TILE_M, 32), Preprocess(32, 32)
    for number in range(8):  # as many as gate and calibration need
        write_jpeg(flown / f"train/drone/{number % 4:04d}/more{number}.jpg", 200 + number, 256, OBLIQUE)
        write_jpeg(flown / f"test/query_drone/{4 + number % 4:04d}/more{number}.jpg", 300 + number, 256, OBLIQUE)
    data = read_evaluation_set(flown, 100, reader=reader)
    query, tile = (preprocess(data.read(row)) for row in (3, len(data.queries)))
    assert np.array_equal(query, reader.read(data.queries[3].path, "drone").pixels)
    assert np.array_equal(tile, preprocess(read_photo(data.gallery[0].path).rgb))
    calibration = calibration_images(flown, preprocess, 16, data)
    for name, pixels in zip(calibration.names, calibration.images, strict=True):
        view = "drone" if "drone" in name else "satellite"
        assert np.array_equal(pixels, preprocess(reader.read(flown / name, view).pixels))
    write_selftest(tmp_path, Encoder(ModelConfig("test_resnet", "random"), 32).eval(), preprocess, data)
    (first, *_) = sorted((tmp_path / "selftest/images").iterdir())
    assert np.array_equal(read_photo(first).rgb, preprocess(data.read(0)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DataConfig(rectify="auto"), "data.tile-m is 0, but data.rectify is auto: give the side"),
        (lambda: DataConfig(rectify="on", tile_m=160.0), "data.rectify is 'on'; choose one of off, auto, all"),
        (lambda: DataConfig("cvusa", rectify="all", tile_m=50.0), "cvusa has no drone photos"),
        (lambda: ViewReader("all", float("nan")), "`tile_m` is nan, but `rectify` is all"),
        (lambda: AugmentConfig(roll_sigma_deg=-1), r"augment.roll-sigma-deg is -1; expected a number in \[0, 30\]"),
        (lambda: AugmentConfig(height_sigma=float("nan")), r"augment.height-sigma is nan; .* in \[0, 0.5\]"),
        (lambda: TrainConfig(augment=AugmentConfig(yaw_sigma_deg=3)), "but data.rectify is off: no attitude is used"),
    ],
)
def test_settings_that_rectify_nothing_or_to_nothing_are_refused(make, message) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
