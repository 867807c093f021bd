"""A pair of real runs, and programs that stand in for one where many runs or a broken one are needed."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from bench.cli import main
from bench.compare import versus
from bench.compare.baton import Lane
from bench.compare.judge import MIN_RUNS
from bench.compare.series import read_records
from bench.compare.versus import OWN_PROGRAM, VersusRequest, run_versus
from dphr_infer.errors import ConfigError
from dphr_infer.files.bundle import Bundle

ROOT = Path(__file__).resolve().parents[3]
# This installation, which measures the machine's ceilings on little memory and for a short time.
HASTY = (
    OWN_PROGRAM[0],
    "-c",
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); from bench.machine import roofline; roofline._BUFFER_BYTES = 4 << "
    f"20; roofline.PASSES = 2; roofline._CACHES = 0; roofline._PRODUCT_SECONDS = 0.01; "
    f"roofline.PRODUCT_SIDES = (256,)\n{OWN_PROGRAM[2]}",
)
# Takes the words of a run, waits for its turn, and writes a report with durations about BASE; then ends with CODE.
STAND_IN = """#!{python} -S
import json, os, sys
go, waiting = map(int, sys.argv[sys.argv.index("--baton") + 1 :][:2])
os.write(waiting, b"."); os.read(go, 1)
samples = [{base} + 0.001 * (n % 7) for n in range(70)]
record = dict(schema="dphr-bench", schema_version=3, date="2026-01-02T03:04:05+00:00", valid={valid},
              machine=dict(cores=2), subject={{}}, program="stand-in {base}", scenarios=[dict(
              name="single-stream", settings={{}}, latency=dict(n=70, p50_ms={base}), samples_ms=samples)])
if {code} < 2:
    open(sys.argv[sys.argv.index("--json") + 1], "w").write(json.dumps(record) + "\\n")
