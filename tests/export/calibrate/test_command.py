"""`dphr-export calibrate`, and what `dphr-infer` makes of a bundle that it calibrated."""

from __future__ import annotations

from pathlib import Path

import pytest

from dphr_infer.cli.main import main as infer
from dphr_infer.files.bundle import digest_files, open_bundle
from export.cli import main

BUNDLE = Path(__file__).resolve().parents[3] / "samples/bundle"
SIZES = ("--tile-m", "60", "--stride-m", "30")


@pytest.fixture(scope="module")
def calibrated(flights: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped bundle, calibrated on the towns."""
    out = tmp_path_factory.mktemp("calibrated") / "bundle"
    words = ["calibrate", str(BUNDLE), "--flights", *map(str, flights), "--out", str(out), *SIZES]
    assert main([*words, "--alpha", "0.2", "--threads", "1"]) == 0
    return out


def test_only_the_manifest_changes_and_it_says_what_was_measured(calibrated: Path) -> None:
    before, after = open_bundle(BUNDLE), open_bundle(calibrated)
    assert digest_files(calibrated) == after.manifest.files == before.manifest.files
    assert after.digest != before.digest
    found = after.manifest.calibration
    assert found is not None and found.maps == ("town-11", "town-12", "town-13")
    assert (found.tile_m, found.stride_m, found.verdict.alpha, found.promise.alpha) == (60.0, 30.0, 0.2, 0.2)
    assert found.verdict.n == 45 and found.promise.n >= 14 and found.promise.bound <= 0.2
    assert set(found.verdict.false_shares) == {"own map", "own map without the place", "another map", "made picture"}


def test_doctor_and_inspect_print_it(calibrated: Path, capsys) -> None:
    lines = open_bundle(calibrated).manifest.calibration.lines()  # type: ignore[union-attr]
    for verb in ("doctor", "inspect"):
        assert infer([verb, str(calibrated)]) == 0
        assert set(lines) <= set(capsys.readouterr().out.splitlines())


def test_a_flight_is_promised_what_was_calibrated(calibrated: Path, flights, tmp_path: Path, capsys) -> None:
    gallery, folder = tmp_path / "g", flights[0]
    words = ["--threads", "1", "--interval-s", "2", "--truth", str(folder / "truth.csv")]
    assert infer(["index", str(calibrated), str(folder / "mosaic.tif"), "--out", str(gallery), *SIZES]) == 0
    capsys.readouterr()
    assert infer(["flight", str(calibrated), str(gallery), str(folder / "photos"), *words]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "promise" in line]
    assert "promise: of stretches of 60 m with a fix at most 20.0% have one more than 60 m off" in line
    assert "on 3 maps" in line
    # Its galleries are its own: a calibration is part of what a bundle is.
    assert infer(["flight", str(BUNDLE), str(gallery), str(folder / "photos"), *words]) == 2
    assert "index the map again with this bundle" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--alpha", "0.6"], "--alpha is 0.6; expected a share above 0 and at most 0.5"),
        (["--alpha", "0"], "--alpha is 0"),
        (["--stride-m", "-1"], "stride"),
        (["--flights", "none"], "none is no flight: it holds 0 GeoTIFFs"),
    ],
)
def test_what_cannot_work_is_one_line_and_nothing_is_written(words, message: str, flights, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    given = ["--flights", *map(str, flights[:1]), "--out", str(out), *SIZES, "--threads", "1", *words]
    assert main(["calibrate", str(BUNDLE), *given]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1] and not out.exists()


def test_too_few_maps_are_refused_before_anything_is_flown(flights, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    words = ["--flights", str(flights[0]), "--out", str(out), *SIZES, "--threads", "1"]
    assert main(["calibrate", str(BUNDLE), *words]) == 2
    assert "1 map was given; at least 2 are needed" in capsys.readouterr().err and not out.exists()
