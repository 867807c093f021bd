"""`dphr-infer flight`: a flight over a generated town, and one over a town that the map does not show."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from generated_map import ArrayMap, town
from town_site import DOWN, GSD_M, SIDE_PX, SIZE, save_photo

from dphr_infer.cli.main import main

pytest.importorskip("cv2")

FRAMES, STEP_M = 7, 14.0


@pytest.fixture(scope="module")
def frames(town_site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of photos to the east, one over the town of the map and one over another."""
    folder = tmp_path_factory.mktemp("flight")
    other = ArrayMap(town(SIDE_PX, 3), GSD_M, town_site.pixels.centre)
    lines = ["photo,latitude_deg,longitude_deg"]
    for number in range(FRAMES):
        place = town_site.point(-45 + STEP_M * number, 10.0)
        view = dataclasses.replace(DOWN, yaw_deg=40.0 + 5 * number)
        lines.append(f"{number}.jpg,{place.latitude_deg:.8f},{place.longitude_deg:.8f}")
        for name, pixels in (("here", town_site.pixels), ("there", other)):
            (folder / name).mkdir(exist_ok=True)
            save_photo(folder / name / f"{number}.jpg", pixels.photo(place, view, *SIZE), view)
    (folder / "truth.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def fly(bundle, town_site):
    """A function that runs `dphr-infer flight` on the town's gallery and pack."""
    on = ["--map", str(town_site.folder / "map.pack"), "--threads", "1"]
    return lambda *words: main(["flight", str(bundle.folder), str(town_site.folder / "g"), *map(str, words), *on])


def test_each_photo_over_the_map_has_a_fix_and_none_over_another(frames: Path, fly, capsys) -> None:
    assert fly(frames / "here", "--interval-s", 2, "--truth", frames / "truth.csv", "--format", "csv") == 0
    shown = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(shown.out)))
    assert [row["fix"] for row in rows] == ["registered"] * FRAMES
    assert max(float(row["error_m"]) for row in rows) < 0.5
    assert f"{FRAMES} frames, {FRAMES} with a fix (100%)" in shown.err
    assert shown.err.count("no promise: not calibrated. dphr-export calibrate BUNDLE") == 1
    # The motion is seen in the photos, which know nothing of the truth.
    moved = np.array([[float(row["moved_east_m"]), float(row["moved_north_m"])] for row in rows[1:]])
    assert np.abs(moved - [STEP_M, 0]).max() < 1.0

    assert fly(frames / "there", "--interval-s", 2) == 0
    out = capsys.readouterr().out
    assert f"{FRAMES} frames, 0 with a fix (0%); none: " in out and "registered" not in out


def test_motion_may_be_told(frames: Path, fly, tmp_path: Path, capsys) -> None:
    told = tmp_path / "motion.csv"
    told.write_text("photo,east_m,north_m,sigma_m\n" + "".join(f"{n}.jpg,{STEP_M},0,1\n" for n in range(1, FRAMES)))
    out = tmp_path / "flight.geojson"
    assert fly(frames / "here", "--interval-s", 2, "--motion", told, "--format", "geojson", "--out", out) == 0
    features = json.loads(out.read_text())["features"]
    assert [feature["geometry"]["type"] for feature in features] == ["Point"] * FRAMES + ["LineString"]
    assert all(feature["properties"]["moved_east_m"] == STEP_M for feature in features[1:FRAMES])
    capsys.readouterr()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("photo,east_m,north_m\n0.jpg,1,1\n", "lacks the column sigma_m"),
        ("photo,east_m,north_m,sigma_m\n0.jpg,1,nan,1\n", "line 2 holds no motion in metres"),
        ("photo,east_m,north_m,sigma_m\nx.jpg,1,1,1\n", "names none of the 7 photos, such as 0.jpg"),
    ],
)
def test_a_wrong_motion_file_is_refused(frames: Path, fly, tmp_path: Path, capsys, text: str, words: str) -> None:
    (tmp_path / "m.csv").write_text(text)
    assert fly(frames / "here", "--interval-s", 2, "--motion", tmp_path / "m.csv") == 2
    error = capsys.readouterr().err.strip()
    assert words in error and error.count("\n") == 0


def test_without_times_the_option_is_named(frames: Path, fly, capsys) -> None:
    assert fly(frames / "here") == 2
    assert "does not say when it was taken (EXIF DateTimeOriginal). Give the time between two photos: --interval-s" in (
        capsys.readouterr().err
    )
    assert fly(frames / "here", "--interval-s", 0) == 2
    assert "--interval-s is 0; expected seconds above 0 and finite." in capsys.readouterr().err


def test_a_photo_that_is_damaged_is_left_out_and_the_flight_goes_on(frames: Path, fly, tmp_path: Path, capsys) -> None:
    (tmp_path / "1b.jpg").write_bytes(b"no picture")
    photos = [frames / "here/0.jpg", frames / "here/1.jpg", tmp_path / "1b.jpg", frames / "here/2.jpg"]
    assert fly(*photos, "--interval-s", 2) == 2
    shown = capsys.readouterr()
    assert "3 frames, 3 with a fix" in shown.out
    assert "1 of 4 photos were left out; see above." in shown.err and "1b.jpg is not a picture" in shown.err
