"""How a duration is taken: warm calls first, no garbage collection in between, and when to stop."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dphr_infer.measure.clock import collection_off, now_ms
from dphr_infer.measure.stats import half_width_share, percentile

WARM_UP_CALLS = 5
MIN_CALLS = 10
# The noise is looked at after 10 calls, and each time that the calls have grown by a quarter: every look takes time in
# proportion to the calls, so that all of them together cost a call no more than a few looks at one sample.
_LOOK_GROWTH = 1.25
_OVERHEAD_SECONDS = 0.03
_OVERHEAD_CALLS = 1000
_OVERHEAD_BLOCKS = 7

# How long a run that takes turns with another measures before it gives way: long enough for its caches to be warm again
# for most of the samples, short enough for both to meet the same machine.
SLOT_SECONDS = 0.2

Stop = Literal["noise", "time", "interrupt"]
GiveWay = Callable[[], object]


@dataclass(frozen=True, slots=True)
class StopRule:
    """When enough was measured: the noise is small and the calls are enough, or the time is over.

    Attributes:
        seconds: at most, but at least MIN_CALLS calls.
        half_width: of the p50's 95 % confidence interval, as a share of the p50; 0 leaves it to the time alone.
        least: calls before the noise may stop it, so that the percentiles that matter have their samples.
        give_way: returns once another run has measured for a while; called between two calls each SLOT_SECONDS, and
            what it takes is not counted as time.
    """

    seconds: float
    half_width: float = 0.0
    least: int = MIN_CALLS
    give_way: GiveWay | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Sampling:
    """What was measured, in the order of the calls.

    Attributes:
        start_ms: float64 (n,), when each call began, by `now_ms`.
        duration_ms: float64 (n,).
        stopped: why there are no more.
        half_width: see `stats.half_width_share`; infinite for too few samples.
    """

    start_ms: NDArray[np.float64]
    duration_ms: NDArray[np.float64]
    stopped: Stop
    half_width: float


def repeat(call: Callable[[], object], seconds: float) -> None:
    """Call at least MIN_CALLS times, and until `seconds` have passed; garbage collection is off."""
    with collection_off():
        start_ms = now_ms()
        calls = 0
        while calls < MIN_CALLS or now_ms() - start_ms < 1000 * seconds:
            call()
            calls += 1


def repeat_until(call: Callable[[], object], samples: array[float] | array[int], rule: StopRule) -> Stop:
    """Call until the rule is content with `samples`, to which each call appends one duration; collection is off.

    An interrupt ends it where there is a sample to keep, and is raised where there is none.
    """
    clock, limit_ns, slot_ns = time.monotonic_ns, int(rule.seconds * 1e9), int(SLOT_SECONDS * 1e9)
    look = max(MIN_CALLS, rule.least)
    with collection_off():
        end_ns = clock() + limit_ns
        slot_end_ns = end_ns + slot_ns if rule.give_way is None else clock() + slot_ns
        try:
            while True:
                call()
                n = len(samples)
                if n >= look and rule.half_width > 0:
                    look = int(n * _LOOK_GROWTH) + 1
                    if half_width_share(np.array(samples)) <= rule.half_width:
                        return "noise"
                now_ns = clock()
                if now_ns >= end_ns and n >= MIN_CALLS:
                    return "time"
                if now_ns >= slot_end_ns and rule.give_way is not None:
                    rule.give_way()
                    end_ns += clock() - now_ns
                    slot_end_ns = clock() + slot_ns
        except KeyboardInterrupt:
            if not samples:
                raise
            return "interrupt"


def sample(call: Callable[[], object], rule: StopRule, warm_up: int = WARM_UP_CALLS) -> Sampling:
    """Time a call again and again, after `warm_up` calls that are not counted.

    The call must end when its work has ended: nothing here waits for a device.
    """
    starts, durations = array("q"), array("q")
    clock, note_start, note_duration = time.monotonic_ns, starts.append, durations.append

    def timed() -> None:
        start_ns = clock()
        call()
        stop_ns = clock()
        note_start(start_ns)
        note_duration(stop_ns - start_ns)

    for _ in range(warm_up):
        call()
    stopped = repeat_until(timed, durations, rule)
    values = np.array(durations) / 1e6
    return Sampling(np.array(starts)[: len(values)] / 1e6, values, stopped, half_width_share(values))


def sample_whole(call: Callable[[], object], rule: StopRule) -> NDArray[np.float64]:
    """`sample` where an interrupted case is not worth keeping.

    Returns:
        float64 (n,), milliseconds, in the order of the calls.

    Raises:
        KeyboardInterrupt: it was interrupted.
    """
    found = sample(call, rule)
    if found.stopped == "interrupt":
        raise KeyboardInterrupt
    return found.duration_ms


def rounded(samples_ms: NDArray[np.float64]) -> tuple[float, ...]:
    """Samples for a record, to 0.1 microseconds."""
    return tuple(np.round(samples_ms, 4).tolist())


def measure_overhead_ns() -> float:
    """What the bench itself spends on a sample: CPU time of `sample` on a call of nothing, all looks at the noise too.

    The median of several blocks. A measured duration holds far less of it: two readings of the clock.
    """
    blocks = []
    for _ in range(_OVERHEAD_BLOCKS):
        begun: list[int] = []  # after the collection of garbage, which is no part of a sample

        def call(begun: list[int] = begun) -> None:
            if not begun:
                begun.append(time.thread_time_ns())

        found = sample(call, StopRule(_OVERHEAD_SECONDS, 1e-12, _OVERHEAD_CALLS), warm_up=0)
        blocks.append((time.thread_time_ns() - begun[0]) / len(found.duration_ms))
    return percentile(np.array(blocks), 50)
