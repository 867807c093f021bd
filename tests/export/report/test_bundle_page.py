from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from dphr_infer.errors import BundleError, EngineError, ExportError
from dphr_infer.files.bundle import Manifest, Parity, Quantisation, digest_files
from dphr_infer.images.preprocess import Preprocess
from export.report.bundle import (
    cosine_groups,
    engine_table,
    latency_groups,
    latency_table,
    precision_table,
    size_groups,
    to_page,
    write_report,
)
from export.report.compare import compare_bundles, require_same_images
from export.report.measure import (
    BundleName,
    BundleReport,
    Latency,
    Machine,
    PrecisionReport,
    Spread,
    measure_bundle,
    spread,
    summarise,
    time_in_turn,
)
from export.report.page import Picture
from export.report.plots import Bar
from export.to_tensorrt import EngineReport

PX, DIM = 16, 3
EVIL = '<script>alert("x")</script>&|`*\x1b[2J\n'
FP16 = EngineReport("fp16", "TensorRT-RTX", "1.4", "no GPU", 1, 7_100_000, {"fp16": 70, "fp32": 4}, 7.25, 1 << 30, ())


def write_model(path: Path, weights: int) -> None:
    """uint8 (B, 16, 16, 3) -> mean colour, float32 (B, 3), and some bytes of unused weights."""
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "space"], ["mean"], keepdims=0),
        helper.make_node("Add", ["mean", "bias"], ["embeddings"]),
    ]
    graph = helper.make_graph(
        nodes,
        "mean",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", PX, PX, 3])],
        [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["batch", DIM])],
        [
            numpy_helper.from_array(np.array([1, 2], np.int64), "space"),
            numpy_helper.from_array(np.ones(DIM, np.float32), "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    model.doc_string = "x" * weights
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def write_bundle(folder: Path, *precisions: str, encoder: str = "tiny", origin: dict[str, str] | None = None) -> Path:
    folder.mkdir()
    for precision, weights in zip(precisions, (4000, 2000, 1000), strict=False):
        write_model(folder / f"model.{precision}.onnx", weights)
    parities = {"fp32": (1.0, 1.0, 0.0, 0.0), "fp16": (0.9999, 0.99999, 0.001, -0.0005), "int8": (0.96, 0.99, 0.004, 0)}
    manifest = Manifest(
        encoder,
        DIM,
        16,
        Preprocess(PX, PX),
        digest_files(folder),
        {name: Parity(*parities[name], 120) for name in precisions},
        origin or {"evaluation_sha256": "ab" * 32},
        Quantisation("mean", "int8", "cd" * 32, 64, ("stem", "head")) if "int8" in precisions else None,
    )
    (folder / "manifest.json").write_text(manifest.to_json())
    return folder


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, PX, PX, 3), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("b") / "city", "fp32", "fp16", "int8")


@pytest.fixture(scope="module")
def measured(folder: Path, images: np.ndarray) -> BundleReport:
    return measure_bundle(folder, images, [FP16], seconds=0, threads=1)


def entry(precision: str, size_bytes: int, parity: Parity | None, median_ms: float = 2.0) -> PrecisionReport:
    times = tuple(
        Latency(
            b,
            20,
            Spread(median_ms * b, median_ms * b / 2, median_ms * b * 2),
            Spread(median_ms / 2, median_ms / 4, median_ms),
        )
        for b in (1, 4, 16)
    )
    return PrecisionReport(precision, size_bytes, size_bytes / 10_000_000, parity, times)


PLACED = BundleReport(
    BundleName("city", "12" * 32, "tiny", DIM, PX, PX),
    (
        entry("fp32", 10_000_000, Parity(0.999999, 1.0, 0.0, 0.0, 120)),
        entry("int8", 2_750_000, Parity(0.96, 0.99, 0.004, -0.00004, 120), 1.0),
    ),
    (EngineReport("int8", "TensorRT", "10.3", "Orin", 16, 3_000_000, {"int8": 41}, None, None, ("slow",)),),
    Quantisation("mean", "int8", "cd" * 32, 64, ("stem",)),
    {"evaluation_sha256": "ab" * 32},
    Machine("Abacus", 2, "Linux", "1.31", 0),
)


@given(st.permutations(range(1, 11)))
def test_a_spread_is_of_samples_that_were_measured_in_any_order(order: list[int]) -> None:
    assert spread(np.array(order, np.float64)) == Spread(median=5.0, p10=1.0, p90=9.0)


