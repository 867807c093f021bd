from __future__ import annotations

import gc
import time
from array import array

import numpy as np
import pytest

from bench.sampling import MIN_CALLS, WARM_UP_CALLS, StopRule, measure_overhead_ns, repeat_until, sample, sample_whole


def test_sampling_gives_each_call_its_own_duration() -> None:
    pauses = iter([0.0] * WARM_UP_CALLS + [0.002, 0.012] * MIN_CALLS)
    samples = sample_whole(lambda: time.sleep(next(pauses)), StopRule(0.0))
    assert len(samples) == MIN_CALLS
    assert (samples[0::2] >= 2).all()
    assert (samples[1::2] >= 12).all()


def test_warm_up_calls_are_made_and_not_counted() -> None:
    calls = []
    samples = sample_whole(lambda: calls.append(1), StopRule(0.0))
    assert (len(calls), len(samples)) == (MIN_CALLS + WARM_UP_CALLS, MIN_CALLS)
    calls.clear()
    found = sample(lambda: calls.append(1), StopRule(0.0), warm_up=3)
    assert (len(calls), len(found.duration_ms), found.stopped) == (MIN_CALLS + 3, MIN_CALLS, "time")


def test_sampling_goes_on_until_the_seconds_have_passed() -> None:
    start = time.monotonic()
    samples = sample_whole(lambda: time.sleep(0.001), StopRule(0.1))
    assert time.monotonic() - start >= 0.1
    assert 100 >= len(samples) > MIN_CALLS


def test_sample_notes_when_each_call_began() -> None:
    pauses = iter([0.002, 0.012] * MIN_CALLS)
    found = sample(lambda: time.sleep(next(pauses)), StopRule(0.0), warm_up=0)
    assert (found.duration_ms[1::2] >= 12).all()
    assert (np.diff(found.start_ms) >= found.duration_ms[:-1]).all()


def appending(samples: array[float], values: list[float]):
    given = iter(values)
    return lambda: samples.append(next(given))


def test_a_steady_median_ends_it_but_not_before_the_least_number_of_calls() -> None:
    samples = array("d")
    stopped = repeat_until(appending(samples, [5.0] * 1000), samples, StopRule(60.0, 0.01, least=64))
    assert (stopped, len(samples)) == ("noise", 64)


def test_a_noisy_median_goes_on_until_its_interval_is_narrow() -> None:
    samples = array("d")
    spread = list(np.random.default_rng(0).uniform(1, 3, 20_000))
    stopped = repeat_until(appending(samples, spread), samples, StopRule(60.0, 0.01, least=64))
    assert stopped == "noise"
    assert 64 < len(samples) < 20_000
    without_bound = array("d")
    assert repeat_until(appending(without_bound, [5.0] * 20), without_bound, StopRule(0.0)) == "time"
    assert len(without_bound) == MIN_CALLS


def test_a_run_gives_way_each_slot_and_the_time_of_the_other_is_not_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    now_ns = [0]
    monkeypatch.setattr(time, "monotonic_ns", lambda: now_ns[0])
    samples, given_at = array("q"), []

    def call() -> None:
        now_ns[0] += 50_000_000
        samples.append(50_000_000)

    def give_way() -> None:
        given_at.append(len(samples))
        now_ns[0] += 10_000_000_000

    assert repeat_until(call, samples, StopRule(1.0, give_way=give_way)) == "time"
    assert len(samples) == 20  # a second of its own
    assert given_at == [4, 8, 12, 16]  # a fifth of a second each


def test_an_interrupt_keeps_what_was_measured_and_is_raised_where_there_is_nothing() -> None:
    calls = []

    def interrupted_at(number: int):
        def call() -> None:
            calls.append(1)
            if len(calls) == number:
                raise KeyboardInterrupt

        return call

    found = sample(interrupted_at(8), StopRule(60.0), warm_up=0)
    assert (found.stopped, len(found.duration_ms), len(found.start_ms)) == ("interrupt", 7, 7)
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        sample(interrupted_at(1), StopRule(60.0), warm_up=0)
    assert gc.isenabled()


def test_the_bench_spends_less_than_two_microseconds_on_a_sample() -> None:
    assert 10 < min(measure_overhead_ns() for _ in range(3)) < 2000
