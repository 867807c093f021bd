from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import steps
from bench.cases import batches as cases
from bench.cli import main
from dphr_infer.errors import EngineError
from dphr_infer.files.bundle import SELFTEST_IMAGES, Bundle
from dphr_infer.files.gallery import open_gallery
from dphr_infer.images.preprocess import list_images, read_image
from dphr_infer.locate.localizer import Localizer

QUICK = ["--seconds", "0.02", "--startups", "0"]
BARE = [*QUICK, "--batches", "1", "--scenarios"]


@pytest.fixture
def truth(bundle: Bundle, gallery: Path, tmp_path: Path) -> Path:
    """Each self-test image lies where the model places it, but the last, which lies about 2 km north of that."""
    opened, lines = open_gallery(gallery), ["photo,latitude_deg,longitude_deg"]
    paths = list_images(bundle.folder / SELFTEST_IMAGES)
    with Localizer(bundle, opened) as localizer:
        for path in paths:
            point = localizer.locate(read_image(path)).point
            lines.append(f"{path.name},{point.latitude_deg + 0.02 * (path == paths[-1])},{point.longitude_deg}")
    file = tmp_path / "truth.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    folder: Path


@pytest.fixture(scope="module")
def done(small_ceilings: None, bundle: Bundle, gallery: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """One whole run by its command line, with all of its outputs but the sheet of pictures."""
    folder, out = tmp_path_factory.mktemp("run"), io.StringIO()
    options = [*QUICK, "--batches", "1", "3"]
    outputs = [word for kind in ("json", "markdown", "html") for word in (f"--{kind}", str(folder / f"b.{kind}"))]
    with contextlib.redirect_stdout(out):
        code = main(["run", str(bundle.folder), str(gallery), *options, *outputs])
    return Done(code, out.getvalue(), folder)


def test_a_run_prints_the_report_and_writes_json_markdown_and_page(
    done: Done, check_schema: Callable[[Any], list[str]]
) -> None:
    assert done.code == 0
    assert "One photo, from file to position" in done.out
    found = json.loads((done.folder / "b.json").read_text())
    assert check_schema(found) == []
    assert [scenario["name"] for scenario in found["scenarios"]] == ["single-stream", "multi-stream", "offline"]
    single = found["scenarios"][0]
    assert list(single["stages"]) == ["decode", "prepare", "embed", "match", "estimate"]
    assert len(single["samples_ms"]) == single["latency"]["n"] == len(single["stage_samples_ms"]["match"])
    assert found["scenarios"][2]["settings"]["batch"] == 3
    assert [entry["batch"] for entry in found["batches"]] == [1, 3]
    assert found["batches"][1]["embed_limit"]["flops"] == 3 * 2 * 3 * 8
    assert [(entry["rows"], entry["queries"]) for entry in found["matching"]] == [(200, 1), (200, 8)]
    assert found["accuracy"]["selftest_min_cosine"] == pytest.approx(1, abs=1e-5)
    assert (found["valid"], found["subject"]["images_from"]) == (True, "the bundle's self-test")
    assert found["overhead_ns"] > 0 and found["cold_first_ms"] > 0
    assert 20e6 < found["peak_memory_bytes"] < 4e9
    assert (done.folder / "b.html").read_text().startswith("<!doctype html>")
    assert (done.folder / "b.markdown").read_text().startswith("# A photo located in ")


def test_a_search_of_headings_embeds_a_photo_in_each_of_its_rotations(
    bundle: Bundle, gallery: Path, tmp_path: Path
) -> None:
    options = ["--heading", "search", *BARE]
    assert main(["run", str(bundle.folder), str(gallery), *options, "--json", str(tmp_path / "b.json")]) == 0
    assert json.loads((tmp_path / "b.json").read_text())["subject"]["views"] == 8


def test_a_bundle_without_a_gallery_measures_embedding_and_says_so(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str], check_schema: Callable[[Any], list[str]]
) -> None:
    assert main(["run", str(bundle.folder), *QUICK, "--batches", "1", "--json", str(tmp_path / "b.json")]) == 0
    assert "no gallery was given: embedding alone is measured" in capsys.readouterr().out
    found = json.loads((tmp_path / "b.json").read_text())
    assert check_schema(found) == []
    assert (found["scenarios"], found["matching"], found["batches"][0]["locate"]) == ([], [], None)
    assert set(found["left_out"]) == {"single-stream", "multi-stream", "offline", "matching"}


