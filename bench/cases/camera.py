"""A camera at a fixed rate, by the queue and the reader of `dphr-infer watch`: frames come when they are due.

The reader's thread decodes; one frame may wait. Where another comes before it was taken, the older is dropped and
counted as missed, as is one that fell due while its reader was still decoding: an autopilot wants the newest. The age
of an answer is counted from the moment when its frame was due, so that decoding and waiting count.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from threading import Event

import numpy as np

from bench.cases.photo import Raw, warm_up
from bench.cases.rig import Rig
from bench.record import CAMERA
from dphr_infer.errors import ConfigError
from dphr_infer.images.metadata import read_photo_metadata
from dphr_infer.images.preprocess import read_image
from dphr_infer.measure.clock import collection_off, now_s
from dphr_infer.measure.stats import summarise
from dphr_infer.watch.frames import Frame, Notices, wait_until
from dphr_infer.watch.queue import FrameQueue, Reader

_LEAD_S = 0.02
_LOOK_S = 0.1
QUEUE = 1


class PhotoCamera:
    """A source that takes the photos in turn at a rate, with the first frame due `_LEAD_S` after its reader begins.

    Attributes:
        ready_s: {number of the frame: when it was decoded}.
        skipped: frames that fell due while another was decoded.
    """

    name = "a camera that replays photos"
    has_yaw = True
    silence_s: float | None = None

    def __init__(self, paths: Sequence[Path], rate_hz: float, frames: int) -> None:
        self.ready_s: dict[int, float] = {}
        self.skipped = 0
        self._paths, self._rate_hz, self._frames = paths, rate_hz, frames

    def frames(self, stop: Event, notices: Notices) -> Iterator[Frame]:
        """See `FrameSource.frames`."""
        begun_s, number = now_s() + _LEAD_S, 0
        while number < self._frames:
            due_s = begun_s + number / self._rate_hz
            wait_until(due_s, stop)
            if stop.is_set():
                return
            path = self._paths[number % len(self._paths)]
            image, metadata = read_image(path), read_photo_metadata(path)
            notices.given += 1
            self.ready_s[number] = now_s()
            yield Frame(number, str(path), image, due_s, None, None, True, metadata)
            newest = min(math.floor((now_s() - begun_s) * self._rate_hz), self._frames - 1)
            self.skipped += max(0, newest - number - 1)
            number = max(number + 1, newest)


def camera(rig: Rig, rate_hz: float, seconds: float) -> Raw:
    """Locate the frames of a camera that takes the photos in turn.

    Raises:
        ConfigError: the time is too short for one frame.
    """
    frames = int(rate_hz * seconds)
    if frames < 1:
        raise ConfigError(
            f"A camera of {rate_hz:g} Hz takes no frame in {seconds:g} s: give more time or a higher rate."
        )
    warm_up(rig)
    source, queue, notices = PhotoCamera(rig.paths, rate_hz, frames), FrameQueue(QUEUE), Notices()
    rows, stopped = list[tuple[float, float, float, float]](), "time"
    with collection_off():
        try:
            with Reader(source, queue, notices):
                while not queue.ended:
                    frame = queue.take(_LOOK_S)
                    if frame is not None:
                        taken_s = now_s()
                        rig.locate_image(frame.image, frame.metadata.yaw_deg)
                        rows.append((frame.arrived_s, source.ready_s[frame.number], taken_s, now_s()))
        except KeyboardInterrupt:
            if not rows:
                raise
            stopped = "interrupt"
    due, ready, taken, done = 1e3 * np.array(rows).T
    age, missed = done - due, queue.dropped + source.skipped
    extra = {
        "frames": notices.given + source.skipped,
        "answered": len(rows),
        "missed": missed,
        "missed_share": missed / (notices.given + source.skipped),
        "answers_per_s": 1e3 * len(rows) / float(done[-1] - due[0]),
        "jitter": asdict(summarise(np.abs(np.diff(age)))) if len(age) > 1 else None,
    }
    stages = {"decode": ready - due, "wait": taken - ready, "locate": done - taken}
    settings = {"rate_hz": rate_hz, "seconds": seconds, "queue": QUEUE}
    return Raw(CAMERA, settings, due, age, stages, len(rows), stopped, extra)
