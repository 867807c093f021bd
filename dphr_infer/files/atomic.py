"""Outputs appear whole or not at all: write beside the target, flush to the disk, then rename.

What is being written lies in `.NAME.MAKER.RANDOM.part` beside NAME. MAKER names the process that writes it, so that the
next process with the same target can remove what a killed one left behind, and never what a live one is writing.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dphr_infer.errors import StorageError, printable

_REASONS = {
    errno.ENOSPC: "the disk is full: free some space and run the command again",
    errno.EDQUOT: "the disk quota is used up: free some space and run the command again",
    errno.EFBIG: "the file system or a limit refuses a file of this size",
    errno.EACCES: "permission denied: choose a folder that you may write to",
    errno.EPERM: "permission denied: choose a folder that you may write to",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.ENOTDIR: "a part of its path is a file, not a folder: choose another folder",
    errno.EEXIST: "a part of its path is a file, not a folder: choose another folder",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
    errno.EINVAL: "the name holds a character that no file name can: choose another one",
}
_LEADS_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def storage_error(path: Path, error: OSError) -> StorageError:
    """Turn an operating system's refusal into one line with its fix."""
    reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
    return StorageError(f"{printable(str(path))} could not be written: {reason}. Nothing half-written was left behind.")


def check_target(target: Path) -> None:
    """Refuse a file that could not be written, before work is spent on it.

    Raises:
        StorageError: it is a folder, a device, a pipe or a link that leads nowhere, its name is too long or no name,
            it lies below a file, or its folder may not be written to.
    """
    shown, found = printable(str(target)), _check_place(target)
    if found is not None and stat.S_ISDIR(found.st_mode):
        raise StorageError(f"{shown} is a folder. Name a file in it.")
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise StorageError(f"{shown} is a device or a pipe, which a file would replace. Choose a regular file.")


def check_new_folder(target: Path) -> None:
    """Refuse a folder that could not be made, before work is spent on it.

    Raises:
        StorageError: it exists already, or see `check_target`.
    """
    if _check_place(target) is not None:
        raise StorageError(f"{printable(str(target))} exists already. Remove it, or choose another output folder.")


def _check_place(target: Path) -> os.stat_result | None:
    """What lies at the target, None where nothing does and something could be written there."""
    parent = target
    try:
        found = above = _stat(target)
        for parent in target.absolute().parents:
            above = _stat(parent)
            if above is not None:
                break
        _stat(_part(target) if target.name else target)
    except OSError as error:
        raise storage_error(target, error) from error
    except ValueError as error:  # a NUL
        raise storage_error(target, OSError(errno.EINVAL, "")) from error
    if above is None or not stat.S_ISDIR(above.st_mode):
        raise storage_error(target, OSError(errno.ENOTDIR, ""))
    if not os.access(parent, os.W_OK | os.X_OK):
        raise storage_error(target, OSError(errno.EACCES, ""))
    return found


def _stat(path: Path) -> os.stat_result | None:
    """Of what the path leads to; None where nothing has that name.

    Raises:
        StorageError: it is a link that leads nowhere.
        OSError: the system refuses the name.
    """
    try:
        return path.stat()
    except OSError as error:
        if error.errno not in _LEADS_NOWHERE:
            raise
    if path.is_symlink():
        shown = printable(str(path))
        raise StorageError(
            f"{shown} is a link that leads nowhere ({printable(str(path.readlink()))}). Remove it, or choose another "
            "name."
        )
    return None


@contextmanager
def new_parents(target: Path) -> Iterator[None]:
    """Make the folders above a target; when the block fails, those that were made here and are empty go again.

    Raises:
        StorageError: they cannot be made.
    """
    made: list[Path] = []
    try:
        try:
            for path in reversed([path for path in target.absolute().parents if not path.exists()]):
                with suppress(FileExistsError):  # another process was faster
                    path.mkdir()
                    made.append(path)
        except OSError as error:
            raise storage_error(target, error) from error
        yield
    except BaseException:
        for path in reversed(made):
            try:
                path.rmdir()
            except OSError:
                break
        raise


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; on success it is flushed and renamed over it, otherwise removed.

    What a killed process left of the same target is removed too, where this process opens the folder first.

    Raises:
        StorageError: see `check_target`; or the operating system refused (disk full).
    """
    check_target(target)
    with new_parents(target):
        try:
            _sweep_once(target.parent.absolute())
            temporary = _part(target)
            temporary.touch(exist_ok=False)  # 0666 less the process's umask
        except OSError as error:
            raise storage_error(target, error) from error
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(target)
            _sync_folder(target.parent)
        except OSError as error:
            raise storage_error(target, error) from error
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `target`; on success every file is flushed and the folder renamed.

    What a killed process left of the same target is removed too.

    Raises:
        StorageError: see `check_new_folder`; or the operating system refused.
    """
    check_new_folder(target)
    with new_parents(target):
        try:
            remove_left_over(target.parent, target.name)
            temporary = _part(target)
            temporary.mkdir()  # 0777 less the process's umask
        except OSError as error:
            raise storage_error(target, error) from error
        try:
            yield temporary
            for path in temporary.rglob("*"):
                if path.is_file():
                    with path.open("rb+") as file:
                        os.fsync(file.fileno())
            temporary.rename(target)
            _sync_folder(target.parent)
        except OSError as error:
            raise storage_error(target, error) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def remove_left_over(folder: Path, name: str | None = None) -> None:
    """Remove what processes of this machine that no longer live were writing into a folder when they were killed.

    Args:
        folder: to look through, not below it.
        name: of the target; None removes what is left of any.
    """
    target = ".+" if name is None else re.escape(name)
    form = re.compile(rf"\.{target}\.(\d+)-(\d+)-([0-9a-f]{{8}})\.[a-z0-9_]{{8}}\.part", re.DOTALL)
    for path in folder.iterdir():
        found = form.fullmatch(path.name)
        if found is None or found[3] != _machine() or _lives(int(found[1]), int(found[2])):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):  # it may belong to another user, and this command can do without
                path.unlink()


@functools.lru_cache(maxsize=4096)
def _sweep_once(folder: Path) -> None:
    """Once a process and folder: a data set's folder holds a hundred thousand files, each written by `atomic_file`."""
    remove_left_over(folder)


def _part(target: Path) -> Path:
    """A new name beside the target; see the head of this file."""
    maker = f"{os.getpid()}-{_start_ticks(os.getpid()) or 0}-{_machine()}"
    return target.with_name(f".{target.name}.{maker}.{secrets.token_hex(4)}.part")


def _start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since the machine did; None where that cannot be seen.

    With the number it tells a process from another of that number, also from one before the machine's last start.
    """
    try:
        # The command's name comes second, in brackets, and may hold anything.
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    except OSError:
        return None


def _lives(pid: int, ticks: int) -> bool:
    found = _start_ticks(pid)
    if found is not None:
        return found == ticks
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user, whose processes /proc may hide
        pass
    return True


@functools.cache
def _machine() -> str:
    """Eight hex digits for the machine and its numbering of processes, which each container may have its own of.

    A folder may be shared between machines and containers, and the process of another one cannot be looked up here.
    """
    numbering = Path("/proc/self/ns/pid")
    names = f"{os.uname().nodename} {numbering.readlink() if numbering.is_symlink() else ''}"
    return hashlib.sha256(names.encode()).hexdigest()[:8]