def test_calls_take_turns_and_warm_up_rounds_are_not_counted() -> None:
    seen: list[str] = []
    calls = {"a": lambda: seen.append("a"), "b": lambda: seen.append("b"), "c": lambda: time.sleep(0.002)}
    samples = time_in_turn(calls, 0.0)
    assert seen == ["a", "b"] * 18
    assert {name: len(values) for name, values in samples.items()} == {"a": 15, "b": 15, "c": 15}
    assert samples["c"].min() >= 2.0 > samples["a"].min()
    assert len(time_in_turn({"a": int}, 0.2)["a"]) > 15


def test_a_ratio_is_taken_within_a_round() -> None:
    samples = {"fp32": np.array([2.0, 40.0, 4.0]), "fp16": np.array([1.0, 30.0, 1.0])}
    found = summarise(4, samples)
    assert found["fp16"] == Latency(4, 3, Spread(1.0, 1.0, 30.0), Spread(0.5, 0.25, 0.75))
    assert found["fp32"].ratio_to_fp32 == Spread(1.0, 1.0, 1.0)
    assert summarise(4, {"fp16": samples["fp16"]})["fp16"].ratio_to_fp32 is None


def test_a_bundle_is_measured_as_it_lies_there(measured: BundleReport, folder: Path) -> None:
    sizes = {p: (folder / f"model.{p}.onnx").stat().st_size for p in ("fp32", "fp16", "int8")}
    assert {e.precision: e.size_bytes for e in measured.precisions} == sizes
    assert measured.precisions[2].size_share == sizes["int8"] / sizes["fp32"]
    assert measured.precisions[1].parity == Parity(0.9999, 0.99999, 0.001, -0.0005, 120)
    assert [(t.batch, t.n) for t in measured.precisions[0].latency] == [(1, 15), (4, 15), (16, 15)]
    for each in measured.precisions:
        assert all(0 < t.ms.p10 <= t.ms.median <= t.ms.p90 for t in each.latency)
    assert measured.engines == (FP16,)
    assert measured.bundle.name == "city"
    assert (measured.machine.threads, measured.machine.onnxruntime[:2]) == (1, "1.")


def test_a_bundle_without_fp32_has_no_shares_and_no_ratios(tmp_path: Path, images: np.ndarray) -> None:
    report = measure_bundle(write_bundle(tmp_path / "half", "fp16"), images, seconds=0, threads=1)
    (only,) = report.precisions
    assert (only.size_share, only.latency[0].ratio_to_fp32) == (None, None)
    write_report(report, made(tmp_path / "out"))
    assert "| share of fp32    |         – |" in (tmp_path / "out/report.md").read_text()
    assert "to fp32" not in str(latency_table(report).rows)


