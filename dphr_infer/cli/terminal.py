"""What every program shares: the list of its commands, an error as one line and exit code 2, progress on stderr."""

from __future__ import annotations

import dataclasses
import difflib
import errno
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from dphr_infer.errors import ConfigError, DphrError, printable
from dphr_infer.files.outputs import path_of
from dphr_infer.measure.progress import progress_shown

T = TypeVar("T")

EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class Terminated(KeyboardInterrupt):
    """SIGTERM, as `timeout` and systemd send it. Whatever cleans up after an interrupt cleans up after this."""


@contextmanager
def raised_termination() -> Iterator[None]:
    """Raise `Terminated` in the block at the first SIGTERM; further ones do not disturb the cleaning up.

    Only the main thread can hear signals; elsewhere, and where SIGTERM is ignored on purpose, nothing is changed. A
    forked child dies of the signal as it would without this block. The previous handler is restored.
    """
    previous = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or previous in (signal.SIG_IGN, None):
        yield
        return
    owner = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        signal.signal(number, signal.SIG_IGN)
        raise Terminated

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


_SPOKEN = {"radius_m": "within"}


def as_options(text: str) -> str:
    """An error's words for the command line: a parameter `top_k` is the option --top-k."""
    return re.sub(r"`([a-z][a-z0-9_]*)`", lambda found: "--" + _SPOKEN.get(found[1], found[1]).replace("_", "-"), text)


def with_homes(request: T) -> T:
    """A command's arguments with each path in them, at any depth, as `path_of` takes it: ~ is the home folder."""
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(request):  # type: ignore[arg-type]
        value = getattr(request, field.name)
        if isinstance(value, Path):
            changed[field.name] = path_of(value)
        elif isinstance(value, tuple) and any(isinstance(one, Path) for one in value):
            changed[field.name] = tuple(path_of(one) if isinstance(one, Path) else one for one in value)
        elif dataclasses.is_dataclass(value):
            changed[field.name] = with_homes(value)
    return dataclasses.replace(request, **changed)  # type: ignore[type-var]


def choose_command(program: str, about: str, commands: Mapping[str, str], words: Sequence[str]) -> str | None:
    """The command that the first word names; None where the list of them was asked for, which is printed.

    It is answered without the parser of options, so that the first answer waits for no package.

    Args:
        about: one line on the program.
        commands: {name: what it does, in one line}.
        words: of the command line, behind the program.

    Raises:
        ConfigError: there is no such command.
    """
    name = words[0].replace("_", "-") if words else "--help"
    if name in ("-h", "--help"):
        width = max(map(len, commands)) + 2
        lines = [f"usage: {program} COMMAND [OPTIONS]", "", about, "", "commands:"]
        lines += [f"  {name:<{width}}{text}" for name, text in commands.items()]
        print("\n".join([*lines, "", f"{program} COMMAND --help lists what a command takes."]))
        return None
    if name not in commands:
        near = difflib.get_close_matches(name, commands) or list(commands)
        raise ConfigError(f"There is no command {words[0]!r}: choose one of {', '.join(near)}.")
    return name


def run_command(program: str, main: Callable[[], None]) -> int:
    """Run a command; a DphrError, a lack of permission or a full stdout is one line on stderr and exit code 2.

    An interrupt is 130 and SIGTERM 143, after everything half-written was removed.
    """
    try:
        with raised_termination(), progress_shown():
            main()
            sys.stdout.flush()
    except DphrError as error:
        # A message names files, and a name may hold anything.
        print(f"{program}: {printable(as_options(str(error)))}", file=sys.stderr)
        return 2
    except Terminated:
        print(f"{program}: terminated", file=sys.stderr)
        return EXIT_TERMINATED
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _silence_stdout()
        return 0
    except PermissionError as error:
        where = printable(str(error.filename or "a file"))
        print(f"{program}: {where} may not be read or written by this user: change its permissions.", file=sys.stderr)
        return 2
    except OSError as error:
        # Files are written through `atomic`, whose errors are ours; what is left without a file name is a stream.
        if error.filename is not None or error.errno not in _FULL:
            raise
        _silence_stdout()
        print(f"{program}: the output could not be written: {error.strerror}. Free some space.", file=sys.stderr)
        return 2
    return 0


def _silence_stdout() -> None:
    """Lead stdout nowhere, so that Python's last flush of it cannot fail once more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
