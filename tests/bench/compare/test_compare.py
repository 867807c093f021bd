from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import stats

from bench.cli import main
from bench.compare.compare import compare, compare_files, make_report
from bench.compare.judge import MIN_RUNS, MIN_SAMPLES, Change
from bench.compare.plot import change_plot
from bench.compare.report import ComparisonReport, short_names
from bench.compare.series import metrics, read_records
from dphr_infer.errors import ConfigError

STAGES = {"decode": 4.0, "preprocess": 1.5, "embed": 30.0, "match": 6.0, "filter": 0.2}
N = 662


def latency(rng: np.random.Generator, base_ms: float, n: int = N) -> NDArray[np.float64]:
    """Durations as a machine gives them: log-normal, each like the one before, with a drift, a wave and spikes."""
    noise, wander = rng.normal(size=n), np.empty(n)
    wander[0] = noise[0]
    for place in range(1, n):
        wander[place] = 0.6 * wander[place - 1] + 0.8 * noise[place]
    time = np.linspace(0, 1, n)
    drift = 0.03 * rng.uniform(-1, 1) * time + 0.015 * np.sin(2 * math.pi * (rng.uniform(1, 3) * time + rng.uniform()))
    spikes = np.where(rng.random(n) < 0.02, rng.uniform(1.5, 5, n), 1.0)
    return base_ms * np.exp(0.05 * wander + drift) * spikes


def summary(samples: NDArray[np.float64]) -> dict[str, Any]:
    return {"n": len(samples), "p50_ms": float(np.median(samples))}


def single_stream(stages: dict[str, NDArray[np.float64]]) -> dict[str, Any]:
    whole = np.sum(list(stages.values()), axis=0)
    return {
        "name": "single-stream",
        "settings": {},
        "latency": summary(whole),
        "samples_ms": whole.tolist(),
        "stages": {name: summary(samples) for name, samples in stages.items()},
        "stage_samples_ms": {name: samples.tolist() for name, samples in stages.items()},
    }


def make_record(seed: int, slower: dict[str, float] | None = None, n: int = N) -> dict[str, Any]:
    """A record with one scenario of five stages, and one row of matching; `slower` multiplies a stage's durations."""
    rng = np.random.default_rng(seed)
    stages = {name: latency(rng, base, n) * (slower or {}).get(name, 1.0) for name, base in STAGES.items()}
    matching = latency(rng, 2.0, n)
    return {
        "schema": "dphr-bench",
        "schema_version": 3,
        "date": "2026-01-02T03:04:05+00:00",
        "valid": True,
        "invalid_reasons": [],
        "machine": {"cpu": "Test CPU", "cores": 8},
        "state": {"load": 0.1, "others_cores": 0.1, "throttled": False, "on_battery": None},
        "subject": {"encoder": "tiny"},
        "scenarios": [single_stream(stages)],
        "matching": [
            {"rows": 1000, "k": 10, "generated": True, "limit_ms": 1.9, "in_cache": False, "read_bytes": 4,
             "latency": summary(matching), "samples_ms": matching.tolist()}
        ],
        "batches": [],
    }  # fmt: skip


def report_of(a: dict[str, Any], b: dict[str, Any], fail_above: float | None = None) -> ComparisonReport:
    return report_of_runs([a], [b], fail_above)


def report_of_runs(
    a: list[dict[str, Any]], b: list[dict[str, Any]], fail_above: float | None = 0.05
) -> ComparisonReport:
    return ComparisonReport(compare([make_report("A", a), make_report("B", b)]), fail_above)


def changes_of(report: ComparisonReport) -> dict[str, Change]:
    return {change.name: change for change in report.comparisons[0].changes}


def verdicts(report: ComparisonReport) -> dict[str, str]:
    return {change.name: change.verdict for change in report.comparisons[0].changes}


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str, *records: dict[str, Any]) -> Path:
        path = tmp_path / name
        path.write_text("\n".join(json.dumps(record) for record in records))
        return path

    return write


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_two_single_runs_have_intervals_and_no_verdict_however_far_apart(factor: float) -> None:
    report = report_of(make_record(0), make_record(1, dict.fromkeys(STAGES, factor)), 0.05)
    assert len(changes_of(report)) == 7
    assert set(verdicts(report).values()) == {""}
    for name, change in changes_of(report).items():
        expected = 1.0 if name.startswith("matching") else factor
        assert change.low is not None and change.high is not None
        assert change.low < change.ratio < change.high
        assert change.ratio == pytest.approx(expected, rel=0.05)
    assert not report.failed
    assert "dphr-bench versus tells whether one is slower" in report.text
    with pytest.raises(ConfigError, match=r"None of the 7 metrics of B can be judged \(one run each\)"):
        report.check_judged()


