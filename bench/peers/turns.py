"""Calls that take turns, A B B A, so that whatever else the machine does meets all of them, and each follows each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.sampling import repeat
from dphr_infer.measure.clock import now_ms

_WORDS = 200


@dataclass(frozen=True, slots=True, eq=False)
class Turns:
    """What the calls took.

    Attributes:
        samples_ms: {name: float64 (n,)} of those that never failed; sample i of all is of one turn.
        failed: {name: why} of the others, which had no turn since.
    """

    samples_ms: dict[str, NDArray[np.float64]]
    failed: dict[str, str]


def describe(error: Exception) -> str:
    """An error of somebody else's package as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:_WORDS]


def take_turns(calls: Mapping[str, Callable[[], object]], seconds: float, needed: frozenset[str]) -> Turns:
    """Time calls in turns, after one turn that is not counted.

    A call that raises is left out from then on, with its reason; one of `needed` ends everything with its error. What
    a call does to the process itself, such as ending it, is not caught.
    """
    samples: dict[str, list[float]] = {name: [] for name in calls}
    failed: dict[str, str] = {}

    order = list(calls.items())

    def turn() -> None:
        for name, call in order:
            if name in failed:
                continue
            start_ms = now_ms()
            try:
                call()
            except Exception as error:  # whatever a stranger's package raises
                if name in needed:
                    raise
                failed[name] = describe(error)
                continue
            samples[name].append(now_ms() - start_ms)
        order.reverse()

    turn()
    for durations in samples.values():
        durations.clear()
    repeat(turn, seconds)
    return Turns({name: np.array(values) for name, values in samples.items() if name not in failed}, failed)
