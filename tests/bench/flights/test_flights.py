"""Two small flights over generated towns, flown over every kind of map, from the command line to the page."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generated_map import ArrayMap, town
from town_site import DOWN, GSD_M, SIDE_PX, STRIDE_M, TILE_M, save_photo, write_map

from bench.cli import main
from bench.flights.fly import kidnapped, told
from bench.flights.folders import HalfMap, half_of, middle_of, open_folder
from dphr_infer.files.bundle import Bundle, open_bundle
from dphr_infer.geo import east_north_m, offset
from dphr_infer.maps.raster import MapRaster
from dphr_infer.types import GeoPoint

pytest.importorskip("cv2")

FRAMES, STEP_M, SOUTH_M = 6, 18.0, -8.0
SIZE = (320, 240)
TILES = ("--tile-m", str(TILE_M), "--stride-m", str(STRIDE_M))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """a and b, flights to the east over two towns."""
    root = tmp_path_factory.mktemp("flights")
    for name, seed in (("a", 1), ("b", 2)):
        (root / name / "photos").mkdir(parents=True)
        image = town(SIDE_PX, seed)
        write_map(root / name / "mosaic.tif", image)
        with MapRaster(root / name / "mosaic.tif") as raster:
            pixels = ArrayMap(image, GSD_M, raster.centre)
        lines = ["photo,latitude_deg,longitude_deg"]
        for number in range(FRAMES):
            place = offset(pixels.centre, -45 + STEP_M * number, SOUTH_M)
            photo = f"{number}.jpg"
            view = dataclasses.replace(DOWN, yaw_deg=40.0 + 5 * number)
            save_photo(root / name / "photos" / photo, pixels.photo(place, view, *SIZE), view)
            lines.append(f"{photo},{place.latitude_deg:.8f},{place.longitude_deg:.8f}")
        (root / name / "truth.csv").write_text("\n".join(lines) + "\n")
    return [root / "a", root / "b"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def fly(bundle: Bundle, folders: list[Path], cache: Path, *words: str) -> int:
    words = (*TILES, "--interval-s", "2", "--threads", "1", "--cache", str(cache), *words)
    return main(["flight", str(bundle.folder), *map(str, folders), *words])


@pytest.fixture(scope="module")
def report(
    bundle: Bundle, folders: list[Path], cache: Path, tmp_path_factory: pytest.TempPathFactory, small_ceilings: None
) -> dict[str, Any]:
    """The record of both flights over all kinds of maps, and below "page" the page's words."""
    out = tmp_path_factory.mktemp("out")
    files = ("--json", str(out / "f.json"), "--html", str(out / "f.html"), "--png", str(out / "f.png"))
    assert fly(bundle, folders, cache, "--motion", "truth", *files) == 0
    assert (out / "f.png").stat().st_size > 10_000
    page = " ".join(re.sub("<[^>]*>", " ", (out / "f.html").read_text()).split())
    return {**json.loads((out / "f.json").read_text()), "page": page}


