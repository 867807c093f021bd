"""Frames from the thread that reads a source to the one that locates them."""

from __future__ import annotations

import threading
import time
from collections import deque
from types import TracebackType

from dphr_infer.errors import ConfigError, ImageError
from dphr_infer.watch.frames import Frame, FrameSource, Notices

MAX_QUEUE = 1000
_JOIN_S = 2.0


class FrameQueue:
    """Frames between two threads, at most `length`; the oldest is dropped where the newest is in a hurry."""

    def __init__(self, length: int) -> None:
        if not 1 <= length <= MAX_QUEUE:
            raise ConfigError(f"The queue is {length} frames long; it must hold 1 to {MAX_QUEUE}.")
        self._length = length
        self._frames: deque[Frame] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._error: BaseException | None = None
        self.dropped = 0

    def put(self, frame: Frame) -> None:
        """Add a frame, dropping the oldest, or waiting for room; a closed queue drops it."""
        with self._changed:
            while not frame.hurry and len(self._frames) == self._length and not self._closed:
                self._changed.wait()
            if self._closed:
                self.dropped += 1
                return
            if len(self._frames) == self._length:
                self._frames.popleft()
                self.dropped += 1
            self._frames.append(frame)
            self._changed.notify_all()

    def take(self, timeout_s: float) -> Frame | None:
        """The oldest frame; None where none came in time.

        Raises:
            Whatever the reader ended with, once every frame before it is taken.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._frames or self._closed, timeout_s)
            if self._frames:
                frame = self._frames.popleft()
                self._changed.notify_all()
                return frame
            if self._error is not None:
                raise self._error
            return None

    def close(self, error: BaseException | None = None) -> None:
        """Say that no frame will follow, and why."""
        with self._changed:
            self._closed, self._error = True, self._error or error
            self._changed.notify_all()

    @property
    def ended(self) -> bool:
        """Whether it is closed and empty."""
        with self._changed:
            return self._closed and not self._frames

    def drop_rest(self) -> None:
        """Close and drop what is left."""
        self.close()
        with self._changed:
            self.dropped += len(self._frames)
            self._frames.clear()


class Reader:
    """Reads a source in a thread of its own from `__enter__` to `__exit__`.

    A read that hangs in a driver cannot be broken off: the thread is left behind then, and ends with the process.
    """

    def __init__(self, source: FrameSource, queue: FrameQueue, notices: Notices) -> None:
        self._source, self._queue, self._notices = source, queue, notices
        self._stop = threading.Event()
        self._sign_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="frame reader", daemon=True)

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            for frame in self._source.frames(self._stop, self._notices):
                self._sign_s = time.monotonic()
                self._queue.put(frame)
        except BaseException as raised:  # raised again where the frames are taken
            error = raised
        finally:
            self._queue.close(error)

    def check_alive(self) -> None:
        """Refuse to wait on for a source that has been silent for longer than it may.

        Raises:
            ImageError: it has.
        """
        limit_s = self._source.silence_s
        # Notices are signs too: between two frames a camera may be opened several times.
        if limit_s is not None and time.monotonic() - max(self._sign_s, self._notices.said_s) > limit_s:
            raise ImageError(
                f"{self._source.name} has given no sign for {limit_s:.0f} s, and OpenCV does not come back from "
                "reading it. Look at the camera, then start again."
            )

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._queue.drop_rest()
        self._thread.join(_JOIN_S)
