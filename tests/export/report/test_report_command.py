"""report, compare and build as commands: what is wrong with their inputs is said before anything is measured."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import export.report.measure as measuring
from dphr_infer.errors import BundleError, ExportError
from dphr_infer.files.bundle import Bundle, Manifest, Parity, Quantisation, digest_files, open_bundle
from dphr_infer.images.preprocess import Preprocess
from export.cli import main
from export.report.inputs import read_engine_reports, read_sensitivity
from export.to_tensorrt import EngineReport

BUILD = EngineReport("fp16", "TensorRT", "10.3", "Orin", 16, 7_100_000, {"fp16": 70}, 7.25, 1 << 30, ("slow",))
ROW = {"layer": "stem $x_", "op": "Conv (weights)", "cosine_loss": 0.001, "weight_bytes": 432}


def write_bundle(folder: Path, table: bytes | None = None, encoder: str = "tiny", digest: str = "ab") -> Path:
    """The files of a bundle, whose models nothing here runs."""
    (folder / "int8").mkdir(parents=True)
    for precision in ("fp32", "int8"):
        (folder / f"model.{precision}.onnx").write_bytes(b"x" * 100)
    if table is not None:
        (folder / "int8/sensitivity.json").write_bytes(table)
    manifest = Manifest(
        encoder,
        3,
        16,
        Preprocess(16, 16),
        digest_files(folder),
        {name: Parity(1.0, 1.0, 0.0, 0.0, 120) for name in ("fp32", "int8")},
        {"evaluation_sha256": digest * 32},
        Quantisation("mean", "int8", "cd" * 32, 64, ()),
    )
    (folder / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
    return folder


@pytest.fixture
def no_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is measured before a refusal was measured for nothing."""

    def too_late(*_: object) -> None:
        raise AssertionError("the models were measured first")

    monkeypatch.setattr(measuring, "_time_models", too_late)
    monkeypatch.setattr(Bundle, "read_selftest", lambda _: (np.zeros((1, 16, 16, 3), np.uint8), None))


@pytest.fixture
def fake_times(monkeypatch: pytest.MonkeyPatch) -> None:
    times = [
        measuring.Latency(batch, 15, measuring.Spread(1.0, 1.0, 1.0), measuring.Spread(1.0, 1.0, 1.0))
        for batch in measuring.BATCHES
    ]
    monkeypatch.setattr(measuring, "_time_models", lambda _, precisions, *__: dict.fromkeys(precisions, times))
    monkeypatch.setattr(Bundle, "read_selftest", lambda _: (np.zeros((1, 16, 16, 3), np.uint8), None))


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "Traceback" not in error
    return error


