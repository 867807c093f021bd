"""What happens while TensorRT builds: phases as one percentage, and Ctrl-C as a request to stop.

The builder calls back from C++. An exception there, a KeyboardInterrupt too, ends in a stack trace on the terminal,
so Ctrl-C is held back until the builder has returned.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from dphr_infer.measure.progress import Progress

PERCENT = 100


@dataclass(slots=True)
class _Phase:
    """A phase that runs: the part of the whole that it stands for, and its number of steps."""

    start: float
    width: float
    steps: int
    done: int = 0


class BuildProgress:
    """Shows nested phases on one bar of 100; see `PhaseListener`.

    A phase stands for the step of its parent during which it began. Its own steps count as equally long, because the
    builder says no more. The bar never goes back.

    Args:
        bar: of `PERCENT` steps.
        stop: when set, the next step ends the build.
    """

    def __init__(self, bar: Progress, stop: threading.Event) -> None:
        self._bar, self._stop = bar, stop
        self._phases: dict[str, _Phase] = {}
        self._shown = 0
        self._lock = threading.Lock()  # the builder may call from several threads

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase begins."""
        with self._lock:
            above = self._phases.get(parent) if parent is not None else None
            if above is None:
                above = _Phase(0.0, 1.0, 1)
            width = above.width / above.steps
            self._phases[phase] = _Phase(above.start + width * min(above.done, above.steps - 1), width, max(steps, 1))

    def step(self, phase: str, number: int) -> bool:
        """A step of a phase is done; False asks the builder to stop."""
        with self._lock:
            found = self._phases.get(phase)
            if found is not None:
                found.done = number + 1
                reached = found.start + found.width * min(found.done / found.steps, 1.0)
                self._show(round(PERCENT * reached), f"{phase} {found.done}/{found.steps}")
        return not self._stop.is_set()

    def finish(self, phase: str) -> None:
        """A phase ends, done or not."""
        with self._lock:
            self._phases.pop(phase, None)

    def complete(self) -> None:
        """The build has succeeded."""
        self._show(PERCENT, "built")

    def _show(self, percent: int, text: str) -> None:
        ahead = max(percent - self._shown, 0)
        self._shown += ahead
        self._bar.advance(ahead, text)


@contextmanager
def held_interrupts() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C or SIGTERM sets; the signal happens at the end of the block, before an error in it.

    Only the main thread hears signals, and a handler that is not Python's cannot be called: there the event is never
    set, and a signal goes where it always went.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed inside, or what the previous handler raises for the signal that came.
    """
    pressed = threading.Event()
    came: list[int] = []
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return

    def hold(number: int, frame: FrameType | None) -> None:
        came.append(number)
        pressed.set()

    held = [number for number, handler in previous.items() if callable(handler)]
    for number in held:
        signal.signal(number, hold)
    try:
        yield pressed
    except Exception:  # a build that was asked to stop ends in one
        if not pressed.is_set():
            raise
    finally:
        for number in held:
            signal.signal(number, previous[number])
    if came:
        handler = previous[signal.Signals(came[0])]
        if callable(handler):
            handler(came[0], None)
        raise KeyboardInterrupt
