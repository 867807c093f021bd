"""The frames that a pipeline has on their way: where each lies, in what order they come back, and whose they are.

Answers come back in order and carry no name: whoever collects takes the oldest. So all frames on their way belong to
one thread, and others are refused until it has collected or dropped them.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Any

from dphr_infer.errors import EngineError

MOST = 2


@dataclass(frozen=True, slots=True, eq=False)
class Flight:
    """A submitted frame: which of the two memories it lies in, for how many matches, and the event behind it."""

    slot: int
    k: int
    done: Any


class FramesInFlight:
    """At most two frames, first in, first out, and the memory lent for the next. Change it in one thread at a time.

    Args:
        name: of the pipeline, for errors.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._flights: deque[Flight] = deque()
        self._lent_slot: int | None = None
        self._owner: threading.Thread | None = None

    def __len__(self) -> int:
        return len(self._flights)

    def check_thread(self) -> None:
        """Refuse a thread that would get, or overwrite, what is another's.

        Raises:
            EngineError: another thread's frames are on their way, or it was lent memory for its next one.
        """
        if self._owner not in (None, threading.current_thread()):
            raise EngineError(
                f"{self._name} is in use by another thread, which has {len(self)} frames on their way and "
                f"{0 if self._lent_slot is None else 1} lent memories: answers would be mixed up. Collect or drop them "
                "there, or open one a thread."
            )

    def may_forget(self) -> bool:
        """Whether there is something to forget that is this thread's, or was of a thread that has ended."""
        return self._owner is not None and (self._owner is threading.current_thread() or not self._owner.is_alive())

    def next_slot(self) -> int:
        """Where the next frame goes: into the memory that was lent for it, else into one that no frame lies in.

        Raises:
            EngineError: two are on their way.
        """
        if len(self._flights) == MOST:
            raise EngineError(f"{MOST} submitted frames are on their way: collect one first.")
        if self._lent_slot is not None:
            return self._lent_slot
        return 1 - self._flights[-1].slot if self._flights else 0

    def lend(self, slot: int) -> None:
        """The next frame is written there by this thread, and goes nowhere else."""
        self._owner, self._lent_slot = threading.current_thread(), slot

    def add(self, flight: Flight) -> None:
        """A frame of this thread is on its way; what was lent for it is its own now."""
        self._owner, self._lent_slot = threading.current_thread(), None
        self._flights.append(flight)

    def take_oldest(self) -> Flight:
        """The frame that comes back next; it is on its way no longer.

        Raises:
            EngineError: none was submitted.
        """
        if not self._flights:
            raise EngineError("No frame was submitted: there is nothing to collect.")
        flight = self._flights.popleft()
        if not self._flights and self._lent_slot is None:
            self._owner = None
        return flight

    def forget(self) -> None:
        """No frame is on its way, no memory is lent, and any thread may begin."""
        self._flights.clear()
        self._owner = self._lent_slot = None
