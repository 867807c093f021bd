from __future__ import annotations

import io
import signal
import threading
from typing import Any

import pytest

from dphr_infer.cli.terminal import Terminated, raised_termination
from dphr_infer.engines.tensorrt.progress import PERCENT, BuildProgress, held_interrupts
from dphr_infer.measure.progress import Progress


class Bar:
    """Adds up what it is given."""

    def __init__(self) -> None:
        self.percent, self.texts = 0, [""]

    def advance(self, steps: int = 1, text: str = "") -> None:
        assert steps >= 0
        self.percent += steps
        self.texts.append(text)


def make() -> tuple[BuildProgress, Any]:
    bar: Any = Bar()
    return BuildProgress(bar, threading.Event()), bar


def test_a_phase_stands_for_the_step_of_its_parent_during_which_it_began() -> None:
    progress, bar = make()
    progress.start("whole", None, 4)
    progress.step("whole", 0)
    assert bar.percent == 25
    progress.start("part", "whole", 5)  # the second quarter
    progress.step("part", 0)
    assert bar.percent == 30 and bar.texts[-1] == "part 1/5"
    progress.start("grain", "part", 2)  # from 30 to 35
    progress.step("grain", 0)
    assert bar.percent == 32
    progress.finish("grain")
    progress.step("part", 4)
    progress.finish("part")
    assert bar.percent == 50
    progress.step("whole", 1)
    assert bar.percent == 50
    progress.step("whole", 3)
    assert bar.percent == PERCENT
    progress.complete()
    assert bar.percent == PERCENT and bar.texts[-1] == "built"


def test_the_bar_never_goes_back_when_a_second_phase_begins_in_the_same_step() -> None:
    progress, bar = make()
    progress.start("whole", None, 2)
    for name in ("first", "second"):
        progress.start(name, "whole", 10)
        progress.step(name, 7)
        assert bar.percent == 40
        progress.finish(name)
    progress.complete()
    assert bar.percent == PERCENT


def test_odd_reports_of_a_builder_do_no_harm() -> None:
    progress, bar = make()
    assert progress.step("never begun", 3)
    progress.finish("never begun")
    progress.start("orphan", "unknown parent", 0)
    progress.step("orphan", 5)  # more steps than announced
    progress.start("late", "orphan", 3)  # after its parent's last step
    progress.step("late", 1)
    assert bar.percent == PERCENT


def test_a_set_stop_ends_the_build_at_the_next_step() -> None:
    stop = threading.Event()
    bar: Any = Bar()
    progress = BuildProgress(bar, stop)
    progress.start("whole", None, 3)
    assert progress.step("whole", 0) is True
    stop.set()
    assert progress.step("whole", 1) is False


def test_a_log_shows_percent_phase_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("dphr_infer.measure.progress.time.monotonic", lambda: now[0])
    log = io.StringIO()
    with Progress("model.fp16.onnx: TensorRT builds", PERCENT, "%", log) as bar:
        progress = BuildProgress(bar, threading.Event())
        progress.start("Timing tactics", None, 8)
        for step in range(3):
            now[0] += 10
            progress.step("Timing tactics", step)
    assert log.getvalue().splitlines()[0] == (
        "model.fp16.onnx: TensorRT builds 25/100 ( 25%) 1.2 %/s, 0:20 elapsed, 1:00 left  Timing tactics 2/8"
    )


def test_ctrl_c_is_held_until_the_end_of_the_block() -> None:
    reached = False
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), held_interrupts() as pressed:
        assert not pressed.is_set()
        signal.raise_signal(signal.SIGINT)
        assert pressed.is_set()
        reached = True
    assert reached and signal.getsignal(signal.SIGINT) is before


def test_a_handler_of_the_programs_own_hears_the_interrupt_after_the_block() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        with pytest.raises(KeyboardInterrupt), held_interrupts():
            signal.raise_signal(signal.SIGINT)
            assert heard == []
        assert heard == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_ignored_ctrl_c_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with held_interrupts() as pressed:
            signal.raise_signal(signal.SIGINT)
        assert not pressed.is_set()
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_error_inside_restores_the_handler_and_passes_through() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match="inside"), held_interrupts():
        raise ValueError("inside")
    assert signal.getsignal(signal.SIGINT) is before


def test_sigterm_is_held_too_and_raises_what_the_program_raises_for_it() -> None:
    reached = False
    with pytest.raises(Terminated), raised_termination(), held_interrupts() as pressed:
        signal.raise_signal(signal.SIGTERM)
        reached = pressed.is_set()
    assert reached


def test_an_error_that_a_stop_led_to_gives_way_to_the_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt), held_interrupts():
        signal.raise_signal(signal.SIGINT)
        raise ValueError("stopped")


def test_another_thread_builds_without_touching_signals() -> None:
    found = []

    def work() -> None:
        with held_interrupts() as pressed:
            found.append(pressed.is_set())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]