def test_too_few_samples_have_no_interval_and_say_so() -> None:
    a, b = make_record(0, n=MIN_SAMPLES - 1), make_record(1, dict.fromkeys(STAGES, 3.0))
    assert set(verdicts(report_of(a, b)).values()) == {"no interval: n<64"}
    assert "single-stream" in report_of(a, b).text
    enough = report_of(make_record(0, n=MIN_SAMPLES), b)
    assert all(change.high is not None for change in changes_of(enough).values())


def test_a_summary_without_samples_gives_its_ratio_and_no_verdict() -> None:
    a, b = make_record(0), make_record(1)
    for record, median in ((a, 2.0), (b, 3.0)):
        record["matching"][0] |= {"samples_ms": [], "latency": {"n": 700, "p50_ms": median}}
    (change,) = [c for c in report_of(a, b).comparisons[0].changes if c.name.startswith("matching")]
    assert (change.ratio, change.n, change.verdict) == (1.5, (700, 700), "no interval: no samples")


def test_durations_of_zero_give_a_ratio_and_no_verdict() -> None:
    a, b, zero = make_record(0), make_record(1), make_record(2)
    b["scenarios"][0]["samples_ms"][5] = 0.0
    zero["scenarios"][0]["samples_ms"] = [0.0] * N
    ratios = []
    for left, right in ((a, b), (a, zero), (zero, a), (zero, zero)):
        change = report_of(left, right).comparisons[0].changes[0]
        assert (change.name, change.verdict) == ("single-stream", "no interval: durations of 0 ms")
        ratios.append(change.ratio)
    assert ratios[1:] == [0.0, math.inf, 1.0]


def test_what_a_machine_was_busy_with_is_warned_of() -> None:
    a, b = make_record(0), make_record(1)
    a["state"] |= {"on_battery": True}
    b["state"] |= {"others_cores": 2.5, "throttled": True}
    assert report_of(a, b).comparisons[0].warnings == (
        "A was measured on battery.",
        "B was measured throttled.",
        "B was measured while other programs used 2.5 cores.",
    )


def test_another_machine_or_subject_is_warned_of_by_name() -> None:
    a, b = make_record(0), make_record(1)
    b["machine"]["cpu"] = "Other CPU"
    b["state"]["load"] = 0.3
    b["subject"]["encoder"] = "large"
    warnings = report_of(a, b).comparisons[0].warnings
    assert warnings[0].endswith(": cpu Test CPU against Other CPU.")
    assert warnings[1].endswith(": encoder tiny against large.")
    assert len(warnings) == 2
    assert report_of(a, make_record(1)).comparisons[0].warnings == ()


@pytest.mark.parametrize("invalid", [{"valid": False, "invalid_reasons": ["recall 0.1 < 0.9"]}, {"valid": None}])
def test_an_invalid_record_fails_a_limit_whatever_its_durations(invalid: dict[str, Any]) -> None:
    report = report_of(make_record(0), make_record(1) | invalid, 0.05)
    assert report.failed
    assert "B is INVALID" in report.text
    assert "an invalid record shows nothing" in report.text.split("FAILED")[1]
    report.check_judged()
    assert not report_of(make_record(0), make_record(1) | invalid).failed


def test_metrics_of_one_record_only_are_listed() -> None:
    a, b = make_record(0), make_record(1)
    b["scenarios"][0]["stage_samples_ms"].pop("filter")
    b["scenarios"][0]["stages"].pop("filter")
    assert report_of(a, b).comparisons[0].unpaired == ("only in A: single-stream: filter",)
    assert "only in A: single-stream: filter" in report_of(a, b).text


def test_rows_are_paired_by_what_they_are_not_by_what_was_measured() -> None:
    record = make_record(0)
    record["scenarios"][0]["settings"] = {"batch": 4, "rate_hz": 2.5, "seconds": 3.0, "least": 64}
    other = json.loads(json.dumps(record))
    other["matching"][0] |= {"limit_ms": 1.7, "in_cache": True, "peak_memory_bytes": 5, "widened": 2, "rescanned": 1}
    other["scenarios"][0]["settings"]["seconds"] = 60.0
    names = set(metrics("A", record))
    assert names == set(metrics("B", other))
    assert "matching (rows 1000, k 10, generated True)" in names
    assert "single-stream (batch 4, rate_hz 2.5): embed" in names


