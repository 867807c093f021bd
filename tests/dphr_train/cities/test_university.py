from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from dphr_infer.errors import ConfigError, DatasetError, StorageError
from dphr_infer.geo import distance_m
from dphr_infer.images.metadata import PhotoMetadata, read_photo_metadata
from dphr_infer.types import GeoPoint
from dphr_train.cities import writer
from dphr_train.cities.config import CitiesConfig
from dphr_train.cities.university import write_university1652

Digests = Callable[[Path], dict[str, str]]


def rows_of(root: Path) -> list[dict[str, str]]:
    with (root / "metadata.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def point(row: dict[str, str], name: str) -> GeoPoint:
    return GeoPoint(float(row[f"{name}_latitude_deg"]), float(row[f"{name}_longitude_deg"]))


def test_the_folders_are_those_of_university_1652(university: Path, digests_of: Digests) -> None:
    expected = {"cities.json", "metadata.csv"}
    for place in ("0000", "0001", "0002"):
        expected |= {f"train/satellite/{place}/{place}.jpg"}
        expected |= {f"train/drone/{place}/image-{view:02d}.jpeg" for view in (1, 2)}
    for place, splits in (("0003", ("query", "gallery")), ("0004", ("query", "gallery")), ("0005", ("gallery",))):
        for split in splits:
            expected |= {f"test/{split}_satellite/{place}/{place}.jpg"}
            expected |= {f"test/{split}_drone/{place}/image-{view:02d}.jpeg" for view in (1, 2)}
    assert set(digests_of(university)) == expected


def test_pictures_have_the_size_that_was_asked_for(university: Path) -> None:
    for path in ("train/satellite/0000/0000.jpg", "test/query_drone/0003/image-02.jpeg"):
        with Image.open(university / path) as image:
            assert (image.size, image.mode) == ((32, 32), "RGB")


def test_the_number_of_workers_changes_no_byte(
    tiny: CitiesConfig, university: Path, tmp_path: Path, digests_of: Digests
) -> None:
    write_university1652(replace(tiny, workers=2), tmp_path / "two")
    assert digests_of(tmp_path / "two") == digests_of(university)


def test_another_seed_changes_every_picture(
    tiny: CitiesConfig, university: Path, tmp_path: Path, digests_of: Digests
) -> None:
    write_university1652(replace(tiny, seed=7), tmp_path)
    first, second = digests_of(university), digests_of(tmp_path)
    assert set(first) == set(second)
    assert not [name for name in first if first[name] == second[name]]


def test_deleted_files_come_back_with_the_same_bytes_and_the_rest_is_left_alone(
    tiny: CitiesConfig, university: Path, tmp_path: Path, digests_of: Digests
) -> None:
    root = shutil.copytree(university, tmp_path / "copy")
    for gone in ("train/drone/0001/image-02.jpeg", "test/query_satellite/0003/0003.jpg", "metadata.csv"):
        (root / gone).unlink()
    kept = root / "train/drone/0001/image-01.jpeg"
    before = kept.stat().st_mtime_ns
    write_university1652(tiny, root)
    assert digests_of(root) == digests_of(university)
    assert kept.stat().st_mtime_ns == before


def test_an_interrupted_run_is_finished_with_the_same_bytes(
    tiny: CitiesConfig, university: Path, tmp_path: Path, digests_of: Digests, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, done = writer.render_place, []

    def full_disk(studio: object, plan: object) -> None:
        if len(done) == 2:
            raise StorageError("the disk is full")
        done.append(plan)
        work(studio, plan)

    monkeypatch.setattr(writer, "render_place", full_disk)
    with pytest.raises(StorageError):
        write_university1652(tiny, tmp_path)
    monkeypatch.setattr(writer, "render_place", work)
    assert not (tmp_path / "metadata.csv").exists()
    (tmp_path / "train/drone/0000/.image-01.jpeg.x1.part").write_bytes(b"half")  # as a killed run leaves it
    write_university1652(tiny, tmp_path)
    assert digests_of(tmp_path) == digests_of(university)


def test_a_finished_folder_is_not_rendered_again(
    tiny: CitiesConfig, university: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a city was built for nothing")

    monkeypatch.setattr(writer, "open_city", never)
    write_university1652(tiny, university)


def test_other_settings_in_the_same_folder_are_refused_with_both_values(tiny: CitiesConfig, university: Path) -> None:
    with pytest.raises(DatasetError, match="image_px is 32 there and 64 here"):
        write_university1652(replace(tiny, image_px=64), university)


def test_a_folder_with_other_contents_is_refused_and_left_alone(tiny: CitiesConfig, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DatasetError, match=r"holds files but no cities\.json"):
        write_university1652(tiny, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_in_place_of_the_folder_is_refused(tiny: CitiesConfig, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(DatasetError, match="is a file"):
        write_university1652(tiny, tmp_path / "out")


def test_damaged_settings_are_refused(tiny: CitiesConfig, tmp_path: Path) -> None:
    (tmp_path / "cities.json").write_text("{")
    with pytest.raises(DatasetError, match="cannot be read"):
        write_university1652(tiny, tmp_path)


def test_more_places_than_a_city_holds_are_refused_with_both_numbers(tiny: CitiesConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has room for \d+ places 50 m apart, but 500 are asked"):
        write_university1652(replace(tiny, train_cities=1, train_places=500), tmp_path)


def test_settings_are_saved_without_the_workers(university: Path) -> None:
    settings = json.loads((university / "cities.json").read_text())
    assert (settings["layout"], settings["seed"], settings["image_px"]) == ("university1652", 5, 32)
    assert "workers" not in settings


def test_metadata_has_one_row_for_every_picture(university: Path, digests_of: Digests) -> None:
    paths = [row["path"] for row in rows_of(university)]
    assert paths == sorted(set(digests_of(university)) - {"cities.json", "metadata.csv"})


def test_metadata_agrees_with_the_geometry_of_the_flight(university: Path) -> None:
    drones = [row for row in rows_of(university) if row["view"] == "drone"]
    for row in drones:
        height, pitch = float(row["height_m"]), math.radians(-float(row["pitch_deg"]))
        camera, ground = point(row, "camera"), point(row, "ground")
        assert distance_m(camera, ground) == pytest.approx(height / math.tan(pitch), abs=0.1)
        north_m = (ground.latitude_deg - camera.latitude_deg) * 111_200
        expected = height / math.tan(pitch) * math.cos(math.radians(float(row["heading_deg"])))
        assert north_m == pytest.approx(expected, abs=1.5)
        assert distance_m(ground, point(row, "place")) < 45  # heading and pitch vary by some degrees
        assert 121 <= height <= 256
        assert 36 <= float(row["fov_deg"]) <= 46


def test_satellite_tiles_lie_within_eight_metres_of_their_place(university: Path) -> None:
    tiles = [row for row in rows_of(university) if row["view"] == "satellite"]
    assert all(row["ground_width_m"] == "160.0000" and row["heading_deg"] == "" for row in tiles)
    assert max(distance_m(point(row, "ground"), point(row, "place")) for row in tiles) < 8 * math.sqrt(2)


def test_no_drone_picture_shares_its_moment_with_the_satellite(university: Path) -> None:
    moment = ("acquisition_seed", "sun_azimuth_deg", "sun_elevation_deg", "haze_m")
    rows = rows_of(university)
    satellite = {tuple(row[name] for name in moment) for row in rows if row["view"] == "satellite"}
    drone = {(row["place_id"], *(row[name] for name in moment)) for row in rows if row["view"] == "drone"}
    assert len(satellite) == 3  # one pass a city
    assert len(drone) == 6  # one flight a place
    for column in range(len(moment)):
        assert not {key[column] for key in satellite} & {key[column + 1] for key in drone}


def test_the_test_city_is_none_of_the_training_cities(university: Path) -> None:
    rows = rows_of(university)
    train = {row["city_seed"] for row in rows if row["split"] == "train"}
    test = {row["city_seed"] for row in rows if row["split"] != "train"}
    assert (len(train), len(test)) == (2, 1)
    assert not train & test


def test_drone_pictures_carry_how_they_were_taken_and_satellite_pictures_nothing(university: Path) -> None:
    for row in rows_of(university):
        found = read_photo_metadata(university / row["path"])
        if row["view"] == "satellite":
            assert found == PhotoMetadata()
            continue
        told = (found.relative_altitude_m, found.yaw_deg, found.pitch_deg, found.roll_deg)
        assert told == pytest.approx(
            [*(float(row[name]) for name in ("height_m", "heading_deg", "pitch_deg")), 0.0], abs=0.006
        )
        assert found.fov_deg == pytest.approx(float(row["fov_deg"]), abs=1e-3)
        assert found.camera is not None and distance_m(found.camera, point(row, "camera")) < 0.01
