"""Two programs that take turns on one machine: whoever lacks the baton waits, so neither disturbs the other.

A runner tells the arbiter "I wait" by a byte in its pipe, and goes on when a byte comes back. The arbiter waits until
both wait, and then lets one after the other go. A runner that ends closes its pipe; the other then has the machine to
itself.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence

from dphr_infer.errors import ConfigError

_BYTE = b"."


class Baton:
    """A runner's end: `wait` gives the machine to the other and returns when it is this one's turn."""

    def __init__(self, go_fd: int, waiting_fd: int) -> None:
        self._go_fd, self._waiting_fd = go_fd, waiting_fd

    def wait(self) -> None:
        """Let the other measure, and wait until it is this one's turn again.

        Raises:
            ConfigError: the arbiter is gone.
        """
        try:
            os.write(self._waiting_fd, _BYTE)
            granted = os.read(self._go_fd, 1)
        except OSError:
            granted = b""
        if not granted:
            raise ConfigError("The program that lets two runs take turns has ended: start it again.")


class Lane:
    """The arbiter's end of one runner.

    Attributes:
        fds: the runner's two, to hand to its process and then to close here.
    """

    def __init__(self) -> None:
        go_read, self._go_fd = os.pipe()
        self._waiting_fd, waiting_write = os.pipe()
        self.fds = (go_read, waiting_write)

    def started(self) -> None:
        """The runner's process holds its ends now."""
        for fd in self.fds:
            os.close(fd)

    def waits(self) -> bool:
        """Whether the runner waits; False once it has ended. Returns when it is one of the two."""
        return bool(os.read(self._waiting_fd, 1))

    def go(self) -> None:
        """Let the runner go on until it waits again."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._go_fd, _BYTE)

    def close(self) -> None:
        """Close the arbiter's ends; a runner that waits then ends with an error."""
        for fd in (self._go_fd, self._waiting_fd):
            os.close(fd)


def take_turns(lanes: Sequence[Lane], ended: Callable[[Lane], None]) -> None:
    """Let the runners go on in turns until each has ended; the first of `lanes` begins, once all wait.

    `ended` is told of each as soon as it has; what it raises ends the turns.
    """
    left = []
    for lane in lanes:
        if lane.waits():
            left.append(lane)
        else:
            ended(lane)
    while left:
        for lane in tuple(left):
            lane.go()
            if not lane.waits():
                left.remove(lane)
                ended(lane)