def test_the_parts_of_a_row_are_metrics_of_their_own_with_their_own_samples() -> None:
    record = make_record(0)
    row = {"batch": 4, "precision": "fp32", "embed": {"n": 2, "p50_ms": 8.0}, "embed_samples_ms": [7.0, 9.0, 9.5]}
    record["batches"] = [row | {"locate": None, "locate_samples_ms": [], "embed_limit": {"flops": 3}}]
    record["matching"][0] |= {"prior_m": 250.0, "filter": {"n": 5, "p50_ms": 0.5}, "filter_samples_ms": []}
    found = metrics("A", record)
    assert found["batches: embed (batch 4, precision fp32)"].n == 3
    prior = "(rows 1000, k 10, generated True, prior_m 250)"
    assert found[f"matching {prior}"].n == N
    assert found[f"matching: filter {prior}"].samples_ms is None
    assert len(found) == 9


def test_files_are_compared_with_the_first(save: Callable[..., Path]) -> None:
    paths = [save(f"{name}.jsonl", *runs_of_a_record(seed, MIN_RUNS)) for seed, name in enumerate("ab")]
    paths.append(save("slow.jsonl", *runs_of_a_record(2, MIN_RUNS, dict.fromkeys(STAGES, 1.2))))
    report = compare_files(paths, fail_above=0.05)
    assert [item.candidate for item in report.comparisons] == [str(path) for path in paths[1:]]
    assert [bool(item.offending(0.05)) for item in report.comparisons] == [False, True]
    assert report.failed
    assert "FAILED: slower by more than 5 %, or invalid" in report.text


