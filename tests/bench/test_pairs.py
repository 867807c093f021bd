"""Runs in turns: each run has a factor of its own, which its samples do not show, as on a shared machine."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.cli import main
from bench.compare import student_quantile
from bench.pairs import MIN_PAIRS, compare_pairs
from dphr_infer.errors import ConfigError

STAGES = {"decode": 5.0, "embed": 3.0, "match": 1.0}
RUN_TO_RUN = 0.08


def record(rng: np.random.Generator, slower: float = 1.0, others_cores: float = 0.0) -> dict[str, Any]:
    stages = {
        name: base * (slower if name == "embed" else 1) * np.exp(RUN_TO_RUN * rng.normal() + 0.02 * rng.normal(size=81))
        for name, base in STAGES.items()
    }
    return {
        "schema": "dphr-bench",
        "schema_version": 2,
        "valid": True,
        "machine": {"cpu": "one", "cores": 2, "others_cores": others_cores},
        "subject": {"encoder": "one"},
        "scenarios": [
            {
                "name": "single-stream",
                "settings": {},
                "latency": {"n": 81, "p50_ms": 9.0},
                "samples_ms": np.sum(list(stages.values()), axis=0).tolist(),
                "stages": {name: {"n": 81, "p50_ms": 1.0} for name in stages},
                "stage_samples_ms": {name: values.tolist() for name, values in stages.items()},
            }
        ],
    }


def write_runs(folder: Path, seed: int, pairs: int, slower: float = 1.0, **words: Any) -> list[Path]:
    rng, paths = np.random.default_rng(seed), []
    for number in range(pairs):
        for name, factor in (("a", 1.0), ("b", slower)):
            paths.append(folder / f"{seed}-{name}{number}.json")
            paths[-1].write_text(json.dumps(record(rng, factor, **words)))
    return paths


def test_the_interval_is_students_of_the_pairs_log_ratios(tmp_path: Path) -> None:
    paths = write_runs(tmp_path, 0, 12)
    (comparison,) = compare_pairs(paths).comparisons
    (change,) = [item for item in comparison.changes if item.name == "single-stream: embed"]
    medians = [
        float(np.median(json.loads(path.read_text())["scenarios"][0]["stage_samples_ms"]["embed"])) for path in paths
    ]
    ratios = np.log(np.array(medians[1::2]) / np.array(medians[::2]))
    half = student_quantile(1 - 0.025 / 4, 11) * ratios.std(ddof=1) / math.sqrt(12)
    assert change.n == (12, 12)
    assert change.low == pytest.approx(math.exp(ratios.mean() - half))
    assert change.high == pytest.approx(math.exp(ratios.mean() + half))


def test_noise_between_runs_is_blamed_at_most_once_in_twenty(tmp_path: Path) -> None:
    failed = [compare_pairs(write_runs(tmp_path, seed, MIN_PAIRS), 0.05).failed for seed in range(20)]
    assert sum(failed) <= 1


def test_a_slowdown_of_a_fifth_is_found_in_that_noise_and_named(tmp_path: Path) -> None:
    reports = [compare_pairs(write_runs(tmp_path, seed, 20, 1.2), 0.05) for seed in range(10)]
    named = [[change.name for change in report.comparisons[0].offending(0.05)] for report in reports]
    assert sum("single-stream: embed" in names for names in named) >= 9
    assert sum("single-stream: decode" in names for names in named) <= 1


def test_runs_on_a_busy_machine_are_not_judged(tmp_path: Path) -> None:
    paths = write_runs(tmp_path, 0, MIN_PAIRS, 2.0, others_cores=1.5)
    assert {change.not_judged for change in compare_pairs(paths).comparisons[0].changes} == {"the machine was busy"}
    with pytest.raises(ConfigError, match=r"None of the 4 metrics can be judged \(the machine was busy\)"):
        compare_pairs(paths, 0.05)


@pytest.mark.parametrize("count", [2 * MIN_PAIRS - 2, 2 * MIN_PAIRS + 1])
def test_too_few_pairs_or_half_of_one_are_refused(tmp_path: Path, count: int) -> None:
    paths = write_runs(tmp_path, 0, MIN_PAIRS + 1)[:count]
    with pytest.raises(ConfigError, match=f"{count} reports are not 10 pairs or more"):
        compare_pairs(paths)


def test_the_command_takes_pairs_and_fails_for_a_slowdown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(path) for path in write_runs(tmp_path, 0, 20, 1.5)]
    assert main(["compare", "--pairs", *paths, "--fail-above", "5%"]) == 1
    assert "single-stream: embed" in capsys.readouterr().out.split("FAILED")[1]
    assert main(["compare", "--pairs", *paths[:4]]) == 2