def test_enough_recall_is_valid_and_too_little_is_invalid_with_exit_code_1(
    bundle: Bundle, gallery: Path, truth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["run", str(bundle.folder), str(gallery), *BARE, "--truth", str(truth), "--json", str(tmp_path / "b.json")]
    assert main([*common, "--least-recall", "75%"]) == 0
    accuracy = json.loads((tmp_path / "b.json").read_text())["accuracy"]
    assert (accuracy["recall"], accuracy["photos_with_truth"], accuracy["within_m"]) == (0.75, 4, 40.0)
    assert main([*common, "--least-recall", "76%"]) == 1
    out = capsys.readouterr().out
    assert out.count("\nINVALID: 75.0% of the 4 photos with truth are located within 40 m; at least 76.0%") == 2
    found = json.loads((tmp_path / "b.json").read_text())
    assert found["valid"] is False
    assert "at least 76.0% was asked for" in found["invalid_reasons"][0]


def test_an_engine_that_misses_the_self_test_is_invalid_with_exit_code_1(
    bundle: Bundle, gallery: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The expected embeddings are those of another order of the images: the engine cannot reproduce them."""
    images, expected = bundle.read_selftest()
    monkeypatch.setattr(Bundle, "read_selftest", lambda self: (images, np.roll(expected, 1, axis=0)))
    assert main(["run", str(bundle.folder), str(gallery), *BARE, "--json", str(tmp_path / "b.json")]) == 1
    assert "self-test only to a cosine" in json.loads((tmp_path / "b.json").read_text())["invalid_reasons"][0]


def test_an_interrupted_run_keeps_what_was_measured(
    bundle: Bundle, gallery: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[int] = []
    original = Localizer.locate_each

    def interrupted(self: Localizer, *arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return original(self, *arguments, **named)

    monkeypatch.setattr(Localizer, "locate_each", interrupted)
    options = [*QUICK, "--batches", "1", "--json", str(tmp_path / "b.json")]
    assert main(["run", str(bundle.folder), str(gallery), *options]) == 130
    found = json.loads((tmp_path / "b.json").read_text())
    single, multi = found["scenarios"]
    assert (found["interrupted"], multi["extra"]["stopped"], multi["latency"]["n"]) == (True, "interrupt", 6)
    assert single["latency"]["n"] >= 10
    assert "INTERRUPTED" in capsys.readouterr().out


def test_an_error_late_in_a_run_keeps_what_was_measured_and_is_told(
    bundle: Bundle,
    gallery: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise EngineError("dphr-infer locate ended with exit code 3.")

    monkeypatch.setattr(steps, "measure_startup", fail)
    options = ["--batches", "1", "--scenarios", "single-stream", "--seconds", "0.01"]
    outputs = ["--json", str(tmp_path / "b.json"), "--png", str(tmp_path / "b.png")]
    assert main(["run", str(bundle.folder), str(gallery), *options, "--startups", "1", *outputs]) == 2
    said = capsys.readouterr()
    assert "ENDED EARLY: dphr-infer locate ended with exit code 3." in said.out
    assert "holds what was measured until then: dphr-infer locate ended" in said.err.splitlines()[-1]
    record = json.loads((tmp_path / "b.json").read_text())
    assert record["failure"] and record["scenarios"] and record["batches"] and not record["interrupted"]
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")


def test_a_graph_that_cannot_be_counted_leaves_the_limit_out_with_the_reason(
    bundle: Bundle, gallery: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path, batch: int) -> None:
        raise EngineError("no onnx here")

    monkeypatch.setattr(cases, "count_cost", refuse)
    assert main(["run", str(bundle.folder), str(gallery), *BARE]) == 0
    assert "no onnx here" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--precision", "fp16"], "holds no fp16 model"),
        (["--batches", "0"], "give sizes in 1..1024"),
        (["--seconds", "0"], "a finite value above 0"),
        (["--images", "nowhere"], "nowhere is not a folder"),
        (["--heading", "north"], "needs the photo's yaw"),
        (["--near", "46,8"], "--near and --within belong together"),
        (["--near", "0,0", "--within", "5"], "No tile of the gallery lies within 5 m"),
        (["--least-recall", "50%"], "--truth and --least-recall belong together"),
        (["--streams", "0"], "--streams is 0"),
        (["--checkpoint", "last.safetensors"], "--peers was not given"),
        (["--rate-hz", "0.001", "--scenarios", "camera"], "takes no frame in"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    bundle: Bundle, gallery: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(bundle.folder), str(gallery), *QUICK, *options]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_run_beside_itself_changed_by_nothing(done: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(done.folder / "b.json")
    assert main(["compare", file, file, "--png", str(tmp_path / "c.png")]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if " %" in line]
    assert len(rows) > 10 and all("+0.0 %" in row for row in rows)
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
