"""`dphr-infer locate --map`: verdicts in its lists, and what it refuses."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import pytest
from PIL import Image
from town_site import OBLIQUE, PHOTOS

from dphr_infer.cli.main import main
from dphr_infer.geo import distance_m
from dphr_infer.types import GeoPoint

pytest.importorskip("cv2")


@pytest.fixture
def locate(bundle, town_site):
    """A function that runs `dphr-infer locate` on the town's gallery."""
    return lambda *words: main(
        ["locate", str(bundle.folder), str(town_site.folder / "g"), "--threads", "1", *map(str, words)]
    )


def rows_of(text: str) -> dict[str, dict[str, str]]:
    return {Path(row["photo"]).name: row for row in csv.DictReader(io.StringIO(text))}


@pytest.mark.parametrize("map_name", ["map.tif", "map.pack"])
def test_the_list_says_what_was_verified_and_why_the_rest_was_not(town_site, locate, map_name: str, capsys) -> None:
    map_path = town_site.folder / map_name
    assert locate(town_site.folder / "photos", "--map", map_path, "--format", "csv") == 0
    rows = rows_of(capsys.readouterr().out)
    assert {name: (row["verdict"], row["accepted"]) for name, row in rows.items()} == {
        "black.png": ("none", "false"),
        "down.jpg": ("verified", "true"),
        "foreign.jpg": ("none", "false"),
        "oblique.jpg": ("verified", "true"),
    }
    assert rows["down.jpg"]["reason"] == "" and rows["black.png"]["reason"].startswith("blank picture: ")
    for name, (_, spot) in PHOTOS.items():
        found = GeoPoint(float(rows[name]["latitude_deg"]), float(rows[name]["longitude_deg"]))
        assert distance_m(found, town_site.point(*spot)) < 0.5


def test_geojson_and_the_table_carry_the_verdict_too(town_site, locate, capsys) -> None:
    photos = [town_site.folder / "photos" / name for name in ("down.jpg", "black.png")]
    words = (*photos, "--map", town_site.folder / "map.tif", "--candidates", 2)
    assert locate(*words, "--format", "geojson") == 0
    one, two = json.loads(capsys.readouterr().out)["features"]
    assert (one["properties"]["verdict"], two["properties"]["verdict"]) == ("verified", "none")
    assert one["properties"]["reason"] == "" and two["properties"]["reason"].startswith("blank picture: ")
    assert locate(*words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[4] == "verdict"
    assert [line.split()[4] for line in lines[1:3]] == ["verified", "none"]
    assert "unverified: " not in lines[1] and lines[2].endswith(f"  {two['properties']['reason']}")


def test_verbose_says_each_value_of_the_attitude_and_its_source(town_site, locate, capsys) -> None:
    photos = [town_site.folder / "photos" / name for name in ("oblique.jpg", "black.png")]
    assert locate(*photos, "--map", town_site.folder / "map.pack", "--verbose", "--fov-deg=62", "--format", "csv") == 0
    shown = capsys.readouterr()
    lines = shown.err.splitlines()
    start = lines.index("oblique.jpg: attitude known")
    assert lines[start + 1 : start + 6] == [
        "  height     75.00 m  XMP RelativeAltitude, above take-off",
        "  pitch     -50.00 °  XMP GimbalPitchDegree",
        "  roll        2.00 °  XMP GimbalRollDegree",
        "  yaw       200.00 °  XMP GimbalYawDegree",
        "  fov        62.00 °  given by --fov-deg",
    ]
    assert lines[start + 6].startswith("  camera   ") and lines[start + 6].endswith(" m (1 sigma)")
    assert "black.png: attitude unknown: height, pitch, yaw" in lines
    assert "  roll        0.00 °  taken as 0" in lines and "  camera           -  not accepted" in lines
    row = rows_of(shown.out)["oblique.jpg"]
    assert (row["pitch_deg"], row["pitch_source"]) == ("-50.0", "XMP GimbalPitchDegree")
    assert (row["fov_deg"], row["fov_source"], row["attitude_reason"]) == ("62.0", "given", "")
    assert (
        float(row["camera_sigma_m"]) ** 2
        >= float(row["camera_covariance_north2_m2"])
        > float(row["covariance_north2_m2"])
    )
    row = rows_of(shown.out)["black.png"]
    assert (row["pitch_deg"], row["pitch_source"]) == ("", "unknown")
    assert row["attitude_reason"] == "unknown: height, pitch, yaw" and row["camera_reason"] == "not accepted"
    # Without it one line says what was not rectified.
    assert locate(*photos, "--format", "csv") == 0
    assert [line for line in capsys.readouterr().err.splitlines() if "attitude" in line] == [
        "1 of 2 photos were not rectified, the first black.png: attitude unknown: height, pitch, field of view, yaw"
    ]
    assert locate(*photos, "--format", "csv", "--rectify", "off") == 0
    assert "attitude" not in capsys.readouterr().err


def test_no_verify_leaves_retrieval_alone(town_site, locate, tmp_path: Path, capsys) -> None:
    photos = town_site.folder / "photos"
    assert locate(photos, "--format", "csv") == 0
    plain = capsys.readouterr().out
    assert all(row["verdict"] in ("retrieved", "none") for row in rows_of(plain).values())
    pictures = ("--map", town_site.folder / "map.tif", "--no-verify", "--picture", tmp_path / "p")
    assert locate(photos, "--format", "csv", *pictures) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if "pictures" not in line] == plain.splitlines()
    assert (tmp_path / "p/map.png").is_file()


