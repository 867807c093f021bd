from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

import pytest

from bench.compare.baton import Baton, Lane, take_turns
from dphr_infer.errors import ConfigError


class Runner(threading.Thread):
    """Notes its name `times` times between turns, then closes its pipes, as a process that ends does."""

    def __init__(self, name: str, times: int, notes: list[str]) -> None:
        super().__init__(daemon=True)
        self.lane, self.times, self.notes, self.label = Lane(), times, notes, name

    def run(self) -> None:
        baton = Baton(*self.lane.fds)
        with contextlib.suppress(ConfigError):  # the arbiter is gone
            for _ in range(self.times):
                baton.wait()
                self.notes.append(self.label)
        self.lane.started()


@pytest.fixture
def notes() -> list[str]:
    return []


def run_all(runners: list[Runner]) -> None:
    for runner in runners:
        runner.start()
    gone: list[Lane] = []
    take_turns([runner.lane for runner in runners], gone.append)
    assert set(gone) == {runner.lane for runner in runners}
    for runner in runners:
        runner.join(10)
        runner.lane.close()


@pytest.mark.parametrize(
    ("a", "b", "expected"), [(3, 3, "ABABAB"), (4, 2, "ABABAA"), (1, 4, "ABBBB"), (0, 2, "BB"), (0, 0, "")]
)
def test_runners_go_on_in_turns_and_the_last_one_alone(a: int, b: int, expected: str, notes: list[str]) -> None:
    run_all([Runner("A", a, notes), Runner("B", b, notes)])
    assert "".join(notes) == expected


def test_what_is_raised_about_one_that_ended_ends_the_turns(notes: list[str]) -> None:
    short, long = Runner("A", 1, notes), Runner("B", 5, notes)
    for runner in (short, long):
        runner.start()

    def ended(lane: Lane) -> None:
        raise ConfigError("it failed")

    with pytest.raises(ConfigError, match="it failed"):
        take_turns([short.lane, long.lane], ended)
    assert notes[0] == "A" and notes.count("B") <= 1
    for runner in (short, long):
        runner.lane.close()


def test_nobody_begins_before_both_wait(notes: list[str]) -> None:
    late = threading.Event()

    class Late(Runner):
        def run(self) -> None:
            late.wait(10)
            super().run()

    first, second = Runner("A", 1, notes), Late("B", 1, notes)
    waiting = threading.Thread(target=run_all, args=([first, second],), daemon=True)
    waiting.start()
    waiting.join(0.2)
    assert notes == []
    late.set()
    waiting.join(10)
    assert notes == ["A", "B"]


@pytest.fixture
def lane() -> Iterator[Lane]:
    made = Lane()
    yield made
    made.started()


def test_a_runner_whose_arbiter_is_gone_ends_with_an_error(lane: Lane) -> None:
    lane.close()
    with pytest.raises(ConfigError, match="lets two runs take turns has ended"):
        Baton(*lane.fds).wait()


def test_descriptors_that_are_none_are_the_same_error() -> None:
    gone, other = os.pipe()
    os.close(gone), os.close(other)
    with pytest.raises(ConfigError, match="has ended"):
        Baton(gone, other).wait()