print("why it failed", file=sys.stderr)
sys.exit({code})
"""


def program(folder: Path, name: str, base: float, code: int = 0) -> str:
    path = folder / name
    path.write_text(STAND_IN.format(python=sys.executable, base=base, code=code, valid=code == 0))
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def plain(tmp_path: Path) -> str:
    return program(tmp_path, "plain", 10.0)


def versus_main(tmp_path: Path, baseline: str, candidate: str, *options: str) -> int:
    words = ["--baseline", baseline, "--candidate", candidate, "--out", str(tmp_path / "out"), "--pairs", str(MIN_RUNS)]
    return main(["versus", *words, *options, "--", "BUNDLE"])


def test_two_real_runs_take_turns_and_give_the_reports_of_a_run(
    bundle: Bundle, gallery: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    went: list[Lane] = []
    plain_go = Lane.go
    monkeypatch.setattr(Lane, "go", lambda lane: (went.append(lane), plain_go(lane))[1])
    options = ["--seconds", "0.4", "--scenarios", "single-stream", "--batches", "1", "--startups", "0"]
    words = (str(bundle.folder), str(gallery), *options)
    request = VersusRequest(HASTY, HASTY, words, tmp_path)
    lines = versus._run_pair(1, request, tmp_path)
    records = {role: json.loads(text) for role, text in lines.items()}
    assert set(records) == {"baseline", "candidate"}
    for record in records.values():
        assert record["valid"]
        assert record["scenarios"][0]["latency"]["n"] >= 10
        assert record["left_out"]["energy a photo"] == "another run took turns with this one"
    lanes = list(dict.fromkeys(went))
    # 1.6 s of single-stream and 0.4 s of three more cases, in slots of 0.2 s
    assert [lane is lanes[0] for lane in went[:16]] == [True, False] * 8
    assert records["baseline"]["program"] == records["candidate"]["program"] != ""


def test_pairs_are_judged_and_a_slower_candidate_fails(
    tmp_path: Path, plain: str, capsys: pytest.CaptureFixture[str]
) -> None:
    slower = program(tmp_path, "slower", 11.0)
    assert versus_main(tmp_path, plain, slower, "--fail-above", "5%", "--png", str(tmp_path / "c.png")) == 1
    out, err = capsys.readouterr()
    assert "single-stream +10.0 %" in out.split("FAILED")[1]
    assert "baseline stand-in 10.0; candidate stand-in 11.0" in out
    assert "pair 10 of 10: single-stream 10.0 and 11.0 ms; 0.0 min left" in err
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    assert [len(read_records(tmp_path / "out" / f"{role}.jsonl")) for role in ("baseline", "candidate")] == [10, 10]


def test_equal_programs_pass(tmp_path: Path, plain: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert versus_main(tmp_path, plain, plain, "--fail-above", "5%") == 0
    assert "Passed" in capsys.readouterr().out


def test_an_invalid_run_is_kept_and_fails(tmp_path: Path, plain: str, capsys: pytest.CaptureFixture[str]) -> None:
    invalid = program(tmp_path, "invalid", 10.0, code=1)
    assert versus_main(tmp_path, plain, invalid, "--fail-above", "5%") == 1
    assert "an invalid record shows nothing" in capsys.readouterr().out


def test_a_run_that_fails_is_told_in_its_own_words(
    tmp_path: Path, plain: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert versus_main(tmp_path, plain, program(tmp_path, "broken", 10.0, code=2)) == 2
    assert "Run 1 of the candidate ended with exit code 2: why it failed" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_that_fails_ends_the_other_at_once(tmp_path: Path) -> None:
    endless = tmp_path / "endless"
    endless.write_text(
        f"#!{sys.executable} -S\nimport os, sys\n"
        'go, waiting = map(int, sys.argv[sys.argv.index("--baton") + 1 :][:2])\n'
        'while True: os.write(waiting, b"."); os.read(go, 1) or sys.exit(3)\n'
    )
    endless.chmod(0o755)
    request = VersusRequest((str(endless),), (program(tmp_path, "broken", 1.0, code=2),), ("BUNDLE",), tmp_path / "o")
    begun = time.monotonic()
    with pytest.raises(ConfigError, match="Run 1 of the candidate ended with exit code 2"):
        run_versus(request)
    assert time.monotonic() - begun < 30


def test_an_installation_without_versus_is_named_as_such(tmp_path: Path, plain: str) -> None:
    older = tmp_path / "older"
    older.write_text('#!/bin/sh\necho "dphr-bench: error: Unrecognized options: --baton" >&2\nexit 2\n')
    older.chmod(0o755)
    with pytest.raises(ConfigError, match=r"Run 1 of the baseline .* a version without versus: both"):
        run_versus(VersusRequest((str(older),), (plain,), ("BUNDLE",), tmp_path / "o"))


def test_reports_without_a_common_metric_are_told_after_the_first_pair(tmp_path: Path, plain: str) -> None:
    other = Path(program(tmp_path, "other", 10.0))
    other.write_text(other.read_text().replace("single-stream", "offline"))
    with pytest.raises(ConfigError, match="none in common"):
        run_versus(VersusRequest((plain,), (str(other),), ("BUNDLE",), tmp_path / "o"))
    assert not list((tmp_path / "o").glob("*.jsonl"))


@pytest.mark.parametrize("word", ["--json", "--png=x.png", "--baton", "--ht"])
def test_outputs_of_a_run_are_refused(word: str, tmp_path: Path, plain: str) -> None:
    with pytest.raises(ConfigError, match="is not for the runs of versus"):
        VersusRequest((plain,), (plain,), ("BUNDLE", word, "x"), tmp_path)


def test_whole_pairs_are_kept_when_a_later_one_fails(
    tmp_path: Path, plain: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_pair = versus._run_pair

    def interrupted(number: int, *rest: object) -> dict[str, str]:
        if number == 3:
            raise KeyboardInterrupt
        return run_pair(number, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(versus, "_run_pair", interrupted)
    assert versus_main(tmp_path, plain, plain) == 130
    assert f"kept in {tmp_path / 'out'}/: 2 whole pairs; compare needs 10" in capsys.readouterr().err
    assert [len(read_records(path)) for path in sorted((tmp_path / "out").iterdir())] == [2, 2]


def test_an_interrupt_ends_both_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asleep = tmp_path / "asleep"
    asleep.write_text(f"#!{sys.executable} -S\nimport time\ntime.sleep(60)\n")
    asleep.chmod(0o755)
    started: list[int] = []
    plain_start = versus._start

    def noted(*arguments: object) -> object:
        runner = plain_start(*arguments)  # type: ignore[arg-type]
        started.append(runner.process.pid)
        return runner

    def interrupted(lanes: object, ended: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(versus, "_start", noted)
    monkeypatch.setattr(versus, "take_turns", interrupted)
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        versus._run_pair(1, VersusRequest((str(asleep),), (str(asleep),), ("BUNDLE",), tmp_path), tmp_path)
    assert time.monotonic() - begun < 30
    assert len(started) == 2
    for pid in started:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_reports_that_are_there_are_not_overwritten(tmp_path: Path, plain: str) -> None:
    (tmp_path / "candidate.jsonl").write_text("mine")
    with pytest.raises(ConfigError, match=r"candidate\.jsonl is there already"):
        run_versus(VersusRequest((plain,), (plain,), ("BUNDLE",), tmp_path))
    assert (tmp_path / "candidate.jsonl").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--pairs", "9"], "--pairs is 9: fewer than 10"),
        (["--baseline", "no-such-program"], "no-such-program is no program"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    options: list[str], words: str, tmp_path: Path, plain: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert versus_main(tmp_path, plain, plain, *options) == 2
    assert words in capsys.readouterr().err


def test_a_program_that_is_no_bench_is_told(tmp_path: Path, plain: str) -> None:
    with pytest.raises(ConfigError, match=r"Run 1 of the candidate .*: it wrote no report, as a dphr-bench does"):
        run_versus(VersusRequest((plain,), ("/bin/true",), ("BUNDLE",), tmp_path / "o"))


def test_a_sweep_is_refused(tmp_path: Path, plain: str) -> None:
    with pytest.raises(ConfigError, match="sweep takes no turns"):
        VersusRequest((plain,), (plain,), ("sweep", "match"), tmp_path)


def test_without_the_words_of_a_run_it_says_where_they_go(
    tmp_path: Path, plain: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["versus", "--baseline", plain, "--out", str(tmp_path / "out")]) == 2
    assert "give the arguments of a run after --" in capsys.readouterr().err


def test_a_program_that_cannot_be_started_is_told(tmp_path: Path, plain: str) -> None:
    none = tmp_path / "none"
    none.write_text("#!/no/such/interpreter\n")
    none.chmod(0o755)
    with pytest.raises(ConfigError, match=r"The candidate .*none cannot be started: No such file"):
        run_versus(VersusRequest((plain,), (str(none),), ("BUNDLE",), tmp_path / "out"))