def test_a_camera_is_described_by_options(town_site, locate, tmp_path: Path, capsys) -> None:
    with Image.open(town_site.folder / "photos/oblique.jpg") as image:
        image.save(tmp_path / "bare.png")
    words = (tmp_path / "bare.png", "--map", town_site.folder / "map.pack", "--format", "csv")
    view = [
        f"--height-m={OBLIQUE.height_m}",
        f"--pitch-deg={OBLIQUE.pitch_deg}",
        f"--fov-deg={OBLIQUE.fov_deg}",
        f"--yaw-deg={OBLIQUE.yaw_deg}",
        f"--roll-deg={OBLIQUE.roll_deg}",
    ]
    assert locate(*words, *view) == 0
    row = rows_of(capsys.readouterr().out)["bare.png"]
    assert (row["verdict"], row["rotation_deg"]) == ("verified", str(OBLIQUE.yaw_deg))
    # Not rectified, the tile is looked up as the photo is.
    assert locate(tmp_path / "bare.png", "--format", "csv", "--rectify", "off", *view) == 0
    assert rows_of(capsys.readouterr().out)["bare.png"]["rotation_deg"] == "0.0"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--map", "other.tif"], "other.tif is not the map of"),
        (["--map", "none.tif"], "none.tif does not exist"),
        (["--map", "photos"], "photos is a folder"),
        (["--map", "map.pack", "--picture", "p"], "--picture needs the raster that the gallery was made from"),
        (["--pitch-deg=60"], "The camera's pitch is 60; expected degrees, -90 straight down"),
        (["--pitch-deg=-1.57"], "The camera's pitch is -1.57"),
        (["--height-m=0"], "The camera's height is 0"),
        (["--fov-deg=nan"], "The camera's field of view is nan"),
        (["--map", "map.pack", "--candidates", "0"], "is 0; expected a number in [1, 1000]"),
    ],
)
def test_what_cannot_work_is_one_line_and_exit_code_2(
    town_site, locate, words: list[str], message: str, capsys
) -> None:
    paths = {path.name for path in town_site.folder.iterdir()} | {"none.tif", "p"}
    given = [str(town_site.folder / word) if word in paths else word for word in words]
    try:
        code = locate(town_site.folder / "photos/down.jpg", *given)
    except SystemExit as ended:
        code = ended.code
    captured = capsys.readouterr()
    assert code == 2 and captured.out == "" and message in captured.err
    assert len(captured.err.splitlines()) == 1 and "Traceback" not in captured.err


def test_without_opencv_map_names_the_extra_and_the_rest_works(town_site, locate, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    photo = town_site.folder / "photos/down.jpg"
    assert locate(photo, "--map", town_site.folder / "map.pack") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "opencv-python-headless" in line and "dphr[register]" in line
    assert locate(photo) == 0
    assert locate(photo, "--map", town_site.folder / "map.tif", "--no-verify") == 0


def test_watch_verifies_on_the_map_too(bundle, town_site, capsys) -> None:
    words = ["watch", str(bundle.folder), str(town_site.folder / "g"), str(town_site.folder / "photos")]
    words += ["--map", str(town_site.folder / "map.pack"), "--idle-s", "0", "--threads", "1", "--queue", "4"]
    assert main([*words, "--format", "csv"]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "black.png": "none",
        "down.jpg": "verified",
        "foreign.jpg": "none",
        "oblique.jpg": "verified",
    }
    for name, (_, spot) in PHOTOS.items():
        found = GeoPoint(float(rows[name]["latitude_deg"]), float(rows[name]["longitude_deg"]))
        assert distance_m(found, town_site.point(*spot)) < 0.5 and rows[name]["camera_sigma_m"]
        assert rows[name]["pitch_source"] == "XMP GimbalPitchDegree"
    assert rows["foreign.jpg"]["reason"].startswith("unverified: ")
    assert main(words) == 0
    (silent,) = (line for line in capsys.readouterr().out.splitlines() if "black.png" in line)
    assert "none" in silent and "black.png: blank picture: " in silent
