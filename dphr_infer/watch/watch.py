"""Frames in as they come, a line for each out at once: what `dphr-infer watch` does.

A thread reads the source into a queue of a stated length. When frames come faster than they are located, the oldest of
the queue is dropped and counted, so that an answer is never older than the queue is long; frames that may wait (a film
or a folder without a rate) wait instead. Frames are located one by one in the calling thread, which is the one that a
GPU's engine and matcher belong to; so answers come in the order of the frames.

The first Ctrl-C or SIGTERM ends after the frame at hand, a second one at once. What is kept of a frame is its line and
two durations, of the last 10,000 frames: memory does not grow with time.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import TextIO

from dphr_infer.errors import ConfigError, ImageError
from dphr_infer.evaluate.listing import Format
from dphr_infer.locate.search_options import SearchOptions
from dphr_infer.measure.stats import percentile
from dphr_infer.types import LocationEstimate
from dphr_infer.watch.frames import Frame, FrameSource, Notices, SourceSettings
from dphr_infer.watch.lines import FrameLines
from dphr_infer.watch.queue import FrameQueue, Reader
from dphr_infer.watch.video import open_source

DEFAULT_QUEUE = 1
KEPT_DURATIONS = 10_000
_LOOK_S = 0.1

Locate = Callable[[Frame], LocationEstimate]


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
    locate: Locate,
    form: Format = "table",
    *,
    queue_length: int = DEFAULT_QUEUE,
    stop: threading.Event | None = None,
    out: TextIO | None = None,
    notices: Notices | None = None,
) -> WatchSummary:
    """Locate the frames of a source until it ends or `stop` is set; a line on `out` for each, flushed at once.

    A frame that cannot be located is named on stderr and the others go on. The summary is printed on stderr however
    this ends.

    Args:
        source: is read from a thread of its own.
        locate: is called in this thread.
        form: of the lines.
        queue_length: frames that may wait to be located.
        stop: ends the watch after the frame at hand.
        out: None: stdout.
        notices: None: on stderr.

    Raises:
        ImageError: the source failed for good; says how many frames were located until then.
        EngineError, GalleryError, ConfigError: as `locate`.
    """
    stop, notices = stop or threading.Event(), notices or Notices()
    lines, tally, queue = FrameLines(form, out or sys.stdout), _Tally(), FrameQueue(queue_length)
    started_s = time.monotonic()
    try:
        with Reader(source, queue, notices) as reader:
            while not stop.is_set():
                frame = queue.take(_LOOK_S)
                if frame is not None:
                    _answer(frame, locate, lines, tally, notices)
                elif queue.ended:
                    break
                else:
                    reader.check_alive()
    except ImageError as error:
        raise ImageError(f"{error} {tally.located} frames were located until then.") from error
    finally:
        summary = _summarise(tally, queue, notices, time.monotonic() - started_s)
        for line in summary.lines():
            notices.note(line)
    return summary


def _answer(frame: Frame, locate: Locate, lines: FrameLines, tally: _Tally, notices: Notices) -> None:
    taken_s = time.monotonic()
    try:
        estimate = locate(frame)
    except ImageError as error:
        tally.failed += 1
        notices.note(f"Frame {frame.number} of {frame.name} is skipped: {error}")
        return
    answered_s = time.monotonic()
    latency_ms, age_ms = 1000 * (answered_s - taken_s), 1000 * (answered_s - frame.arrived_s)
    tally.located += 1
    tally.accepted += estimate.accepted
    tally.latency_ms.append(latency_ms)
    tally.age_ms.append(age_ms)
    lines.write(frame, estimate, latency_ms, age_ms)


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


@dataclass(frozen=True, slots=True)
class WatchRequest:
    """What `dphr-infer watch` was asked for. See `SourceSettings` for the meaning of its parts."""

    search: SearchOptions
    source: str
    settings: SourceSettings
    queue_length: int
    form: Format


def run_watch(request: WatchRequest) -> WatchSummary:
    """Open bundle, gallery, engine and matcher, and watch until the source ends or a signal asks to.

    Raises:
        ImageError: the source cannot be found, failed for good, or gave frames of which none could be located.
        ConfigError: the request contradicts itself, or turns frames north that tell no yaw.
        BundleError, GalleryError, EngineError, MissingPackageError: as `dphr-infer locate`.
    """
    source = open_source(request.source, request.settings)
    if request.search.heading == "north" and not source.has_yaw:
        raise ConfigError(
            f'{source.name} tells no yaw, which --heading north turns frames by. Use --heading search, or "as-is" '
            "where the camera already looks north."
        )
    search = request.search
    bundle, gallery = search.open_files()
    with search.open(bundle, gallery) as localizer:

        def locate(frame: Frame) -> LocationEstimate:
            return search.locate(localizer, frame.image, frame.metadata.yaw_deg)

        with stop_on_signals() as stop:
            summary = watch(source, locate, request.form, queue_length=request.queue_length, stop=stop)
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
