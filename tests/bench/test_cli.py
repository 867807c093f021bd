from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import roofline
from bench.cli import main
from dphr_infer.bundle import Bundle


@pytest.fixture(autouse=True)
def _small_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "_BUFFER_BYTES", 32 << 20)
    monkeypatch.setattr(roofline, "_CACHES", 0)


def test_a_run_prints_the_report_and_writes_json_and_page(
    bundle: Bundle, gallery: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--seconds", "0.02", "--batches", "1", "3", "--match-rows", "500"]
    outputs = ["--json", str(tmp_path / "b.json"), "--html", str(tmp_path / "b.html")]
    assert main([str(bundle.folder), str(gallery), *options, *outputs]) == 0
    assert "One photo, from file to position" in capsys.readouterr().out
    found = json.loads((tmp_path / "b.json").read_text())
    assert list(found["stages"]) == ["decode", "prepare", "embed", "match", "estimate"]
    assert [entry["batch"] for entry in found["batches"]] == [1, 3]
    assert [(entry["rows"], entry["generated"]) for entry in found["matching"]] == [(200, False)] * 2 + [
        (500, True)
    ] * 4
    assert found["subject"]["images_from"] == "the bundle's self-test"
    assert len(found["samples_ms"]["end to end"]) == found["end_to_end"]["n"]
    assert (tmp_path / "b.html").read_text().startswith("<!doctype html>")


def test_a_heading_search_embeds_eight_views_a_photo(bundle: Bundle, gallery: Path, tmp_path: Path) -> None:
    options = ["--heading", "search", "--seconds", "0.02", "--batches", "1", "--match-rows"]
    assert main([str(bundle.folder), str(gallery), *options, "--json", str(tmp_path / "b.json")]) == 0
    assert json.loads((tmp_path / "b.json").read_text())["subject"]["views"] == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--precision", "fp16"], "holds no fp16 model"),
        (["--batches", "0"], "give sizes in 1..1024"),
        (["--seconds", "0"], "a finite time above 0"),
        (["--images", "nowhere"], "nowhere is not a folder"),
        (["--heading", "north"], "tells no yaw"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    bundle: Bundle, gallery: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(bundle.folder), str(gallery), *options]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
