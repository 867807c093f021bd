"""A camera at a fixed rate, by `dphr-infer watch` itself: frames come when they are due.

The reader's thread decodes; one frame may wait. Where another comes before it was taken, the older is dropped and
counted as missed, as is one that fell due while its reader was still decoding: an autopilot wants the newest. The age
of an answer is counted from the moment when its frame was due, so that decoding and waiting count.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from threading import Event

import numpy as np

from bench.cases.photo import Raw, warm_up
from bench.cases.rig import Rig
from bench.record import CAMERA
from dphr_infer.errors import ConfigError
from dphr_infer.images.photo import Photo, read_photo
from dphr_infer.locate.localizer import Localizer
from dphr_infer.measure.clock import collection_off, now_s
from dphr_infer.measure.stats import summarise
from dphr_infer.types import LocationEstimate, RowRanges
from dphr_infer.watch.frames import Frame, Notices, wait_until
from dphr_infer.watch.watch import watch

_LEAD_S = 0.02
QUEUE = 1


class PhotoCamera:
    """A source that takes the photos in turn at a rate, with the first frame due `_LEAD_S` after its reader begins.

    Attributes:
        due_s, ready_s: {name of the frame: when it was due, and when it was decoded}.
        skipped: frames that fell due while another was decoded.
    """

    name = "a camera that replays photos"
    has_yaw = True
    silence_s: float | None = None

    def __init__(self, paths: Sequence[Path], rate_hz: float, frames: int) -> None:
        self.due_s, self.ready_s = dict[str, float](), dict[str, float]()
        self.skipped = 0
        self._paths, self._rate_hz, self._frames = paths, rate_hz, frames

    def frames(self, stop: Event, notices: Notices) -> Iterator[Frame]:
        """See `FrameSource.frames`."""
        begun_s, number = now_s() + _LEAD_S, 0
        while number < self._frames:
            due_s, name = begun_s + number / self._rate_hz, f"frame {number}"
            wait_until(due_s, stop)
            if stop.is_set():
                return
            photo = read_photo(self._paths[number % len(self._paths)])
            notices.given += 1
            self.due_s[name], self.ready_s[name] = due_s, now_s()
            yield Frame(number + 1, name, photo.image, due_s, None, None, True, photo.metadata)
            newest = min(math.floor((now_s() - begun_s) * self._rate_hz), self._frames - 1)
            self.skipped += max(0, newest - number - 1)
            number = max(number + 1, newest)


class _Timed:
    """The localizer as `watch` uses it, noting when it took and answered each frame."""

    def __init__(self, localizer: Localizer) -> None:
        self._localizer = localizer
        self._started: deque[tuple[str, float]] = deque()
        self.answered: list[tuple[str, float, float]] = []

    @property
    def most_on_the_way(self) -> int:
        return self._localizer.most_on_the_way

    def start(self, photo: Photo, rows: RowRanges | None = None) -> None:
        taken_s = now_s()
        self._localizer.start(photo, rows)
        self._started.append((photo.source, taken_s))

    def finish(self) -> LocationEstimate:
        name, taken_s = self._started.popleft()
        estimate = self._localizer.finish()
        self.answered.append((name, taken_s, now_s()))
        return estimate


def camera(rig: Rig, rate_hz: float, seconds: float) -> Raw:
    """Watch a camera that takes the photos in turn.

    Raises:
        ConfigError: the time is too short for one frame.
    """
    frames = int(rate_hz * seconds)
    if frames < 1:
        raise ConfigError(
            f"A camera of {rate_hz:g} Hz takes no frame in {seconds:g} s: give more time or a higher rate."
        )
    warm_up(rig)
    source, timed, stopped = PhotoCamera(rig.paths, rate_hz, frames), _Timed(rig.localizer), "time"
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, collection_off():
        notices = Notices(nowhere)
        try:
            rows = rig.localizer.rows_in(rig.prior)
            summary = watch(source, timed, rows, queue_length=QUEUE, out=nowhere, notices=notices)
            dropped, failed = summary.dropped, summary.failed
        except KeyboardInterrupt:
            if not timed.answered:
                raise
            stopped, dropped, failed = "interrupt", 0, 0
        finally:
            rig.localizer.drop()
    names = [name for name, _, _ in timed.answered]
    due, ready = (1e3 * np.array([when[name] for name in names]) for when in (source.due_s, source.ready_s))
    taken, done = 1e3 * np.array([moments[1:] for moments in timed.answered]).T
    age, came, missed = done - due, notices.given + source.skipped, dropped + source.skipped
    extra = {
        "frames": came,
        "answered": len(age),
        "missed": missed,
        "missed_share": missed / came,
        "failed": failed,
        "answers_per_s": 1e3 * len(age) / float(done[-1] - due[0]),
        "jitter": asdict(summarise(np.abs(np.diff(age)))) if len(age) > 1 else None,
    }
    stages = {"decode": ready - due, "wait": taken - ready, "locate": done - taken}
    settings = {"rate_hz": rate_hz, "seconds": seconds, "queue": QUEUE}
    return Raw(CAMERA, settings, due, age, stages, len(age), stopped, extra)
