"""What every command shares: an error of the user's as one line, exit code 2, and a progress bar fit for a log."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TextIO, TypeVar

from dphr_infer.errors import DphrError

T = TypeVar("T")

EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_LOG_INTERVAL_S = 15.0
_SCREEN_INTERVAL_S = 0.2


class Terminated(KeyboardInterrupt):
    """SIGTERM, as `timeout` and systemd send it. Whatever cleans up after an interrupt cleans up after this."""


@contextmanager
def raised_termination() -> Iterator[None]:
    """Raise `Terminated` in the block at the first SIGTERM; further ones do not disturb the cleaning up.

    Only the main thread can hear signals; elsewhere, and where SIGTERM is ignored on purpose, nothing is changed. A
    forked child dies of the signal as it would without this block. The previous handler is restored.
    """
    previous = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or previous in (signal.SIG_IGN, None):
        yield
        return
    owner = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        signal.signal(number, signal.SIG_IGN)
        raise Terminated

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def run_command(program: str, main: Callable[[], None]) -> int:
    """Run a command; a DphrError, a lack of permission or a full stdout is one line on stderr and exit code 2.

    An interrupt is 130 and SIGTERM 143, after everything half-written was removed.
    """
    try:
        with raised_termination():
            main()
            sys.stdout.flush()
    except DphrError as error:
        # A message names files, and a name may hold anything.
        print(f"{program}: {printable(str(error))}", file=sys.stderr)
        return 2
    except Terminated:
        print(f"{program}: terminated", file=sys.stderr)
        return EXIT_TERMINATED
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _silence_stdout()
        return 0
    except PermissionError as error:
        where = printable(str(error.filename or "a file"))
        print(f"{program}: {where} may not be read or written by this user: change its permissions.", file=sys.stderr)
        return 2
    except OSError as error:
        # Files are written through `atomic`, whose errors are ours; what is left without a file name is a stream.
        if error.filename is not None or error.errno not in _FULL:
            raise
        _silence_stdout()
        print(f"{program}: the output could not be written: {error.strerror}. Free some space.", file=sys.stderr)
        return 2
    return 0


def _silence_stdout() -> None:
    """Lead stdout nowhere, so that Python's last flush of it cannot fail once more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def printable(text: str) -> str:
    """A text on one line: line ends, other control characters and undecodable bytes of file names are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def format_duration(seconds: float) -> str:
    """Seconds as 0:07, 2:05 or 1:02:05."""
    whole = int(seconds + 0.5)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Progress:
    """A bar with rate and time left: redrawn in place on a terminal, a line every 15 s in a log.

    Used as a context manager; `advance` may carry a short text such as "loss 3.21".
    """

    def __init__(self, label: str, total: int, unit: str = "", stream: TextIO | None = None) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._stream = stream if stream is not None else sys.stderr
        self._live = self._stream.isatty()
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
        if self._live:
            self._stream.write(f"\r\x1b[K{line}" + ("\n" if last else ""))
        else:
            self._stream.write(line + "\n")
        self._stream.flush()


def track(items: Iterable[T], label: str, total: int, unit: str = "") -> Iterator[T]:
    """Yield the items and show how far it is."""
    with Progress(label, total, unit) as progress:
        for item in items:
            yield item
            progress.advance()
