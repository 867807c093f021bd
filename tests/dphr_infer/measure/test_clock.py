from __future__ import annotations

import gc
import time

from dphr_infer.measure.clock import collection_off, now_ms, now_s


def test_both_units_are_of_the_clock_that_stamps_frames() -> None:
    first, middle, last = time.monotonic(), now_ms() / 1e3, now_s()
    assert first <= middle <= last + 1e-6


def test_collection_is_off_inside_and_as_before_after_an_error() -> None:
    seen = []
    try:
        with collection_off():
            seen.append(gc.isenabled())
            raise ValueError
    except ValueError:
        seen.append(gc.isenabled())
    assert seen == [False, True]
