"""Work spread over forked processes that share what the parent has built, without copying it."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from dphr_infer.errors import DatasetError

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

S = TypeVar("S")
T = TypeVar("T")

_inherited: tuple[Callable[[Any, Any], None], Any] | None = None  # set before a fork, read by the children


def each_forked(work: Callable[[S, T], None], shared: S, items: Sequence[T], workers: int) -> Iterator[None]:
    """Run work(shared, item) for every item, yielding once per finished item, in any order.

    The processes are forked, so `shared` may be large: it is inherited, not sent. Compiled kernels that `work` needs
    should have run once before, or every process compiles them again.

    Args:
        workers: processes; 0 takes all cores that this process may use, 1 works in this process.

    Raises:
        DatasetError: a process was killed.
    """
    count = min(workers or _usable_cores(), len(items))
    if count <= 1:
        for item in items:
            work(shared, item)
            yield
        return
    global _inherited
    _inherited = (work, shared)
    executor = ProcessPoolExecutor(
        count, multiprocessing.get_context("fork"), initializer=_follow_parent, initargs=(os.getpid(),)
    )
    try:
        for done in as_completed([executor.submit(_run_inherited, item) for item in items]):
            done.result()
            yield
    except BrokenProcessPool as error:
        raise DatasetError(
            f"One of {count} worker processes was killed, most often because memory ran out. Run the command again "
            f"with fewer workers: it continues where it stopped."
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)
        _inherited = None


def _usable_cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _follow_parent(parent: int) -> None:
    """The parent handles Ctrl-C; its children finish the picture they are at, but never outlive it.

    On Linux the kernel kills them with it, whatever killed it; a picture that was being written is no whole file yet.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the kernel was asked
            os._exit(1)


def _run_inherited(item: Any) -> None:
    if _inherited is None:
        raise RuntimeError("A worker process was started without its work.")
    work, shared = _inherited
    work(shared, item)
