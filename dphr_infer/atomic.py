"""Outputs appear whole or not at all: write beside the target, flush to the disk, then rename."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dphr_infer.errors import StorageError

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
}


def storage_error(path: Path, error: OSError) -> StorageError:
    """Turn an operating system's refusal into one line with its mend."""
    reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
    return StorageError(f"{path} could not be written: {reason}. Nothing half-written was left behind.")


def check_target(target: Path) -> None:
    """Refuse a file that could not be written, before work is spent on it.

    Raises:
        StorageError: it is a folder, a device or a pipe, lies below a file, or its folder may not be written to.
    """
    try:
        if target.is_dir():
            raise StorageError(f"{target} is a folder. Name a file in it.")
        if target.exists() and not target.is_file():
            raise StorageError(f"{target} is a device or a pipe, which a file would replace. Choose a regular file.")
        folder = next(path for path in target.absolute().parents if path.exists())
    except OSError as error:
        raise storage_error(target, error) from error
    if not folder.is_dir():
        raise storage_error(target, OSError(errno.ENOTDIR, ""))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise storage_error(target, OSError(errno.EACCES, ""))


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; on success it is flushed and renamed over it, otherwise removed.

    Raises:
        StorageError: see `check_target`; or the operating system refused (disk full).
    """
    check_target(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        os.fchmod(handle, 0o644)
        os.close(handle)
    except OSError as error:
        raise storage_error(target, error) from error
    temporary = Path(name)
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

    Raises:
        StorageError: `target` exists already, or the operating system refused.
    """
    if target.exists():
        raise StorageError(f"{target} exists already. Remove it, or choose another output folder.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
        temporary.chmod(0o755)
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