def of_kind(report: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(one for one in report["scenarios"] if one["settings"]["kind"] == kind)


def test_over_its_own_map_every_frame_is_fixed_and_timed_by_stages(report: dict[str, Any]) -> None:
    right = of_kind(report, "right")
    figures = right["extra"]["figures"]
    assert figures["availability"]["n"] == 2 * FRAMES
    assert figures["availability"]["k"] >= 2 * FRAMES - 1
    assert figures["fix_median_m"]["value"] < 0.5
    assert list(right["stages"]) == [
        *("rectify", "prepare", "embed", "match", "estimate", "features", "vote", "odometry", "filter")
    ]
    stages = np.sum([right["stage_samples_ms"][name] for name in right["stages"]], axis=0)
    assert (stages <= np.array(right["samples_ms"]) + 0.01).all()
    assert right["stages"]["features"]["p50_ms"] > right["stages"]["filter"]["p50_ms"] > 0


def test_over_a_wrong_map_there_is_no_fix(report: dict[str, Any]) -> None:
    wrong = of_kind(report, "wrong")
    assert [(one["flight"], one["over"]) for one in wrong["extra"]["flights"]] == [("a", "b"), ("b", "a")]
    assert wrong["extra"]["figures"]["availability"] == {
        **wrong["extra"]["figures"]["availability"],
        "k": 0,
        "n": 2 * FRAMES,
    }


def test_over_half_of_the_map_what_is_verified_is_right_and_the_other_half_is_off_it(report: dict[str, Any]) -> None:
    half = of_kind(report, "half")["extra"]
    east_only, north_only = (one["frames"] for one in half["flights"])
    assert 0 < sum(east_only["on_map"]) < FRAMES
    # The whole flight lies south of the middle, and the northern half is left.
    assert sum(north_only["on_map"]) == 0
    verified = [
        error_m
        for one in (east_only, north_only)
        for error_m, verdict in zip(one["photo_error_m"], one["verdict"], strict=True)
        if verdict == "verified"
    ]
    assert verified and max(verified) < 1.0


def test_a_kidnapped_flight_leaves_a_stretch_out_and_is_found_again(report: dict[str, Any]) -> None:
    found = of_kind(report, "kidnapped")["extra"]
    for one in found["flights"]:
        assert one["frames"]["photo"] == [f"{i}.jpg" for i in (0, 1, 3, 4, 5)]
        assert one["jump"] == 2
        assert np.diff(one["frames"]["flown_m"]) == pytest.approx(np.full(4, STEP_M), abs=0.2)
    assert found["figures"]["recovered"]["k"] == 2


def test_the_page_tells_the_figures_and_names_the_model_of_an_orin(report: dict[str, Any]) -> None:
    page = report["page"]
    fixes = of_kind(report, "right")["extra"]["figures"]["availability"]["k"]
    assert f"Right map: a fix in {fixes / 12:.0%} of 12 frames" in page
    assert re.search(rf"frames with a fix {fixes / 0.12:.1f} % \[[\d.]+, [\d.]+\] {fixes}/12", page)
    assert "Orin p50 ms (model, not measured)" in page
    for title in ("Error of fixes", "Promise and error (Stanford plot)", "Fixes and silence", "On the ground, right"):
        assert title in page
    assert report["subject"]["map"] and report["accuracy"]["selftest_images"] == 4


def test_a_run_with_a_map_times_what_locate_does_with_it(
    bundle: Bundle, folders: list[Path], cache: Path, report: dict[str, Any], tmp_path: Path
) -> None:
    folder = open_folder(folders[0], open_bundle(bundle.folder), TILE_M, STRIDE_M, cache)
    words = [str(bundle.folder), str(folder.gallery.path), "--images", str(folder.folder / "photos"), "--threads", "1"]
    words += ["--seconds", "0.01", "--startups", "0", "--batches", "1", "--scenarios", "single-stream", "flight"]
    words += ["--map", str(folder.pack), "--json", str(tmp_path / "r.json")]
    plain = ["decode", "prepare", "embed", "match", "estimate"]
    mapped = ["decode", "rectify", *plain[1:], "features", "vote"]
    for more, stages in (((), mapped), (("--no-verify", "--rectify", "off"), plain)):
        assert main(["run", *words, *more]) == 0
        found = json.loads((tmp_path / "r.json").read_text())
        scenario, flown = found["scenarios"]
        assert list(scenario["stages"]) == stages
        assert list(flown["stages"]) == [*stages[1:], "odometry", "filter"]
        assert flown["latency"]["n"] >= FRAMES
        assert (found["subject"]["map"] is not None) == (stages == mapped)
        assert all(part["p50_ms"] > 0 for one in (scenario, flown) for part in one["stages"].values())


def test_a_long_flight_tells_memory_and_latency_over_time(
    bundle: Bundle, folders: list[Path], cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--kinds", "right", "--minutes", "0.03", "--no-verify", "--motion", "truth")
    assert fly(bundle, folders[:1], cache, *words, "--json", str(tmp_path / "l.json")) == 0
    _, long = json.loads((tmp_path / "l.json").read_text())["scenarios"]
    sizes = [window["resident_bytes"] for window in long["extra"]["windows"]]
    assert max(size for size in sizes if size is not None) > 20e6
    assert sum(window["n"] for window in long["extra"]["windows"]) == long["latency"]["n"]
    assert "Resident memory (MB, at most)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--kinds", "wrong"), "--wrong-maps is 1 of 1 folders: a wrong map is another folder's"),
        (("--kinds", "right", "--motion", "file"), "motion.csv cannot be read as text"),
        (("--kinds", "right", "--interval-s", "0"), "--interval-s is 0; expected a finite number above 0."),
        (("--kinds", "right", "--map", "m.tif"), "Each folder has its own map"),
    ],
)
def test_what_cannot_be_flown_is_refused(
    bundle: Bundle, folders: list[Path], cache: Path, capsys: pytest.CaptureFixture[str], words: Any, said: str
) -> None:
    assert fly(bundle, folders[:1], cache, *words) == 2
    assert said in capsys.readouterr().err


