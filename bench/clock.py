"""How a duration is taken: a monotonic clock, warm calls first, and no garbage collection in between."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

WARM_UP_CALLS = 5
MIN_CALLS = 10
CLOCK = "time.perf_counter_ns"


def now_ms() -> float:
    """Milliseconds of the monotonic clock; only differences mean something."""
    return time.perf_counter_ns() / 1e6


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


def repeat(call: Callable[[], object], seconds: float) -> None:
    """Call at least MIN_CALLS times, and until `seconds` have passed; garbage collection is off."""
    with collection_off():
        start_ms = now_ms()
        calls = 0
        while calls < MIN_CALLS or now_ms() - start_ms < 1000 * seconds:
            call()
            calls += 1


def time_calls(call: Callable[[], object], seconds: float) -> NDArray[np.float64]:
    """Duration of each call, after WARM_UP_CALLS that are not counted.

    The call must end when its work has ended: nothing here waits for a device.

    Returns:
        float64 (n,), milliseconds, in the order of the calls; n >= MIN_CALLS.
    """
    samples: list[float] = []

    def timed() -> None:
        start_ms = now_ms()
        call()
        samples.append(now_ms() - start_ms)

    for _ in range(WARM_UP_CALLS):
        call()
    repeat(timed, seconds)
    return np.array(samples)
