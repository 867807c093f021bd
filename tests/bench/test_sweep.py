from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.cases import galleries as generated
from bench.cases.galleries import CENTRE, STRIDE_M, generated_gallery
from bench.cli import main
from bench.peers import cpu as peers
from bench.sweeps import match
from bench.sweeps.filter import made_up_frames, made_up_gallery
from dphr_infer.files.bundle import Bundle
from dphr_infer.flight.flight import Flight
from dphr_infer.geo import distance_m
from dphr_infer.matchers.exact import NumpyExactMatcher


def run_sweep(words: list[str], **outputs: Path) -> int:
    """The exit code; `words` begin with the kind of sweep."""
    written = [word for name, path in outputs.items() for word in (f"--{name}", str(path))]
    return main(["sweep", *written, *words])


def test_a_generated_gallery_is_written_once_and_made_again_where_it_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = generated_gallery(tmp_path, 300, 8, "float16")
    assert (len(first), first.dim, first.embeddings.dtype) == (300, 8, np.float16)
    assert np.linalg.norm(first.embeddings.astype(np.float32), axis=1) == pytest.approx(np.ones(300), abs=2e-3)
    content = first.path.read_bytes()
    first.path.write_bytes(content[:-100])
    assert len(generated_gallery(tmp_path, 300, 8, "float16")) == 300
    assert first.path.read_bytes() == content
    monkeypatch.setattr(generated, "_write", None)
    assert len(generated_gallery(tmp_path, 300, 8, "float16")) == 300


def test_a_generated_gallery_is_a_square_grid_of_forty_metres_around_its_centre(tmp_path: Path) -> None:
    gallery = generated_gallery(tmp_path, 400, 4, "float32")
    distances = gallery.distances_m(CENTRE)
    assert distances.min() == pytest.approx(STRIDE_M / 2**0.5, rel=0.02)
    assert distances.max() == pytest.approx(9.5 * STRIDE_M * 2**0.5, rel=0.02)
    start, stop = gallery.rows_within(CENTRE, 30)[0]
    assert distance_m(gallery.point(start), CENTRE) < 30
    assert sum(b - a for a, b in gallery.rows_within(CENTRE, 30)) == 4
    assert stop > start


