"""What a source of frames promises, and the one source that needs no other package: a folder that fills.

A source is read in a thread of its own (watch.py). It hands over decoded pictures, names what it cannot use and goes
on; it ends when the source ends, and raises when the source fails for good. Films and cameras: video.py.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Protocol, TextIO

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import ImageError, printable
from dphr_infer.images.frame_format import FrameFormat
from dphr_infer.images.metadata import PhotoMetadata
from dphr_infer.images.photo import Photo, read_photo
from dphr_infer.images.preprocess import IMAGE_SUFFIXES
from dphr_infer.watch.settings import SourceSettings

POLL_S = 0.2
# A picture that is still being written is tried again this often, as long as it grows.
_RETRY_S = 0.25
_MAX_TRIES = 20


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A picture from a source.

    Attributes:
        number: from 1, over all frames that the source gave, also those that were not taken.
        name: of the file, film or camera.
        image: uint8 (H, W, 3), RGB; or the bytes that `frame_format` describes.
        arrived_s: `time.monotonic()` when it was there to be read, or when the schedule had it.
        captured_at: Unix time in seconds when a camera's frame arrived or a picture was last written; None of a film.
        position_s: in a film; None elsewhere.
        hurry: it goes stale, so an older one may be dropped for it; else it may wait.
        metadata: of a picture file; empty elsewhere.
        frame_format: what the bytes of `image` mean; None is RGB.
    """

    number: int
    name: str
    image: NDArray[np.uint8]
    arrived_s: float
    captured_at: float | None
    position_s: float | None
    hurry: bool
    metadata: PhotoMetadata = field(default_factory=PhotoMetadata)
    frame_format: FrameFormat | None = None

    def photo(self) -> Photo:
        """What is located of it."""
        return Photo(self.image, self.name, self.metadata, self.frame_format)


class Notices:
    """Says on stderr, at once, what a source could not use, and counts. The counts belong to the reading thread.

    Attributes:
        given: frames that the source gave.
        passed: of those, the ones that the rate does not take.
        failed: of those, the ones that no picture could be made of.
        said_s: `time.monotonic()` of the last notice.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self.given = self.passed = self.failed = 0
        self.said_s = time.monotonic()

    def note(self, text: str) -> None:
        """Say something that cost no frame."""
        self.said_s = time.monotonic()
        print(printable(text), file=self._stream or sys.stderr, flush=True)

    def fail(self, text: str) -> None:
        """Say why a frame is skipped."""
        self.failed += 1
        self.note(text)


class FrameSource(Protocol):
    """Where frames come from.

    Attributes:
        name: for people; a URL without its password.
        has_yaw: whether frames may tell their yaw.
        silence_s: a reader that has given no sign for this long hangs; None: it may be silent forever.
    """

    name: str
    has_yaw: bool
    silence_s: float | None

    def frames(self, stop: Event, notices: Notices) -> Iterator[Frame]:
        """Frames until the source ends or `stop` is set.

        Raises:
            ImageError: the source cannot be read, or failed for good.
            MissingPackageError: OpenCV is needed and not installed.
        """


class Slots:
    """Which frames a rate takes: of each slot of 1 / rate_hz around its multiples, the first; None takes all."""

    def __init__(self, rate_hz: float | None) -> None:
        self._rate_hz, self._last = rate_hz, -1

    def takes(self, seconds: float) -> bool:
        """Whether a frame that comes `seconds` after the start is taken."""
        if self._rate_hz is None:
            return True
        slot = math.floor(seconds * self._rate_hz + 0.5)
        taken = slot > self._last
        self._last = max(slot, self._last)
        return taken


def wait_until(moment_s: float, stop: Event) -> None:
    """Sleep until `time.monotonic()` has reached a moment, or `stop` is set."""
    if (left_s := moment_s - time.monotonic()) > 0:
        stop.wait(left_s)


class FolderSource:
    """Pictures of a folder, each name once.

    With a rate, the pictures that are there at the start come one a slot; after that the folder is looked at once a
    slot and the newest picture is taken. Without, each picture is read; those at the start wait for their turn.
    """

    has_yaw = True

    def __init__(self, folder: Path, settings: SourceSettings) -> None:
        self.name = str(folder)
        self.silence_s: float | None = None
        self._folder, self._settings = folder, settings

    def frames(self, stop: Event, notices: Notices) -> Iterator[Frame]:
        """See `FrameSource.frames`."""
        rate_hz, idle_s = self._settings.rate_hz, self._settings.idle_s
        seen = self._listed()
        first = sorted(seen)
        started_s = time.monotonic()
        for place, name in enumerate(first):
            slot_s = started_s + place / rate_hz if rate_hz else time.monotonic()
            wait_until(slot_s, stop)
            if stop.is_set():
                return
            yield from self._read(name, slot_s, rate_hz is not None, stop, notices)
        newest_s, period_s, place = time.monotonic(), 1 / rate_hz if rate_hz else POLL_S, len(first)
        while not stop.is_set():
            if idle_s is not None and time.monotonic() - newest_s >= idle_s:
                return
            # A slot that has passed is left out, so that a slow decode brings no burst behind it.
            place = max(place + 1, math.ceil((time.monotonic() - started_s) / period_s))
            wait_until(started_s + place * period_s, stop)
            there = self._listed()
            new = sorted(there - seen, key=lambda name: (_written_at(self._folder / name) or 0.0, name))
            seen = there
            if new:
                newest_s = time.monotonic()
            if rate_hz is not None:
                notices.given += len(new[:-1])
                notices.passed += len(new[:-1])
                new = new[-1:]
            for name in new:
                yield from self._read(name, time.monotonic(), True, stop, notices)

    def _listed(self) -> set[str]:
        try:
            return {name for name in os.listdir(self._folder) if name.lower().endswith(IMAGE_SUFFIXES)}  # noqa: PTH208
        except OSError as error:
            raise ImageError(f"{self._folder} cannot be read any more ({error.strerror}).") from error

    def _read(self, name: str, arrived_s: float, hurry: bool, stop: Event, notices: Notices) -> Iterator[Frame]:
        """The picture; nothing where it cannot be read, which is said."""
        path, size_before = self._folder / name, -1
        notices.given += 1
        for _ in range(_MAX_TRIES):
            size = _size_bytes(path)
            try:
                photo = read_photo(path)
            except ImageError as error:
                if size == size_before or stop.is_set():
                    notices.fail(f"{error} It is skipped.")
                    return
                size_before = size
                stop.wait(_RETRY_S)
                continue
            written_at = _written_at(path)
            yield Frame(notices.given, str(path), photo.image, arrived_s, written_at, None, hurry, photo.metadata)
            return
        notices.fail(f"{path} is still being written after {_MAX_TRIES * _RETRY_S:g} s. It is skipped.")


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -2


def _written_at(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None
