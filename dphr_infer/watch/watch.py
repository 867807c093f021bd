"""Frames in as they come, a line for each out at once: what `dphr-infer watch` does.

A thread reads the source into a queue of a stated length. When frames come faster than they are located, the oldest of
the queue is dropped and counted, so that an answer is never older than the queue is long; frames that may wait (a film
or a folder without a rate) wait instead. Frames are located in the calling thread, which a GPU's engine and matcher
belong to, and answered in their order. On a GPU a frame that waits already is copied while the one before is computed;
one that is still to come is not waited for.

The first Ctrl-C or SIGTERM ends after the frame at hand, a second one at once. What is kept of a frame is its line and
two durations, of the last 10,000 frames: memory does not grow with time.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import TextIO

from dphr_infer.errors import ConfigError, ImageError
from dphr_infer.locate.localizer import Localizer
from dphr_infer.locate.stream import Finder
from dphr_infer.measure.stats import percentile
from dphr_infer.types import Format, Prior, RowRanges
from dphr_infer.watch.frames import Frame, FrameSource, Notices
from dphr_infer.watch.lines import FrameLines
from dphr_infer.watch.queue import FrameQueue, Reader
from dphr_infer.watch.settings import SourceSettings

KEPT_DURATIONS = 10_000
_LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class WatchSummary:
    """What became of the frames: given = passed + failed + dropped + located, once the source has ended.

    Attributes:
        seconds: from the first look at the source to the end.
        given: frames that the source gave.
        passed: not taken, because the rate asks for fewer.
        failed: no picture, or not to be located; named on stderr.
        dropped: left out because a newer one had come, or the end.
        located: answered.
        accepted: of those, by the localizer's rule.
        n_durations: answers that the durations are of, the last 10,000 at most.
        latency_p50_ms, latency_p90_ms: from taking a frame out of the queue to its answer; None without one.
        age_p50_ms, age_p90_ms: from the frame's arrival to its answer.
    """

    seconds: float
    given: int
    passed: int
    failed: int
    dropped: int
    located: int
    accepted: int
    n_durations: int
    latency_p50_ms: float | None
    latency_p90_ms: float | None
    age_p50_ms: float | None
    age_p90_ms: float | None

    def lines(self) -> list[str]:
        """For people."""
        passed = f", {self.passed} passed over by the rate" if self.passed else ""
        lines = [
            f"{self.given} frames in {self.seconds:.1f} s{passed}: {self.located} located ({self.accepted} accepted), "
            f"{self.dropped} dropped, {self.failed} failed"
        ]
        if self.latency_p50_ms is not None:
            lines.append(
                f"  latency p50 {self.latency_p50_ms:.1f} ms, p90 {self.latency_p90_ms:.1f} ms; age of an answer p50 "
                f"{self.age_p50_ms:.1f} ms, p90 {self.age_p90_ms:.1f} ms (n = {self.n_durations})"
            )
        return lines


@dataclass(slots=True)
class _Tally:
    """What the locating thread counts."""

    located: int = 0
    accepted: int = 0
    failed: int = 0
    latency_ms: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT_DURATIONS))
    age_ms: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT_DURATIONS))


def watch(
    source: FrameSource,
    finder: Finder,
    rows: RowRanges | None = None,
    form: Format = "table",
    *,
    queue_length: int = 1,
    stop: threading.Event | None = None,
    out: TextIO | None = None,
    notices: Notices | None = None,
) -> WatchSummary:
    """Locate the frames of a source until it ends or `stop` is set; a line on `out` for each, flushed at once.

    A frame that cannot be located is named on stderr and the others go on. The summary is printed on stderr however
    this ends.

    Args:
        source: is read from a thread of its own.
        finder: is called in this thread.
        rows: that a prior allows; None allows all.
        form: of the lines.
        queue_length: frames that may wait to be located.
        stop: ends the watch after the frames at hand.
        out: None: stdout.
        notices: None: on stderr.

    Raises:
        ImageError: the source failed for good; says how many frames were located until then.
        EngineError, GalleryError, ConfigError: as of `Localizer.locate`.
    """
    stop, notices = stop or threading.Event(), notices or Notices()
    queue = FrameQueue(queue_length)
    desk = _Desk(finder, rows, FrameLines(form, out or sys.stdout), notices)
    started_s = time.monotonic()
    try:
        with Reader(source, queue, notices) as reader:
            while not stop.is_set():
                frame = queue.take(0.0 if desk.on_the_way else _LOOK_S)
                if frame is not None:
                    desk.start(frame)
                elif desk.on_the_way:
                    desk.finish()
                elif queue.ended:
                    break
                else:
                    reader.check_alive()
        while desk.on_the_way:
            desk.finish()
    except ImageError as error:
        while desk.on_the_way:
            desk.finish()
        raise ImageError(f"{error} {desk.tally.located} frames were located until then.") from error
    finally:
        summary = _summarise(desk.tally, queue, notices, time.monotonic() - started_s)
        for line in summary.lines():
            notices.note(line)
    return summary


class _Desk:
    """Frames handed to the finder and answered in their order, each with a line."""

    def __init__(self, finder: Finder, rows: RowRanges | None, lines: FrameLines, notices: Notices) -> None:
        self._finder, self._rows, self._lines, self._notices = finder, rows, lines, notices
        self._frames: deque[tuple[Frame, float]] = deque()
        self.tally = _Tally()

    @property
    def on_the_way(self) -> int:
        """Frames started and not answered."""
        return len(self._frames)

    def start(self, frame: Frame) -> None:
        """Hand a frame over; wait for the first where no more may be on the way."""
        taken_s = time.monotonic()
        try:
            self._finder.start(frame.photo(), self._rows)
        except ImageError as error:
            self._skip(frame, error)
            return
        self._frames.append((frame, taken_s))
        if self.on_the_way == self._finder.most_on_the_way:
            self.finish()

    def finish(self) -> None:
        """Answer the frame that was started first."""
        frame, taken_s = self._frames.popleft()
        try:
            estimate = self._finder.finish()
        except ImageError as error:
            self._skip(frame, error)
            return
        answered_s, tally = time.monotonic(), self.tally
        latency_ms, age_ms = 1000 * (answered_s - taken_s), 1000 * (answered_s - frame.arrived_s)
        tally.located += 1
        tally.accepted += estimate.accepted
        tally.latency_ms.append(latency_ms)
        tally.age_ms.append(age_ms)
        self._lines.write(frame, estimate, latency_ms, age_ms)

    def _skip(self, frame: Frame, error: ImageError) -> None:
        self.tally.failed += 1
        self._notices.note(f"Frame {frame.number} of {frame.name} is skipped: {error}")


def _summarise(tally: _Tally, queue: FrameQueue, notices: Notices, seconds: float) -> WatchSummary:
    latency, age = list(tally.latency_ms), list(tally.age_ms)
    return WatchSummary(
        seconds=seconds,
        given=notices.given,
        passed=notices.passed,
        failed=notices.failed + tally.failed,
        dropped=queue.dropped,
        located=tally.located,
        accepted=tally.accepted,
        n_durations=len(latency),
        latency_p50_ms=percentile(latency, 50) if latency else None,
        latency_p90_ms=percentile(latency, 90) if latency else None,
        age_p50_ms=percentile(age, 50) if age else None,
        age_p90_ms=percentile(age, 90) if age else None,
    )


def run_watch(
    localizer: Localizer, source: FrameSource, settings: SourceSettings, prior: Prior | None, form: Format
) -> WatchSummary:
    """Open the localizer and watch until the source ends or a signal asks to.

    Raises:
        ImageError: the source failed for good, or gave frames of which none could be located.
        ConfigError: frames without a yaw are to be turned north.
        GalleryError, EngineError, MissingPackageError: as of `Localizer`.
    """
    if localizer.settings.heading == "north" and not source.has_yaw:
        raise ConfigError(
            f'{source.name} has no yaw, which `heading` "north" turns frames by. Use "search", or "as-is" where the '
            "camera already looks north."
        )
    rows = localizer.rows_in(prior)
    with localizer, stop_on_signals() as stop:
        summary = watch(source, localizer, rows, form, queue_length=settings.queue, stop=stop)
    if summary.failed and not summary.located:
        raise ImageError(f"None of the {summary.failed} frames that were looked at could be located; see above.")
    return summary


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that the first SIGINT or SIGTERM sets; the next one raises KeyboardInterrupt. Main thread only."""
    stop = threading.Event()

    def handle(number: int, _: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
