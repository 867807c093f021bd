"""How far work is: a bar on a terminal, a line every 15 s in a log, a `logging` record where none was asked for."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TextIO, TypeVar

T = TypeVar("T")

_LOG_INTERVAL_S = 15.0
_SCREEN_INTERVAL_S = 0.2

_logger = logging.getLogger(__name__)
_shown = False


@contextmanager
def progress_shown() -> Iterator[None]:
    """Draw the progress of all work in the block on stderr, as every command does; elsewhere it is only logged."""
    global _shown
    before, _shown = _shown, True
    try:
        yield
    finally:
        _shown = before


def format_duration(seconds: float) -> str:
    """Seconds as 0:07, 2:05 or 1:02:05."""
    whole = int(seconds + 0.5)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Progress:
    """A bar with rate and time left: redrawn in place on a terminal, a line every 15 s in a log.

    Used as a context manager; `advance` may carry a short text such as "loss 3.21".

    Args:
        label, total, unit: what is counted, up to how many, and of what.
        stream: where to draw; None draws on stderr inside `progress_shown`, and logs the same lines elsewhere.
    """

    def __init__(self, label: str, total: int, unit: str = "", stream: TextIO | None = None) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._stream = sys.stderr if stream is None and _shown else stream
        self._live = self._stream is not None and self._stream.isatty()
        self._started = self._shown = time.monotonic()
        self._done = self._first = 0
        self._text = ""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._draw(last=True)

    def resume_at(self, done: int) -> None:
        """State that `done` steps were finished by an earlier run, so that rate and time left stay honest."""
        self._done = self._first = done

    def advance(self, steps: int = 1, text: str = "") -> None:
        """Count `steps` more and redraw when it is time to."""
        self._done += steps
        self._text = text or self._text
        interval = _SCREEN_INTERVAL_S if self._live else _LOG_INTERVAL_S
        if time.monotonic() - self._shown >= interval:
            self._draw(last=False)

    def _draw(self, last: bool) -> None:
        self._shown = time.monotonic()
        elapsed = self._shown - self._started
        rate = (self._done - self._first) / elapsed if elapsed > 0 else 0.0
        left = f", {format_duration((self._total - self._done) / rate)} left" if rate > 0 and not last else ""
        share = self._done / self._total if self._total else 1.0
        line = (
            f"{self._label} {self._done}/{self._total} ({share:4.0%}) {rate:.1f} {self._unit}/s, "
            f"{format_duration(elapsed)} elapsed{left}{'  ' + self._text if self._text else ''}"
        )
        if self._stream is None:
            _logger.info(line)
            return
        self._stream.write(f"\r\x1b[K{line}" + ("\n" if last else "") if self._live else line + "\n")
        self._stream.flush()


def track(items: Iterable[T], label: str, total: int, unit: str = "") -> Iterator[T]:
    """Yield the items and show how far it is."""
    with Progress(label, total, unit) as progress:
        for item in items:
            yield item
            progress.advance()
