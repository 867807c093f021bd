from __future__ import annotations

import gc
import time

from bench.clock import MIN_CALLS, WARM_UP_CALLS, collection_off, time_calls


def test_time_calls_gives_each_call_its_own_duration() -> None:
    pauses = iter([0.0] * WARM_UP_CALLS + [0.002, 0.012] * MIN_CALLS)
    samples = time_calls(lambda: time.sleep(next(pauses)), seconds=0)
    assert len(samples) == MIN_CALLS
    assert (samples[0::2] >= 2).all()
    assert (samples[1::2] >= 12).all()


def test_warm_up_calls_are_made_and_not_counted() -> None:
    calls = []
    samples = time_calls(lambda: calls.append(1), seconds=0)
    assert (len(calls), len(samples)) == (MIN_CALLS + WARM_UP_CALLS, MIN_CALLS)


def test_time_calls_goes_on_until_the_seconds_have_passed() -> None:
    start = time.monotonic()
    samples = time_calls(lambda: time.sleep(0.001), seconds=0.1)
    assert time.monotonic() - start >= 0.1
    assert 100 >= len(samples) > MIN_CALLS


def test_collection_is_off_inside_and_as_before_after_an_error() -> None:
    seen = []
    try:
        with collection_off():
            seen.append(gc.isenabled())
            raise ValueError
    except ValueError:
        seen.append(gc.isenabled())
    assert seen == [False, True]