@pytest.mark.parametrize(
    "table",
    [b'"x"', b"3", b"[]", b"{}", b"null", b"\xff\xfe", b"[3]", b'[{"layer": "a"}]', b"[" * 100_000]
    + [json.dumps([{**ROW, "more": 1}]).encode()]
    + [
        json.dumps([{**ROW, name: value}]).encode()
        for name, value in [("layer", 3), ("op", " "), ("cosine_loss", "x"), ("cosine_loss", float("nan"))]
    ]
    + [json.dumps([{**ROW, name: value}]).encode() for name, value in [("cosine_loss", 1e308), ("weight_bytes", True)]],
)
def test_a_table_of_layers_that_is_none_is_refused_and_leaves_nothing(
    no_measuring: None, table: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_bundle(tmp_path / "b", table)
    with pytest.raises(BundleError, match=r"sensitivity\.json is no table of layers"):
        read_sensitivity(open_bundle(folder))
    error = refused(["report", str(folder), "--out", str(tmp_path / "out")], capsys)
    assert "sensitivity.json is no table of layers (" in error
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_table_that_the_manifest_does_not_name_is_not_read(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b")
    (folder / "int8/sensitivity.json").write_text(json.dumps([ROW]))
    assert read_sensitivity(open_bundle(folder)) == ()


def test_a_report_of_names_with_half_characters_and_formulas_is_written_whole(
    fake_times: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [ROW, {**ROW, "layer": "\ud800 $\\frac$"}]
    folder = write_bundle(tmp_path / "b", json.dumps(rows).encode(), encoder="net $x_$ 網")
    assert main(["report", str(folder), "--out", str(tmp_path / "out")]) == 0
    names = ["report.html", "report.json", "report.md", "sensitivity.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert "sensitivity.png" in capsys.readouterr().out


def test_a_report_that_fails_at_its_picture_leaves_nothing(
    fake_times: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_bundle(tmp_path / "b", json.dumps([ROW]).encode())
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    assert "needs the package matplotlib" in refused(["report", str(folder), "--out", str(tmp_path / "out")], capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


WRONG: list[tuple[str, Any]] = [
    ("precision", "bf16"),
    ("precision", ["fp16"]),
    ("flavour", 3),
    ("gpu", None),
    ("max_batch", 0),
    ("plan_bytes", "x"),
    ("plan_bytes", float("inf")),
    ("plan_bytes", -1),
    ("plan_bytes", 10**400),
    ("layers", []),
    ("layers", None),
    ("layers", {"fp16": "x"}),
    ("seconds", "x"),
    ("seconds", float("nan")),
    ("seconds", True),
    ("peak_bytes", 1.5),
    ("warnings", None),
    ("warnings", "slow"),
    ("warnings", [3]),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_an_engine_build_with_a_field_of_another_type_is_refused_by_its_name(
    no_measuring: None, name: str, value: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engines = tmp_path / "engines.json"
    engines.write_text(json.dumps([{**dataclasses.asdict(BUILD), name: value}]))
    words = ["report", str(write_bundle(tmp_path / "b")), "--out", str(tmp_path / "out"), "--engines", str(engines)]
    error = refused(words, capsys)
    assert f"is not what dphr-export build --json writes ({name} is " in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"{}", b"[]", b"3", b"[{}]", b"[[]]", b"\xff", b"", b"[" * 100_000])
def test_engine_builds_that_are_no_list_of_rows_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "e.json").write_bytes(content)
    with pytest.raises(ExportError, match="is not what dphr-export build --json writes"):
        read_engine_reports(tmp_path / "e.json")


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=3), st.lists, max_leaves=4), st.data())
def test_no_value_of_any_field_ends_in_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, value: object, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("e") / "e.json"
    name = data.draw(st.sampled_from([field.name for field in dataclasses.fields(EngineReport)]))
    path.write_text(json.dumps([{**dataclasses.asdict(BUILD), name: value}]))
    try:
        (read,) = read_engine_reports(path)
    except ExportError as error:
        assert "\n" not in str(error)
    else:
        assert json.loads(json.dumps(dataclasses.asdict(read), allow_nan=False))[name] == value


def test_what_build_writes_is_read_back(tmp_path: Path) -> None:
    cached = dataclasses.replace(BUILD, seconds=None, peak_bytes=None, warnings=())
    (tmp_path / "e.json").write_text(json.dumps([dataclasses.asdict(each) for each in (BUILD, cached)]))
    assert read_engine_reports(tmp_path / "e.json") == (BUILD, cached)


@pytest.mark.parametrize("command", ["report", "compare"])
@pytest.mark.parametrize("seconds", ["nan", "-1", "inf", "0", "3601"])
def test_seconds_that_measure_nothing_or_never_end_are_refused(
    no_measuring: None, command: str, seconds: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(write_bundle(tmp_path / "b"))
    rest = [folder, "--out", str(tmp_path / "out")] if command == "report" else [folder, folder]
    assert f"--seconds is {float(seconds):g}; " in refused([command, *rest, f"--seconds={seconds}"], capsys)


def test_an_output_that_exists_and_bundles_that_do_not_compare_are_refused_before_measuring(
    no_measuring: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = (str(write_bundle(tmp_path / name, digest=name * 2)) for name in ("aa", "bb"))
    assert "bb exists already" in refused(["report", a, "--out", b], capsys)
    assert "1 bundle was named" in refused(["compare", a], capsys)
    assert "aa and bb were measured on other evaluation sets" in refused(["compare", a, b], capsys)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--json", "."], "is a folder. Name a file in it."),
        (["--max-batch", "17"], "--max-batch is 17, but the gate of {} ran batches up to 16"),
        (["--max-batch", "99999999999"], "--max-batch is 99999999999, but the gate of {} ran batches up to 16"),
        (["--workspace-mb", "99999999999999999999"], "(1 TiB)"),
        (["--best-batch", "17"], "The best batch is 17 and the largest 16"),
    ],
)
def test_a_build_is_refused_before_an_engine_is_built(
    options: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def too_late(*_: object) -> None:
        raise AssertionError("engines were built first")

    monkeypatch.setattr("export.to_tensorrt.build_engines", too_late)
    folder = write_bundle(tmp_path / "b")
    assert words.format(folder) in refused(["build", str(folder), *options], capsys)
