"""Refuses a second caller instead of mixing two calls' buffers."""

from __future__ import annotations

import threading
from types import TracebackType

from dphr_infer.errors import EngineError


class OneAtATime:
    """A context manager around a call that uses buffers of its object: one thread at a time, the next is refused.

    Args:
        name: of the object, for the error.
    """

    def __init__(self, name: str) -> None:
        self._name, self._lock = name, threading.Lock()

    def __enter__(self) -> None:
        """Raise EngineError while another call runs."""
        if not self._lock.acquire(blocking=False):
            raise EngineError(
                f"{self._name} is in use by another thread, whose buffers a second call would overwrite. Open one a "
                "thread, or call in turn."
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()
