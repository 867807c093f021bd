"""What every test on a real GPU asks for, and the report of a run: bench/reports/gpu-tests.json.

The report is written where a GPU ran at least one test, and where nothing was left out by -k: the short runs under
compute-sanitizer leave the whole one's report alone.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dphr_infer.cuda.driver import DeviceProperties, open_cuda
from dphr_infer.engines.tensorrt.api import Api, open_tensorrt
from dphr_infer.errors import DphrError
from dphr_infer.files.atomic import atomic_file

FOLDER = "tests/gpu/"
REPORT = Path(__file__).resolve().parents[2] / "bench" / "reports" / "gpu-tests.json"


@dataclass
class Run:
    """What is known of this run; outcomes by test, with the words of those that were skipped."""

    device: DeviceProperties | None = None
    engine: str | None = None
    outcomes: dict[str, tuple[str, str]] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        found = [outcome for outcome, _ in self.outcomes.values()]
        return {outcome: found.count(outcome) for outcome in ("passed", "failed", "skipped")}

    def to_json(self) -> str:
        tests = [{"test": test, "outcome": outcome, "why": why} for test, (outcome, why) in self.outcomes.items()]
        device = None if self.device is None else dataclasses.asdict(self.device)
        report = {"device": device, "engine": self.engine, "counts": self.counts(), "tests": tests}
        return json.dumps(report, indent=1) + "\n"


_RUN = Run()


@pytest.fixture(scope="session", autouse=True)
def gpu() -> DeviceProperties:
    """Properties of the first GPU."""
    try:
        with open_cuda() as cuda:
            _RUN.device = cuda.properties
            return cuda.properties
    except DphrError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def tensorrt(gpu: DeviceProperties) -> Api:
    """The installed TensorRT or TensorRT-RTX; its name stands in the report."""
    try:
        api = open_tensorrt()
    except DphrError as error:
        pytest.skip(str(error))
    _RUN.engine = api.name
    return api


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if FOLDER not in report.nodeid or (report.when != "call" and report.passed):
        return
    if _RUN.outcomes.get(report.nodeid, ("", ""))[0] != "failed":
        words = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        _RUN.outcomes[report.nodeid] = (report.outcome, words)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    counts = _RUN.counts()
    if _RUN.device is None or not counts["passed"] + counts["failed"] or config.getoption("keyword"):
        return
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(REPORT) as temporary:
        temporary.write_text(_RUN.to_json(), encoding="utf-8")
    terminalreporter.write_line(f"written: {REPORT}")