def test_the_lines_of_a_sweep_are_one_report(save: Callable[..., Path]) -> None:
    def sweep(seed: int) -> list[dict[str, Any]]:
        points = [make_record(seed + place) | {"scenarios": []} for place in (0, 1)]
        points[1]["matching"][0]["rows"] = 5000
        return points

    report = compare_files([save("a.jsonl", *sweep(0)), save("b.jsonl", *sweep(10))])
    assert [c.name.partition(",")[0] for c in report.comparisons[0].changes] == [
        "matching (rows 1000",
        "matching (rows 5000",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("{", "is no JSON"),
        ("[1]", "says nothing"),
        ('{"schema": "dphr-bench", "schema_version": 1}', "it says dphr-bench 1"),
        ('{"schema": "dphr-bench", "schema_version": 3, "scenarios": {}, "machine": 3}', "is no report"),
        ('{"schema": "dphr-bench", "schema_version": 3, "scenarios": [7]}', "is no report"),
        ('{"schema": "dphr-bench", "schema_version": 3, "scenarios": [{"settings": [1]}]}', "is no report"),
    ],
)
def test_a_file_that_is_no_report_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_records(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        compare_files([tmp_path / "none.json"])


def test_one_record_alone_is_refused(save: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="1 report to compare"):
        compare_files([save("a.json", make_record(0))])


def test_records_without_a_common_metric_are_refused() -> None:
    with pytest.raises(ConfigError, match="none in common"):
        report_of(make_record(0), make_record(1) | {"scenarios": [], "matching": []})


def test_a_limit_with_nothing_to_judge_is_refused_instead_of_passed() -> None:
    a, b = turns(0, MIN_RUNS)
    a[0]["state"] = {"others_cores": 1.5}
    report = report_of_runs(a, b)
    assert not report.failed
    with pytest.raises(ConfigError, match=r"None of the 4 metrics of B can be judged \(the machine was busy\)"):
        report.check_judged()
    report_of_runs(a, b, None).check_judged()


def test_compare_takes_no_limit(save: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(save(f"{seed}.json", make_record(seed, n=10))) for seed in (0, 1)]
    with pytest.raises(SystemExit, match="2"):
        main(["compare", *paths, "--fail-above", "5%"])
    assert "--fail-above" in capsys.readouterr().err
    assert main(["compare", *paths]) == 0
    assert "no interval: n<64" in capsys.readouterr().out


def test_each_candidate_has_its_own_picture(save: Callable[..., Path], tmp_path: Path) -> None:
    paths = [str(save(f"{name}.json", make_record(seed))) for seed, name in enumerate("abc")]
    titles = [change_plot(item, None).title for item in compare_files([Path(p) for p in paths]).comparisons]
    assert titles == ["b.json beside a.json", "c.json beside a.json"]
    assert main(["compare", *paths, "--png", str(tmp_path / "c.png")]) == 0
    with Image.open(tmp_path / "c.png") as sheet:
        assert sheet.size[0] > 900


@pytest.mark.parametrize("bad", [-1.0, math.nan, "fast", None])
def test_samples_that_are_no_durations_are_refused(bad: Any) -> None:
    record = make_record(0)
    record["scenarios"][0]["samples_ms"][3] = bad
    with pytest.raises(ConfigError, match="A: single-stream holds samples that are no durations"):
        report_of(record, make_record(1))


RUN_TO_RUN = 0.08
SHORT = {"decode": 5.0, "embed": 3.0, "match": 1.0}


def make_run(rng: np.random.Generator, number: int, slower: float = 1.0) -> dict[str, Any]:
    """A run whose stages have a factor of their own, which its samples do not show; `slower` multiplies the embed."""
    stages = {
        name: base * (slower if name == "embed" else 1) * np.exp(RUN_TO_RUN * rng.normal() + 0.02 * rng.normal(size=81))
        for name, base in SHORT.items()
    }
    return {
        "schema": "dphr-bench",
        "schema_version": 3,
        "date": f"2026-01-02T03:{number:02d}:00+00:00",
        "valid": True,
        "machine": {"cpu": "one", "cores": 2, "hypervisor": "flag of the CPU"},
        "state": {"others_cores": 0.0},
        "program": f"dphr 1, code {slower:g}",
        "subject": {"encoder": "one"},
        "scenarios": [single_stream(stages)],
    }


def turns(seed: int, pairs: int, slower: float = 1.0) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Runs of a baseline and of a candidate, a minute for each pair."""
    rng = np.random.default_rng(seed)
    found = [(make_run(rng, number), make_run(rng, number, slower)) for number in range(pairs)]
    return [a for a, _ in found], [b for _, b in found]


def runs_of_a_record(seed: int, count: int, slower: dict[str, float] | None = None) -> list[dict[str, Any]]:
    """Runs of one program with all of the noise of `latency`."""
    return [make_record(100 * seed + number, slower) for number in range(count)]


@pytest.fixture(scope="module")
def before() -> list[dict[str, Any]]:
    return runs_of_a_record(0, MIN_RUNS)


def test_a_planted_slowdown_of_a_tenth_is_found_and_named(before: list[dict[str, Any]]) -> None:
    report = report_of_runs(before, runs_of_a_record(1, MIN_RUNS, dict.fromkeys(STAGES, 1.1)))
    assert report.failed
    named = {change.name for change in report.comparisons[0].offending(0.05)}
    assert named == set(verdicts(report)) - {"matching (rows 1000, k 10, generated True)"}
    assert all(f"B: {name}" in report.text.split("FAILED")[1] for name in named)


def test_a_planted_slowdown_of_one_stage_is_found_in_that_stage(before: list[dict[str, Any]]) -> None:
    report = report_of_runs(before, runs_of_a_record(2, MIN_RUNS, {"match": 1.1}))
    assert [change.name for change in report.comparisons[0].offending(0.05)] == ["single-stream: match"]


def test_a_speedup_is_named_and_fails_nothing(before: list[dict[str, Any]]) -> None:
    report = report_of_runs(before, runs_of_a_record(3, MIN_RUNS, dict.fromkeys(STAGES, 0.8)))
    assert verdicts(report)["single-stream: embed"] == "faster"
    assert not report.failed
    assert report.text.endswith("Passed: nothing is slower by more than 5 % beyond noise.")


def test_a_slowdown_within_the_limit_passes(before: list[dict[str, Any]]) -> None:
    slow = runs_of_a_record(4, MIN_RUNS, dict.fromkeys(STAGES, 1.3))
    assert report_of_runs(before, slow, 0.25).failed
    assert not report_of_runs(before, slow, 0.40).failed
    assert not report_of_runs(before, slow, None).failed


def test_a_verdict_of_passed_says_what_could_not_be_judged() -> None:
    a, b = turns(0, MIN_RUNS)
    for record in a + b:
        record["matching"] = [{"rows": 5, "latency": {"n": 5, "p50_ms": 0.0}, "samples_ms": [0.0] * 5}]
    report = report_of_runs(a, b, 0.5)
    assert verdicts(report)["matching (rows 5)"] == "no interval: durations of 0 ms"
    assert report.text.endswith("beyond noise. 1 metrics could not be judged.")


def test_many_runs_are_judged_by_the_pairs_of_their_medians() -> None:
    a, b = turns(0, 12)
    (comparison,) = report_of_runs(a, b).comparisons
    (change,) = [item for item in comparison.changes if item.name == "single-stream: embed"]
    medians = [[np.sort(run["scenarios"][0]["stage_samples_ms"]["embed"])[40] for run in runs] for runs in (a, b)]
    ratios = np.array(medians[1]) / np.array(medians[0])
    half = stats.t.ppf(1 - 0.025 / 4, 11) * np.log(ratios).std(ddof=1) / math.sqrt(12)
    assert change.n == (12, 12)
    assert change.run_ratios == pytest.approx(tuple(ratios))
    assert change.low == pytest.approx(math.exp(np.log(ratios).mean() - half), rel=1e-4)
    assert change.high == pytest.approx(math.exp(np.log(ratios).mean() + half), rel=1e-4)
    assert comparison.warnings == ()


def test_noise_between_runs_is_blamed_at_most_once_in_twenty() -> None:
    assert sum(report_of_runs(*turns(seed, MIN_RUNS)).failed for seed in range(20)) <= 1


def test_a_slowdown_of_a_fifth_is_found_in_that_noise_and_named() -> None:
    reports = [report_of_runs(*turns(seed, 20, 1.2)) for seed in range(10)]
    named = [[change.name for change in report.comparisons[0].offending(0.05)] for report in reports]
    assert sum("single-stream: embed" in names for names in named) >= 9
    assert sum("single-stream: decode" in names for names in named) <= 1


def test_pairs_beside_other_programs_are_left_out_and_nothing_is_judged_where_too_few_remain() -> None:
    a, b = turns(0, MIN_RUNS + 2, 2.0)
    for place, runs in ((0, a), (3, b)):
        runs[place]["state"] = {"others_cores": 1.5}
    (comparison,) = report_of_runs(a, b).comparisons
    assert {change.n for change in comparison.changes} == {(MIN_RUNS, MIN_RUNS)}
    assert comparison.warnings == ("2 of 12 pairs are left out: other programs ran as they began.",)
    a[7]["state"] = a[0]["state"]
    (comparison,) = report_of_runs(a, b).comparisons
    assert {change.verdict for change in comparison.changes} == {"no interval: the machine was busy"}


def test_runs_one_after_the_other_instead_of_in_turns_are_warned_of() -> None:
    rng = np.random.default_rng(0)
    a, b = ([make_run(rng, first + number) for number in range(MIN_RUNS)] for first in (0, MIN_RUNS))
    assert report_of_runs(a, b).comparisons[0].warnings[0].startswith("The runs were not taken in turns")


@pytest.mark.parametrize(("n_a", "n_b"), [(1, 12), (9, 9), (12, 11), (2, 2)])
def test_too_few_runs_or_others_than_those_of_the_baseline_are_refused(n_a: int, n_b: int) -> None:
    a, b = turns(0, 12)
    with pytest.raises(ConfigError, match=f"A holds {n_a} runs and B {n_b}: give one run each, or at least 10"):
        report_of_runs(a[:n_a], b[:n_b])


def test_the_code_that_ran_is_named_and_a_mix_of_it_in_one_file_is_warned_of() -> None:
    a, b = turns(0, MIN_RUNS, 1.5)
    assert "baseline dphr 1, code 1; candidate dphr 1, code 1.5" in report_of_runs(a, b).text
    assert "Both ran dphr 1, code 1." in report_of_runs(a, a).text
    b[4]["program"] = "dphr 1, code 7"
    expected = "The runs of B are not all of one kind: dphr 1, code 1.5 and dphr 1, code 7."
    assert expected in report_of_runs(a, b).comparisons[0].warnings


def test_a_metric_that_some_runs_lack_is_listed_and_not_judged() -> None:
    a, b = turns(0, MIN_RUNS)
    scenario = b[3]["scenarios"][0]
    scenario["stages"].pop("match"), scenario["stage_samples_ms"].pop("match")
    (comparison,) = report_of_runs(a, b).comparisons
    assert comparison.unpaired == ("not in every run: single-stream: match",)
    assert "single-stream: match" not in {change.name for change in comparison.changes}


def test_names_leave_out_what_all_of_their_kind_share() -> None:
    names = ["matching (rows 10, k 3)", "matching (rows 20, k 3)", "batches: embed (batch 1, threads 0)", "start-up"]
    assert short_names(names) == ["matching (rows 10)", "matching (rows 20)", "batches: embed", "start-up"]
    assert short_names(["offline (batch 4)", "offline (batch 8): embed"]) == ["offline", "offline: embed"]
