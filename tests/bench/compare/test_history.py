from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.compare.history import plot_history, points_of, read_history
from dphr_infer.errors import ConfigError, StorageError

BLUE, RED = (0x1F, 0x6F, 0xB2), (0xB3, 0x26, 0x1E)


def make_record(date: str, p50_ms: float = 10.0, **changes: Any) -> dict[str, Any]:
    return {
        "schema": "dphr-bench",
        "schema_version": 3,
        "date": date,
        "valid": True,
        "machine": {"board": "unknown", "cpu": "Test CPU", "cores": 2, "gpu": "none", "power_mode": "none"},
        "subject": {"encoder": "tiny", "precision": "fp32", "gallery_rows": 20000},
        "scenarios": [
            {"name": "single-stream", "settings": {}, "latency": {"n": 70, "p50_ms": p50_ms, "p90_ms": None}},
            {"name": "camera", "settings": {"rate_hz": 7.5}, "latency": {"n": 70, "p50_ms": 12.0, "p90_ms": 15.0}},
            {"name": "offline", "settings": {}, "latency": None},
        ],
        **changes,
    }


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    folder = tmp_path / "reports"
    folder.mkdir()

    def write(name: str, *records: Any) -> Path:
        (folder / name).write_text("\n".join(json.dumps(record) for record in records))
        return folder

    return write


def has_colour(picture: Path, colour: tuple[int, int, int]) -> bool:
    pixels = np.asarray(Image.open(picture).convert("RGB")).reshape(-1, 3)
    return bool((pixels == colour).all(axis=1).sum() > 10)


def test_a_record_gives_a_point_for_each_scenario_with_a_latency() -> None:
    first, second = points_of(make_record("2026-01-02T03:04:05+00:00"))
    assert (first.scenario, first.p50_ms, first.p90_ms) == ("single-stream", 10.0, None)
    assert (second.scenario, second.p50_ms, second.p90_ms) == ("camera (rate_hz 7.5)", 12.0, 15.0)
    assert first.machine == "Test CPU, 2 cores"
    assert first.subject == "tiny, fp32, 20,000 rows"


def test_a_jetson_is_named_by_board_and_power_mode() -> None:
    machine = {"board": "Orin", "cpu": "Arm", "gpu": "integrated, tegra234", "power_mode": "15W (0)"}
    assert points_of(make_record("2026-01-02T03:04:05Z", machine=machine))[0].machine == "Orin, 15W (0)"


def test_points_come_in_the_order_of_their_dates_whatever_the_files_are_called(save: Callable[..., Path]) -> None:
    save("a.json", make_record("2026-03-01T00:00:00+00:00", 3.0))
    save("b.jsonl", make_record("2026-01-01T00:00:00", 1.0), make_record("2026-02-01T00:00:00Z", 2.0))
    history = read_history(save("c.txt", "no report"))
    assert [p.p50_ms for p in history.points if p.scenario == "single-stream"] == [1.0, 2.0, 3.0]
    assert (history.n_records, history.skipped) == (3, ())


def test_files_that_are_no_reports_are_left_out_and_named(save: Callable[..., Path]) -> None:
    save("a.json", make_record("2026-03-01T00:00:00+00:00"))
    save("old.json", {"schema": "dphr-bench", "schema_version": 1})
    save("undated.json", make_record("yesterday"))
    folder = save("broken.json")
    (folder / "broken.json").write_text("{")
    history = read_history(folder)
    assert [text.partition(":")[0] for text in history.skipped] == ["broken.json", "old.json", "undated.json"]
    assert "left out: old.json: no report of this version" in history.to_text()
    assert history.to_text().startswith("1 reports, 2 scenarios, 1 machines\n")


def test_the_picture_has_the_machines_colour_and_marks_what_is_invalid(
    save: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "history.png"
    save("a.json", make_record("2026-01-01T00:00:00+00:00"))
    history = plot_history(save("b.json", make_record("2026-02-01T00:00:00+00:00", 200.0)), out)
    assert history.machines == ("Test CPU, 2 cores",)
    assert has_colour(out, BLUE) and not has_colour(out, RED)
    plot_history(save("b.json", make_record("2026-02-01T00:00:00+00:00", valid=False)), out)
    assert has_colour(out, RED)


def test_one_report_alone_can_be_plotted_and_gives_the_same_bytes_again(
    save: Callable[..., Path], tmp_path: Path
) -> None:
    folder = save("a.json", make_record("2026-01-01T00:00:00+00:00"))
    plot_history(folder, tmp_path / "one.png")
    plot_history(folder, tmp_path / "two.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_a_folder_without_reports_is_refused_and_writes_nothing(save: Callable[..., Path], tmp_path: Path) -> None:
    folder = save("a.json", {"schema": "other"})
    with pytest.raises(ConfigError, match="holds 1 JSON files and no report"):
        plot_history(folder, tmp_path / "history.png")
    with pytest.raises(ConfigError, match="is no folder"):
        plot_history(folder / "a.json", tmp_path / "history.png")
    assert not (tmp_path / "history.png").exists()


def test_another_ending_or_a_folder_as_picture_is_refused(save: Callable[..., Path], tmp_path: Path) -> None:
    folder = save("a.json", make_record("2026-01-01T00:00:00+00:00"))
    with pytest.raises(ConfigError, match=r"does not end in \.png"):
        plot_history(folder, tmp_path / "history.svg")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(StorageError):
        plot_history(folder, tmp_path / "folder.png")
