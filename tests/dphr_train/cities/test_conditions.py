from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dphr_infer.errors import DatasetError
from dphr_infer.images.preprocess import read_image
from dphr_train.cities.acquisition import Conditions
from dphr_train.cities.config import CitiesConfig, DroneConditions
from dphr_train.cities.flight import write_flight
from dphr_train.cities.places import shift_conditions
from dphr_train.cities.sues import write_sues200
from dphr_train.cities.university import write_university1652

Write = Callable[[CitiesConfig, Path], None]
Row = dict[str, str]

MIXED = Conditions(1007, 120.0, 62.0, autumn=0.3, dryness=0.5, cloudiness=0.5, haze_m=2000.0, car_share=0.7)
SHIFTED: tuple[DroneConditions, ...] = ("low-sun", "autumn", "overcast")
LIGHT = ("sun_elevation_deg", "autumn", "dryness", "cloudiness", "haze_m")
WRITERS = pytest.mark.parametrize("write", [write_university1652, write_sues200])


@pytest.fixture
def one_place(tiny: CitiesConfig) -> CitiesConfig:
    return replace(
        tiny, train_cities=0, train_places=0, test_places=1, distractors=0, train_views=1, test_views=1, image_px=16
    )


def rows_of(root: Path) -> list[Row]:
    with (root / "metadata.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_mixed_conditions_are_those_of_the_releases_before_there_was_a_choice(university: Path) -> None:
    metadata = (university / "metadata.csv").read_bytes()
    assert hashlib.sha256(metadata).hexdigest() == "c7d8f4c3f458ba524295ae899548b9f6bbd730d52720e8f2d896e0c6da7fdd2c"
    for name, mean in {"train/drone/0000/image-01.jpeg": 80.46, "test/query_drone/0004/image-02.jpeg": 113.64}.items():
        assert read_image(university / name).mean() == pytest.approx(mean, abs=0.05), name


def test_each_shift_replaces_its_own_light_and_nothing_else() -> None:
    assert shift_conditions(MIXED, "mixed") == MIXED
    assert shift_conditions(MIXED, "low-sun") == replace(MIXED, sun_elevation_deg=15.0)
    assert shift_conditions(replace(MIXED, sun_elevation_deg=25.0), "low-sun").sun_elevation_deg == 8.0
    assert shift_conditions(MIXED, "autumn") == replace(MIXED, autumn=1.0, dryness=0.8)
    assert shift_conditions(MIXED, "overcast") == replace(MIXED, cloudiness=1.0, haze_m=800.0)


@WRITERS
@pytest.mark.parametrize("conditions", SHIFTED)
def test_a_shift_changes_the_drone_s_light_and_leaves_geometry_and_satellite(
    one_place: CitiesConfig, tmp_path: Path, write: Write, conditions: DroneConditions
) -> None:
    write(one_place, tmp_path / "mixed")
    write(replace(one_place, conditions=conditions), tmp_path / "shifted")
    before, after = rows_of(tmp_path / "mixed"), rows_of(tmp_path / "shifted")
    assert len(before) == len(after) >= 4
    for row, shifted in zip(before, after, strict=True):
        mixed_file, shifted_file = (tmp_path / side / row["path"] for side in ("mixed", "shifted"))
        if row["view"] == "satellite":
            assert shifted == row
            assert shifted_file.read_bytes() == mixed_file.read_bytes()
        else:
            assert {k: v for k, v in shifted.items() if k not in LIGHT} == {
                k: v for k, v in row.items() if k not in LIGHT
            }
            assert [shifted[k] for k in LIGHT] != [row[k] for k in LIGHT]
            assert shifted_file.read_bytes() != mixed_file.read_bytes()


def test_a_low_sun_stands_8_to_15_degrees_high_in_every_drone_picture(one_place: CitiesConfig, tmp_path: Path) -> None:
    write_university1652(replace(one_place, test_places=3, conditions="low-sun"), tmp_path)
    elevations = [float(row["sun_elevation_deg"]) for row in rows_of(tmp_path) if row["view"] == "drone"]
    assert len(set(elevations)) == 3
    assert all(8 <= elevation <= 15 for elevation in elevations)


def test_a_flight_takes_the_shift_and_its_mosaic_does_not(tiny: CitiesConfig, tmp_path: Path) -> None:
    for conditions in ("mixed", "overcast"):
        write_flight(replace(tiny, conditions=conditions), tmp_path / conditions, frames=1, mosaic_m=300.0, gsd_m=5.0)
    mixed, shifted = tmp_path / "mixed", tmp_path / "overcast"
    assert (mixed / "photos/frame-000.jpg").read_bytes() != (shifted / "photos/frame-000.jpg").read_bytes()
    for same in ("mosaic.tif", "truth.csv"):
        assert (mixed / same).read_bytes() == (shifted / same).read_bytes()


def test_a_folder_begun_before_there_was_a_choice_counts_as_mixed(
    tiny: CitiesConfig, university: Path, tmp_path: Path, digests_of: Callable[[Path], dict[str, str]]
) -> None:
    root = shutil.copytree(university, tmp_path / "old")
    settings = json.loads((root / "cities.json").read_text())
    del settings["conditions"]
    (root / "cities.json").write_text(json.dumps(settings))
    (root / "train/satellite/0000/0000.jpg").unlink()
    write_university1652(tiny, root)
    assert (root / "train/satellite/0000/0000.jpg").exists()
    with pytest.raises(DatasetError, match="conditions is 'mixed' there and 'autumn' here"):
        write_university1652(replace(tiny, conditions="autumn"), root)


@WRITERS
def test_without_training_cities_only_the_test_split_is_written_and_its_pictures_are_the_same(
    one_place: CitiesConfig, tmp_path: Path, write: Write
) -> None:
    write(replace(one_place, train_cities=1, train_places=1), tmp_path / "both")
    write(one_place, tmp_path / "test")
    assert {row["split"] for row in rows_of(tmp_path / "test")} == {"query", "gallery"}
    assert not [path for path in (tmp_path / "test").iterdir() if path.name.lower().startswith("train")]
    tests = [[row for row in rows_of(tmp_path / name) if row["split"] == "query"] for name in ("both", "test")]
    assert len(tests[0]) == len(tests[1]) > 0
    for with_training, alone in zip(*tests, strict=True):
        assert int(with_training["place_id"]) == int(alone["place_id"]) + 1
        pictures = [tmp_path / "both" / with_training["path"], tmp_path / "test" / alone["path"]]
        assert pictures[0].read_bytes() == pictures[1].read_bytes()
