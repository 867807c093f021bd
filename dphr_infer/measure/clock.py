"""The one clock of every duration: monotonic, in the unit that its reader needs; only differences mean something.

`time.monotonic()` is the same clock: a moment that a camera stamped with it may be taken from `now_s()`.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Iterator

CLOCK = "time.monotonic_ns"


def now_ms() -> float:
    """Milliseconds now."""
    return time.monotonic_ns() / 1e6


def now_s() -> float:
    """Seconds now."""
    return time.monotonic()


@contextlib.contextmanager
def collection_off() -> Iterator[None]:
    """Collect garbage now, and not again before the block ends."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