def test_motion_is_that_of_the_folders_file_where_that_is_asked_for(
    bundle: Bundle, folders: list[Path], cache: Path, tmp_path: Path
) -> None:
    told_file = folders[1] / "motion.csv"
    told_file.write_text("photo,east_m,north_m,sigma_m\n" + "".join(f"{n}.jpg,{STEP_M},0,1\n" for n in range(FRAMES)))
    words = ("--kinds", "right", "--motion", "file", "--no-verify", "--json", str(tmp_path / "m.json"))
    assert fly(bundle, folders[1:], cache, *words) == 0
    told_file.unlink()
    (only,) = json.loads((tmp_path / "m.json").read_text())["scenarios"]
    assert "vote" not in only["stages"] and only["settings"]["verify"] is False
    assert not {"no-motion"} & set(only["extra"]["flights"][0]["frames"]["reason"])


def test_told_motion_errs_as_an_odometer_does() -> None:
    start = GeoPoint(47.0, 8.0)
    points = [offset(start, 100.0 * i, 0.0) for i in range(401)]
    steps = np.array([[one.east_m, one.north_m] for one in told(points, 100.0, seed=3)])
    # Scale and heading once per flight; 5 m of noise per axis and step of 100 m.
    assert steps.std(axis=0) == pytest.approx([5.0, 5.0], rel=0.1)
    scale, turn = np.hypot(*steps.mean(axis=0)) / 100 - 1, math.degrees(math.atan2(*steps.mean(axis=0)[::-1]))
    assert 0 < abs(scale) < 0.1 and 0 < abs(turn) < 7
    (first, *_) = told(points, 100.0, seed=3)
    sigma_m = 0.08 * math.hypot(first.east_m, first.north_m) + 2.0  # and 2 % of a tile
    assert first.covariance == pytest.approx(np.eye(2) * sigma_m**2)


def test_half_a_map_keeps_tiles_and_pixels_of_one_side(folders: list[Path], bundle: Bundle, cache: Path) -> None:
    folder = open_folder(folders[0], open_bundle(bundle.folder), TILE_M, STRIDE_M, cache)
    east = half_of(folder.gallery, (1.0, 0.0))
    middle = middle_of(folder.gallery)
    assert 0 < len(east) < len(folder.gallery)
    assert east_north_m(middle, east.latitude_deg, east.longitude_deg)[0].min() >= TILE_M / 2
    with MapRaster(folders[0] / "mosaic.tif") as raster:
        whole = raster.view(middle, 40, 20, 1.0)
        left = HalfMap(raster, middle, (0.0, -1.0)).view(middle, 40, 20, 1.0)
        assert left.covered.tolist() == [[False] * 40] * 10 + [[True] * 40] * 10
        assert (left.image[10:] == whole.image[10:]).all() and not left.image[:10].any()
    assert kidnapped(folder) == ([0, 1, 3, 4, 5], 2)