def test_a_sweep_of_matching_writes_a_valid_line_for_each_point(
    tmp_path: Path, check_schema: Callable[[Any], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["match", "--rows", "100", "4e2", "--dim", "8", "--queries", "1", "2", "--prior-m", "0", "30"]
    words += ["--k", "5", "--seconds", "0.01", "--cache", str(tmp_path / "c")]
    assert run_sweep(words, json=tmp_path / "s.jsonl") == 0
    lines = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert [fault for line in lines for fault in check_schema(line)] == []
    points = [line["matching"][0] for line in lines]
    assert [(p["rows"], p["queries"], p["prior_m"], p["allowed_rows"], p["k"]) for p in points] == [
        (rows, queries, prior, 4 if prior else None, 4 if prior else 5)
        for rows in (100, 400)
        for queries in (1, 2)
        for prior in (None, 30.0)
    ]
    assert [p["read_bytes"] for p in points[:2]] == [100 * 8 * 2, 4 * 8 * 2]
    assert points[1]["filter"]["n"] >= 10 and points[0]["filter"] is None
    assert "400 x 8 float16, 2 q, k 4 (random, prior 30 m: 4 rows)" in capsys.readouterr().out


def test_a_sweep_of_matching_crosses_threads_and_has_peers_where_all_rows_are_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "OPENERS", {})
    words = ["match", "--rows", "300", "--dim", "8", "--threads", "1", "2", "--prior-m", "0", "30", "--peers"]
    words += ["--k", "5", "--seconds", "0.01", "--cache", str(tmp_path / "c")]
    files = {name: tmp_path / f"s.{name}" for name in ("html", "png")}
    assert run_sweep(words, json=tmp_path / "s.jsonl", **files) == 0
    lines = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert [(line["matching"][0]["threads"], len(line["peers"])) for line in lines] == [(1, 2), (1, 0), (2, 2), (2, 0)]
    assert [peer["recall"] for peer in lines[0]["peers"]] == [1, 1]
    for line in lines:  # each is held against what as many threads read
        point = line["matching"][0]
        assert point["limit_ms"] == pytest.approx(1e3 * point["read_bytes"] / line["bandwidth_bytes_per_s"])
    assert lines[0]["bandwidth_bytes_per_s"] != lines[2]["bandwidth_bytes_per_s"]
    said = capsys.readouterr().out
    assert "300 x 8 float16, 1 q, k 5, 2 threads (random)" in said
    assert "matching 300 x 8 float16, 1 q, k 5, 2 threads: numpy product and argpartition" in said
    assert "numpy product and argpartition" in re.sub("<[^>]*>", "", (tmp_path / "s.html").read_text())
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.size[0] > 900 and len(np.unique(np.asarray(sheet.convert("L")))) > 20


def test_a_matcher_that_answers_wrongly_makes_the_sweep_invalid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = NumpyExactMatcher.match

    def without_the_first_half(self: Any, queries: Any, k: int, row_ranges: Any = None) -> Any:
        return original(self, queries, k, [(50, 100)])

    monkeypatch.setattr(NumpyExactMatcher, "match", without_the_first_half)
    words = ["match", "--rows", "100", "--dim", "8", "--queries", "4", "--k", "5", "--seconds", "0.01"]
    assert run_sweep([*words, "--cache", str(tmp_path)]) == 1
    assert "INVALID: the best similarity differs by" in capsys.readouterr().out


def test_a_sweep_of_embedding_crosses_threads_and_batches(
    bundle: Bundle, tmp_path: Path, check_schema: Callable[[Any], list[str]]
) -> None:
    words = ["embed", str(bundle.folder), "--threads", "1", "2", "--batches", "1", "3", "--seconds", "0.01"]
    assert run_sweep(words, json=tmp_path / "e.jsonl") == 0
    lines = [json.loads(line) for line in (tmp_path / "e.jsonl").read_text().splitlines()]
    assert [fault for line in lines for fault in check_schema(line)] == []
    found = [(line["batches"][0]["threads"], line["batches"][0]["batch"], line["subject"]["threads"]) for line in lines]
    assert found == [(1, 1, 1), (1, 3, 1), (2, 1, 2), (2, 3, 2)]
    assert all(line["accuracy"]["selftest_min_cosine"] > 0.9999 for line in lines)


def test_a_sweep_of_embedding_compares_bundles_and_tells_them_apart(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(bundle.folder, other)
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps(manifest | {"encoder": "another"}))
    words = ["embed", str(bundle.folder), str(other), "--batches", "2", "--seconds", "0.01"]
    assert run_sweep(words, html=tmp_path / "e.html") == 0
    said = capsys.readouterr().out
    assert "2 fp32, tiny " in said and "2 fp32, another " in said


def test_a_sweep_on_a_device_that_is_not_there_says_so(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_sweep(["embed", str(bundle.folder), "--devices", "cuda", "--seconds", "0.01"]) == 2
    assert "dphr" in capsys.readouterr().err.splitlines()[-1]


def test_an_interrupt_in_the_middle_of_a_search_ends_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = NumpyExactMatcher.match, []

    def interrupted(self: Any, queries: Any, k: int, row_ranges: Any = None) -> Any:
        calls.append(len(queries))
        if calls.count(3) == 30:
            raise KeyboardInterrupt
        return original(self, queries, k, row_ranges)

    monkeypatch.setattr(NumpyExactMatcher, "match", interrupted)
    words = ["match", "--rows", "100", "--dim", "8", "--queries", "2", "3", "4", "--k", "5", "--seconds", "0.2"]
    assert run_sweep([*words, "--cache", str(tmp_path)], json=tmp_path / "s.jsonl") == 130
    lines = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert [line["matching"][0]["queries"] for line in lines] == [2]
    assert 4 not in calls


def test_an_interrupted_sweep_keeps_its_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = match.generate_rows, []

    def interrupted(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments, **named)

    monkeypatch.setattr(match, "generate_rows", interrupted)
    words = ["match", "--rows", "100", "--dim", "4", "8", "16", "--k", "5", "--seconds", "0.01"]
    assert run_sweep([*words, "--cache", str(tmp_path)], json=tmp_path / "s.jsonl") == 130
    lines = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert [line["interrupted"] for line in lines] == [False, True]


def test_an_error_keeps_the_points_before_it_and_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["match", "--rows", "400", "--dim", "8", "--k", "5", "--seconds", "0.01", "--prior-m", "0", "10"]
    assert run_sweep([*words, "--cache", str(tmp_path)], json=tmp_path / "s.jsonl") == 2
    lines = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert [line["matching"][0]["prior_m"] for line in lines] == [None]
    assert "No tile" in lines[0]["failure"] or "28" in lines[0]["failure"]
    said = capsys.readouterr()
    assert "ENDED EARLY: " in said.out and "holds what was measured until then" in said.err.splitlines()[-1]


def test_values_given_twice_and_ks_that_a_prior_makes_equal_are_measured_once(tmp_path: Path) -> None:
    words = ["match", "--rows", "400", "400", "--dim", "8", "--queries", "1", "1", "--k", "5", "20", "20"]
    words += ["--prior-m", "0", "30", "--seconds", "0.01", "--cache", str(tmp_path)]
    assert run_sweep(words, json=tmp_path / "s.jsonl") == 0
    lines = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert [(p["matching"][0]["prior_m"], p["matching"][0]["k"]) for p in lines] == [(None, 5), (None, 20), (30.0, 4)]


def test_two_bundles_that_could_not_be_told_apart_are_refused(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(bundle.folder, tmp_path / "copy")
    assert run_sweep(["embed", str(bundle.folder), str(tmp_path / "copy"), "--seconds", "0.01"]) == 2
    assert "are both tiny at 48x32 px" in capsys.readouterr().err.splitlines()[-1]


def test_a_gallery_that_the_disk_has_no_room_for_is_refused_before_it_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_sweep(["match", "--rows", "1e12", "--seconds", "0.01", "--cache", str(tmp_path / "c")]) == 2
    assert "needs 2048000.0 GB while it is written" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["match", "--rows", "5", "--k", "6"], "--k 6 is above --rows 5"),
        (["match", "--seconds", "0"], "--seconds is 0"),
        (["match", "--prior-m", "-5"], "--prior-m (-5.0,) holds no radius"),
        (["match", "--prior-m", "nan"], "holds no radius"),
        (["match", "--threads", "-1"], "--threads -1 is below 0"),
        (["embed", "nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_sweep(words) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_sweep_of_the_filter_times_steps_by_cells_and_keeps_a_track(
    tmp_path: Path, check_schema: Callable[[Any], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    files = {name: tmp_path / f"f.{name}" for name in ("png", "html")}
    words = ["filter", "--cells", "900", "12e3", "--seconds", "0.05"]
    assert run_sweep(words, json=tmp_path / "f.jsonl", **files) == 0
    lines = [json.loads(line) for line in (tmp_path / "f.jsonl").read_text().splitlines()]
    assert [fault for line in lines for fault in check_schema(line)] == []
    found = [line["scenarios"][0] for line in lines]
    assert [(one["settings"]["cells"], one["latency"]["n"] >= 10) for one in found] == [(900, True), (12000, True)]
    # Every 50 steps the place is another; within a few of them it is found again.
    assert all(one["extra"]["tracked_share"] > 0.5 for one in found)
    assert "12,000 cells, 0.25 tiles apart" in capsys.readouterr().out
    assert "Time of a step by the number of cells." in (tmp_path / "f.html").read_text()


def test_made_up_frames_lie_where_their_motion_leads() -> None:
    flight = Flight(made_up_gallery(2500))
    lattice, frames = flight.lattice, made_up_frames(flight.lattice, 0.25)
    middles = []
    for matches, _ in frames[:40]:
        cells = lattice.cell_of_row[matches.rows[0]]
        places = np.stack([lattice.east_m[cells], lattice.north_m[cells]], axis=1)
        # The third that lies together: those with the most others within a tile.
        near = (np.hypot(*(places[:, None] - places).transpose(2, 0, 1)) < 160).sum(axis=1)
        middles.append(np.median(places[near >= np.sort(near)[-6]], axis=0))
    moved = np.cumsum([[odometry.east_m, odometry.north_m] for _, odometry in frames[:40]], axis=0)
    away = np.array(middles) - moved
    assert np.median(np.abs(away - np.median(away, axis=0))) < 40
    assert all(len(matches.rows[0]) >= 16 for matches, _ in frames)