def test_what_cannot_be_measured_is_said_in_one_line(tmp_path: Path, images: np.ndarray, folder: Path) -> None:
    with pytest.raises(BundleError, match="names no model"):
        measure_bundle(write_bundle(tmp_path / "empty"), images, seconds=0, threads=0)
    with pytest.raises(ExportError, match="no image"):
        measure_bundle(folder, images[:0], seconds=0, threads=0)
    with pytest.raises(EngineError, match=r"takes uint8 \(B, 16, 16, 3\)"):
        measure_bundle(folder, images[:, :4], seconds=0, threads=0)
    with pytest.raises(BundleError, match="holds no picture in selftest"):
        measure_bundle(folder, seconds=0, threads=0)
    damaged = write_bundle(tmp_path / "damaged", "fp32")
    (damaged / "model.fp32.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match="is damaged"):
        measure_bundle(damaged, images, seconds=0, threads=0)


@pytest.mark.parametrize("value", ["NaN", '"<b>"', "null", "-Infinity"])
def test_a_manifest_whose_parity_is_no_number_is_refused(value: str, tmp_path: Path, images: np.ndarray) -> None:
    folder = write_bundle(tmp_path / "odd", "fp32")
    text = (folder / "manifest.json").read_text().replace('"min_cosine": 1.0', f'"min_cosine": {value}')
    (folder / "manifest.json").write_text(text)
    with pytest.raises(BundleError):
        measure_bundle(folder, images, seconds=0, threads=0)


def test_a_picture_is_inside_the_page_and_named_by_the_markdown(tmp_path: Path) -> None:
    picture = Picture("Cost <of> layers", "All of them & more.", b"\x89PNG", file="sensitivity.png")
    names = write_report(PLACED, tmp_path, (picture,))
    assert names == ("report.html", "report.md", "report.json", "sensitivity.png")
    page = (tmp_path / "report.html").read_text()
    assert '<img src="data:image/png;base64,iVBORw==" alt="Cost &lt;of&gt; layers">' in page
    assert "All of them &amp; more." in page
    assert "![Cost \\<of\\> layers](sensitivity.png)\n\nAll of them \\& more.\n" in (tmp_path / "report.md").read_text()


def test_the_json_holds_every_figure_under_its_documented_name(tmp_path: Path) -> None:
    write_report(PLACED, made(tmp_path / "out"))
    raw = json.loads((tmp_path / "out/report.json").read_text())
    assert (raw["format"], raw["version"]) == ("dphr-report", 1)
    assert set(raw) == {"format", "version", "bundle", "precisions", "engines", "quantisation", "origin", "machine"}
    assert raw["precisions"][1] == {
        "precision": "int8",
        "size_bytes": 2750000,
        "size_share": 0.275,
        "parity": {"min_cosine": 0.96, "mean_cosine": 0.99, "recall_drop": 0.004, "ap_drop": -4e-05, "n_images": 120},
        "latency": [
            {
                "batch": batch,
                "n": 20,
                "ms": {"median": 1.0 * batch, "p10": 0.5 * batch, "p90": 2.0 * batch},
                "ratio_to_fp32": {"median": 0.5, "p10": 0.25, "p90": 1.0},
            }
            for batch in (1, 4, 16)
        ],
    }
    assert raw["engines"] == [{**dataclasses.asdict(PLACED.engines[0]), "warnings": ["slow"]}]
    assert raw["quantisation"]["float_layers"] == ["stem"]


def test_a_manifest_with_half_a_character_can_be_reported(tmp_path: Path) -> None:
    write_report(replaced("city", origin={"note": "\ud800"}), made(tmp_path / "out"))
    assert json.loads((tmp_path / "out/report.json").read_text())["origin"] == {"note": "\ud800"}
    assert "- note: \\\\ud800" in (tmp_path / "out/report.md").read_text()


def test_the_tables_say_points_shares_and_spreads() -> None:
    assert precision_table(PLACED).rows == (
        ("size, MB", "10.00", "2.75"),
        ("share of fp32", "100.0%", "27.5%"),
        ("smallest cosine", "0.9999990", "0.9600000"),
        ("mean cosine", "1.0000000", "0.9900000"),
        ("R@1 drop, points", "0.00", "0.40"),
        ("AP drop, points", "0.00", "0.00"),
        ("images", "120", "120"),
    )
    rows = latency_table(PLACED).rows
    assert rows[0] == ("batch 1, ms", "2.00 (1.00–4.00)", "1.00 (0.500–2.00)")
    assert rows[2] == ("batch 16, ms", "32.0 (16.0–64.0)", "16.0 (8.00–32.0)")
    assert rows[3] == ("batch 1, to fp32", "1", "0.500× (0.250–1.00)")
    assert engine_table(PLACED).rows == (("int8", "to 16", "TensorRT 10.3, Orin", "in cache", "3.00", "41 int8"),)
    (row,) = engine_table(dataclasses.replace(PLACED, engines=(FP16,))).rows
    assert row == ("fp16", "1", "TensorRT-RTX 1.4, no GPU", "7.2", "7.10", "70 fp16, 4 fp32")
    assert "20, 20, 20 rounds" in latency_table(PLACED).notes[0]


def test_a_cosine_is_drawn_by_its_nines() -> None:
    smallest, mean = cosine_groups(PLACED)
    assert [round(bar.length, 6) for bar in smallest.bars] == [6.0, 1.39794]
    assert [round(bar.length, 6) for bar in mean.bars] == [8.0, 2.0]


def test_a_latency_is_drawn_per_image_and_a_size_in_megabytes() -> None:
    groups = latency_groups(PLACED)
    assert [group.title for group in groups] == ["batch 1", "batch 4", "batch 16"]
    assert [group.bars for group in groups] == [
        (Bar("fp32", 2.0, "2.00 ms", (1.0, 4.0)), Bar("int8", 1.0, "1.00 ms", (0.5, 2.0)))
    ] * 3
    (sizes,) = size_groups(PLACED)
    assert sizes.bars == (Bar("fp32", 10.0, "10.00 MB, 100.0%"), Bar("int8", 2.75, "2.75 MB, 27.5%"))
    spoken = [picture.spoken for picture in to_page(PLACED).sections[0].pictures]
    assert spoken[0] == "Size of the model: fp32: 10.00 MB, 100.0%; int8: 2.75 MB, 27.5%"
    assert len(spoken) == 3


def test_the_page_needs_no_network_and_whatever_a_manifest_says_stays_text(
    tmp_path: Path, images: np.ndarray, read_tags: Callable[[str], Any]
) -> None:
    origin = {"evaluation_sha256": EVIL, EVIL: "'\" onload=alert(1) ' <img src=x>"}
    report = measure_bundle(
        write_bundle(tmp_path / "a<b>", "fp32", "fp16", "int8", encoder=EVIL, origin=origin),
        images,
        [dataclasses.replace(FP16, flavour=EVIL, version=EVIL, gpu=EVIL, layers={EVIL: 1})],
        seconds=0,
        threads=1,
    )
    quantisation = Quantisation(EVIL, "int8", EVIL, 1, (EVIL,))
    write_report(dataclasses.replace(report, quantisation=quantisation), made(tmp_path / "out"))
    page = (tmp_path / "out/report.html").read_text()
    tags = read_tags(page)
    assert tags.names <= tags.known
    assert not tags.attributes & {"href", "onload", "onerror", "style"}
    assert page.count("&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;") >= 6
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    assert all(source.startswith("data:image/svg+xml;base64,") for source in tags.sources)
    assert "http" not in page
    markdown = (tmp_path / "out/report.md").read_text()
    for text in (page, markdown):
        assert "\x1b" not in text
        assert "<script" not in text.replace("\\<", "")
    assert compare_bundles([report, report]).count("\\<script") == 6


def replaced(name: str, **changes: object) -> BundleReport:
    return dataclasses.replace(
        PLACED, bundle=dataclasses.replace(PLACED.bundle, name=name, digest="ef" * 32), **changes
    )


def test_bundles_stand_beside_each_other_by_precision_with_differences_to_the_first() -> None:
    other = replaced(
        "farm",
        precisions=(
            entry("fp16", 5_000_000, None),
            entry("int8", 2_500_000, Parity(0.97, 0.985, 0.001, 0.0, 120), 1.25),
        ),
    )
    lines = compare_bundles([PLACED, other]).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert [row[:2] for row in rows[2:]] == [["fp32", "city"], ["fp16", "farm"], ["int8", "city"], ["int8", "farm"]]
    head = dict(zip(rows[0], rows[5], strict=True))
    assert head["size MB"] == "2.50 (-0.25)"
    assert head["of fp32"] == "25.0 % (-2.5)"
    assert head["min cosine"] == "0.970000 (+0.010000)"
    assert head["mean cosine"] == "0.985000 (-0.005000)"
    assert head["R@1 drop"] == "0.10 (-0.30)"
    assert head["AP drop"] == "0.00 (+0.00)"
    assert head["b16 ms"] == "20.00 (+4.00)"
    assert rows[3][3:6] == ["5.00", "50.0 %", "–"]
    assert len({len(line) for line in lines if line.startswith("|")}) == 1


def test_bundles_of_one_name_are_told_apart_by_their_digest() -> None:
    text = compare_bundles([PLACED, replaced("city")])
    assert "city 12121212" in text
    assert "city efefefef" in text


def test_what_does_not_compare_is_refused() -> None:
    with pytest.raises(ExportError, match="at least two"):
        compare_bundles([PLACED])
    with pytest.raises(ExportError, match=r"city and farm were measured on other evaluation sets \(ababab.* and ee"):
        compare_bundles([PLACED, replaced("farm", origin={"evaluation_sha256": "ee" * 32})])
    for reports in ([PLACED, replaced("farm", origin={})], [replaced("farm", origin={}), PLACED]):
        with pytest.raises(ExportError, match=r"manifest of farm does not say which images"):
            compare_bundles(reports)
    with pytest.raises(ExportError, match="1 bundle was named"):
        require_same_images([("city", {})])
    with pytest.raises(ExportError, match="city was timed on Abacus and farm on Abacus, or with other threads"):
        compare_bundles([PLACED, replaced("farm", machine=dataclasses.replace(PLACED.machine, threads=1))])
