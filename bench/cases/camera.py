"""A camera at a fixed rate: frames come when they are due, whether or not the last one is answered.

One frame may wait. Where another comes before it was taken, the older is dropped and counted as missed: an autopilot
wants the newest. The age of an answer is counted from the moment when its frame was due, so that waiting counts.
"""

from __future__ import annotations

import threading
from dataclasses import asdict

import numpy as np

from bench.cases.photo import Raw, warm_up
from bench.cases.rig import Rig
from bench.record import CAMERA
from bench.sampling import collection_off, now_ms
from bench.stats import summarise
from dphr_infer.errors import ConfigError

_LEAD_S = 0.02


class _Slot:
    """A queue of one frame (number, due_ms)."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._frame: tuple[int, float] | None = None
        self._closed = False
        self.dropped = 0

    def put(self, frame: tuple[int, float]) -> None:
        with self._changed:
            self.dropped += self._frame is not None
            self._frame = frame
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()

    def take(self) -> tuple[int, float] | None:
        """The waiting frame, as soon as there is one; None when no more will come."""
        with self._changed:
            while self._frame is None and not self._closed:
                self._changed.wait()
            frame, self._frame = self._frame, None
            return frame


class _Camera(threading.Thread):
    """Puts a frame into the slot each 1/rate_hz s; `lag_ms` is how much later than due each was there."""

    def __init__(self, slot: _Slot, rate_hz: float, frames: int) -> None:
        super().__init__(name="camera", daemon=True)
        self.begun_ms = now_ms() + 1e3 * _LEAD_S
        self.lag_ms: list[float] = []
        self._slot, self._rate_hz, self._frames = slot, rate_hz, frames
        self._stop_early = threading.Event()

    def run(self) -> None:
        for number in range(self._frames):
            due_ms = self.begun_ms + 1e3 * number / self._rate_hz
            if not self._wait_until(due_ms):
                break
            self._slot.put((number, due_ms))
            self.lag_ms.append(now_ms() - due_ms)
        self._slot.close()

    def _wait_until(self, due_ms: float) -> bool:
        """False where it was stopped meanwhile. A wait may end a little early."""
        while (left_ms := due_ms - now_ms()) > 0:
            if self._stop_early.wait(left_ms / 1e3):
                return False
        return not self._stop_early.is_set()

    def stop(self) -> None:
        self._stop_early.set()
        self.join()


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
    slot, rows, stopped = _Slot(), list[tuple[float, float, float]](), "time"
    with collection_off():
        source = _Camera(slot, rate_hz, frames)
        source.start()
        try:
            while (frame := slot.take()) is not None:
                number, due_ms = frame
                taken_ms = now_ms()
                rig.locate(rig.paths[number % len(rig.paths)])
                rows.append((due_ms, taken_ms, now_ms()))
        except KeyboardInterrupt:
            if not rows:
                raise
            stopped = "interrupt"
        finally:
            source.stop()
    due, taken, done = np.array(rows).T
    age = done - due
    extra = {
        "frames": len(source.lag_ms),
        "answered": len(rows),
        "missed": slot.dropped,
        "missed_share": slot.dropped / len(source.lag_ms),
        "answers_per_s": 1e3 * len(rows) / float(done[-1] - due[0]),
        "jitter": asdict(summarise(np.abs(np.diff(age)))) if len(age) > 1 else None,
        "arrival_lag": asdict(summarise(np.array(source.lag_ms))),
    }
    settings = {"rate_hz": rate_hz, "seconds": seconds, "queue": 1}
    return Raw(CAMERA, settings, due, age, {"wait": taken - due, "locate": done - taken}, len(rows), stopped, extra)
