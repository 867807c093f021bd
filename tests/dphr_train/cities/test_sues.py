from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dphr_infer.errors import ConfigError
from dphr_train.cities.config import CitiesConfig
from dphr_train.cities.sues import write_sues200


@pytest.fixture(scope="module")
def sues(tiny: CitiesConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sues")
    write_sues200(tiny, root)
    return root


def test_the_folders_are_those_of_the_prepared_sues_200(
    sues: Path, digests_of: Callable[[Path], dict[str, str]]
) -> None:
    expected = {"cities.json", "metadata.csv"}
    train, query, everything = ("0001", "0002", "0003"), ("0004", "0005"), tuple(f"000{i}" for i in range(1, 7))
    for height in (150, 200, 250, 300):
        for folder, places in (
            (f"Training/{height}/", train),
            (f"Testing/{height}/query_", query),
            (f"Testing/{height}/gallery_", everything),
        ):
            for place in places:
                expected |= {f"{folder}satellite/{place}/0.png"}
                expected |= {f"{folder}drone/{place}/{view}.jpg" for view in (0, 1)}
    assert set(digests_of(sues)) == expected


def test_each_height_folder_was_flown_at_its_height(sues: Path) -> None:
    with (sues / "metadata.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["view"] == "drone"]
    assert {row["path"].split("/")[1] for row in rows} == {"150", "200", "250", "300"}
    assert all(float(row["height_m"]) == float(row["path"].split("/")[1]) for row in rows)


def test_a_drone_picture_differs_from_height_to_height_and_a_tile_does_not(sues: Path) -> None:
    low, high = (sues / f"Training/{height}" for height in (150, 300))
    assert (low / "drone/0001/0.jpg").read_bytes() != (high / "drone/0001/0.jpg").read_bytes()
    assert (low / "satellite/0001/0.png").read_bytes() == (high / "satellite/0001/0.png").read_bytes()


def test_more_views_than_a_circle_has_are_refused(tiny: CitiesConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="54 views are asked for, but a circle of SUES-200 has 50"):
        write_sues200(replace(tiny, test_views=54), tmp_path)
