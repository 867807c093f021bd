"""Two installations of dphr on one machine, in turns: which is faster, and by how much beyond what runs scatter.

Each pair starts a process of both. They measure the same cases for the same time, a slot of `SLOT_SECONDS` each
in turn, so that whatever the machine does in a second meets both; what is constant in a process, such as the place of
its memory, differs from pair to pair and shows in their scatter. The candidate begins every second pair.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.compare.baton import Lane, take_turns
from bench.compare.compare import compare, make_report
from bench.compare.judge import MIN_RUNS
from bench.compare.series import metrics, parse_records, read_records
from bench.machine.program import own_code, say
from dphr_infer.errors import ConfigError
from dphr_infer.files.atomic import atomic_file, check_target
from dphr_infer.measure.clock import now_s
from dphr_infer.measure.stats import format_ms

DEFAULT_PAIRS = 12
BASELINE, CANDIDATE = "baseline", "candidate"
# An exit code of 1 is a run that is INVALID and whole: the comparison says so.
_ENDED_WHOLE = (0, 1)
OWN_PROGRAM = own_code("bench.cli", "main")
_COMMANDS = ("flight", "sweep", "versus", "compare", "gpu")
# Of a run, which would be lost, or of one run written over by the next.
_OUTPUTS = ("--json", "--markdown", "--html", "--png", "--baton")


@dataclass(frozen=True, slots=True)
class VersusRequest:
    """What to run.

    Attributes:
        baseline, candidate: commands that take the arguments of `dphr-bench`.
        words: the run's own arguments, as BUNDLE GALLERY --seconds 1.
        pairs: runs of each.
        folder: gets BASELINE.jsonl and CANDIDATE.jsonl, a line a run; neither may be there.
    """

    baseline: tuple[str, ...]
    candidate: tuple[str, ...]
    words: tuple[str, ...]
    folder: Path
    pairs: int = DEFAULT_PAIRS

    def __post_init__(self) -> None:
        if self.pairs < MIN_RUNS:
            raise ConfigError(f"--pairs is {self.pairs}: fewer than {MIN_RUNS} do not show how much runs scatter.")
        if not self.words:
            raise ConfigError("Nothing to run: give the arguments of a run after --, as -- BUNDLE GALLERY.")
        if self.words[0] in _COMMANDS:
            raise ConfigError(f"{self.words[0]} takes no turns: give the arguments of a run after --.")
        for word in self.words:
            if len(word) > 2 and any(option.startswith(word.partition("=")[0]) for option in _OUTPUTS):
                raise ConfigError(f"{word} is not for the runs of versus, whose reports lie in --out: leave it out.")

    def target(self, role: str) -> Path:
        """The report of one of the two."""
        return self.folder / f"{role}.jsonl"


@dataclass(slots=True)
class _Runner:
    role: str
    lane: Lane
    process: subprocess.Popen[bytes]
    report: Path
    errors: Path

    def line(self, pair: int) -> str:
        """Its report, once it has ended.

        Raises:
            ConfigError: it failed.
        """
        code = self.process.wait()
        if code not in _ENDED_WHOLE or not self.report.exists():
            said = self.errors.read_text(errors="replace").strip().splitlines()
            if not said:
                said = ["it said nothing" if code else "it wrote no report, as a dphr-bench does"]
            if any("--baton" in line and "nrecognized" in line for line in said):
                said.append("it is of a version without versus: both installations need it")
            raise ConfigError(f"Run {pair} of the {self.role} ended with exit code {code}: {said[-1]}")
        return self.report.read_text(encoding="utf-8")


def find_program(name: str) -> tuple[str, ...]:
    """A command on PATH, or a path of one.

    Raises:
        ConfigError: it is none.
    """
    found = shutil.which(name)
    if found is None:
        raise ConfigError(f"{name} is no program: give an installation's, as ../before/.venv/bin/dphr-bench.")
    return (found,)


def _start(role: str, request: VersusRequest, scratch: Path) -> _Runner:
    program = request.baseline if role == BASELINE else request.candidate
    lane, report, errors = Lane(), scratch / f"{role}.json", scratch / f"{role}.txt"
    report.unlink(missing_ok=True)
    # Cases then end by time alone, and the two stay in step; a --noise of the user's comes later and counts.
    words = ["run", "--noise", "0", *request.words, "--json", str(report), "--baton", *map(str, lane.fds)]
    try:
        with errors.open("wb") as file:
            process = subprocess.Popen(
                [*program, *words], stdout=subprocess.DEVNULL, stderr=file, stdin=subprocess.DEVNULL, pass_fds=lane.fds
            )
    except OSError as error:
        lane.close()
        raise ConfigError(f"The {role} {program[0]} cannot be started: {error.strerror or error}.") from error
    finally:
        lane.started()
    return _Runner(role, lane, process, report, errors)


def _run_pair(number: int, request: VersusRequest, scratch: Path) -> dict[str, str]:
    """One run of each in turns; {role: its report as one line}."""
    roles = (BASELINE, CANDIDATE) if number % 2 else (CANDIDATE, BASELINE)
    with contextlib.ExitStack() as stack:
        runners = []
        for role in roles:
            runner = _start(role, request, scratch)
            stack.callback(runner.process.wait)
            stack.callback(runner.process.terminate)
            stack.callback(runner.lane.close)
            runners.append(runner)
        by_lane = {runner.lane: runner for runner in runners}
        lines: dict[str, str] = {}

        def ended(lane: Lane) -> None:
            lines[by_lane[lane].role] = by_lane[lane].line(number)

        take_turns([*by_lane], ended)
        return lines


def _headline(lines: dict[str, str]) -> str:
    """The first metric that both hold, in words."""
    found = {role: metrics(role, parse_records(text)[0]) for role, text in lines.items()}
    for name, a in found[BASELINE].items():
        if (b := found[CANDIDATE].get(name)) is not None:
            return f"{name} {format_ms(a.p50_ms)} and {format_ms(b.p50_ms)} ms"
    return "no metric in common"


def run_versus(request: VersusRequest) -> tuple[Path, Path]:
    """Run all pairs; every whole pair is kept, whatever happens to the next.

    Returns:
        the reports of baseline and candidate, for `compare_files`.

    Raises:
        ConfigError: a report is there already, a program cannot be started, a run fails, or the two have no metric in
            common.
    """
    targets = {role: request.target(role) for role in (BASELINE, CANDIDATE)}
    for path in targets.values():
        if path.exists():
            raise ConfigError(f"{path} is there already: name another folder, or remove it.")
        check_target(path)
    texts, begun, kept = dict.fromkeys(targets, ""), now_s(), 0
    try:
        with tempfile.TemporaryDirectory(prefix="dphr-versus-") as scratch:
            for number in range(1, request.pairs + 1):
                lines = _run_pair(number, request, Path(scratch))
                texts = {role: texts[role] + lines[role] for role in targets}
                if number == 1:  # what cannot be compared is told before the time is spent
                    compare([make_report(role, read_records(Path(scratch) / f"{role}.json")) for role in targets])
                with contextlib.ExitStack() as stack:
                    for role, path in targets.items():
                        stack.enter_context(atomic_file(path)).write_text(texts[role], encoding="utf-8")
                kept = number
                left_s = (now_s() - begun) / number * (request.pairs - number)
                say(f"pair {number} of {request.pairs}: {_headline(lines)}; {left_s / 60:.1f} min left")
    except BaseException:
        if kept:
            needed = "" if kept >= MIN_RUNS else f"; compare needs {MIN_RUNS}"
            say(f"kept in {request.folder}{os.sep}: {kept} whole pairs{needed}")
        raise
    return targets[BASELINE], targets[CANDIDATE]
