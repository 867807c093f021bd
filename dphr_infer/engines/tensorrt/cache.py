"""Built engines on disk. Knows nothing of TensorRT: an engine is bytes under a key.

A plan is an executable artefact: who can choose its bytes, runs code in this process. It also fits only the GPU and
the version that made it. So a plan is loaded only if this user wrote it, nobody else may change it, its key is equal
in every field, and no byte has changed since.

The folder, by default $XDG_CACHE_HOME/dphr/engines, else ~/.cache/dphr/engines, holds for each key, named by its
digest:

    DIGEST.plan   the engine
    DIGEST.lock   empty but for the number of the process that builds; locked (flock) while it does. It stays.

A .plan file, integers little-endian:

    offset    length  content
    0         8       "DPHRPLAN"
    8         4       version of this layout, 1
    12        4       K, length of the key
    16        K       the key: UTF-8 JSON, one object with the fields of EngineKey, sorted, without spaces
    16 + K    8       N, length of the engine
    24 + K    N       the engine
    24+K+N    32      sha256 of every byte before it

The digest in the file's name is the sha256 of the key's JSON, in hex.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import stat
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dphr_infer.errors import EngineError
from dphr_infer.files.atomic import atomic_file, storage_error

MAGIC = b"DPHRPLAN"
VERSION = 1
_HEAD = struct.Struct("<8sII")
_LENGTH = struct.Struct("<Q")
_DIGEST_BYTES = 32
_FOR_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class DamagedPlanError(EngineError):
    """A file of the cache that is not what its name says; building again fixes it."""


@dataclass(frozen=True, slots=True)
class EngineKey:
    """All that a plan depends on; two plans with equal keys may stand for each other.

    Attributes:
        model_sha256: of the ONNX file, in hex.
        gpu: name of the GPU with what sets it apart from others of the name.
        capability: its compute capability.
        tensorrt: flavour and full version of the library that builds and runs it.
        profile: smallest, best and largest batch.
        flags: everything else that was asked of the builder.
    """

    model_sha256: str
    gpu: str
    capability: str
    tensorrt: str
    profile: str
    flags: tuple[str, ...]

    def to_json(self) -> str:
        """The exact text that is digested."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    def digest(self) -> str:
        """sha256 of the text, in hex."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def default_folder() -> Path:
    """Where engines of this user lie, by the XDG base directory specification, which ignores relative paths."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "dphr" / "engines"


def pack(key: EngineKey, content: bytes) -> bytes:
    """The bytes of a .plan file."""
    text = key.to_json().encode()
    body = b"".join([_HEAD.pack(MAGIC, VERSION, len(text)), text, _LENGTH.pack(len(content)), content])
    return body + hashlib.sha256(body).digest()


def unpack(packed: bytes, key: EngineKey, name: str) -> bytes:
    """The engine in the bytes of a .plan file.

    Raises:
        DamagedPlanError: not such a file, of another version or key, truncated or changed.
    """
    if len(packed) < _HEAD.size or packed[: len(MAGIC)] != MAGIC:
        raise DamagedPlanError(f"{name} is not an engine of this program: it does not begin with {MAGIC.decode()}.")
    _, version, key_bytes = _HEAD.unpack_from(packed)
    if version != VERSION:
        raise DamagedPlanError(f"{name} has layout version {version}; this program reads version {VERSION}.")
    end = _HEAD.size + key_bytes
    whole = len(packed) >= end + _LENGTH.size + _DIGEST_BYTES
    if not whole or hashlib.sha256(packed[:-_DIGEST_BYTES]).digest() != packed[-_DIGEST_BYTES:]:
        raise DamagedPlanError(f"{name} is damaged or truncated: its {len(packed):,} bytes do not match their sha256.")
    found = packed[_HEAD.size : end].decode(errors="replace")
    if found != key.to_json():
        raise DamagedPlanError(f"{name} holds the engine of another key: {found[:400]}.")
    (length,) = _LENGTH.unpack_from(packed, end)
    content = packed[end + _LENGTH.size : -_DIGEST_BYTES]
    if len(content) != length:
        raise DamagedPlanError(f"{name} holds {len(content):,} bytes of engine, its head says {length:,}.")
    return content


class EngineCache:
    """Engines in one folder, which processes may share.

    Args:
        folder: made when first written to, open to this user alone; None: see `default_folder`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder if folder is not None else default_folder()

    def path(self, key: EngineKey) -> Path:
        """Where the plan of a key lies, if there is one."""
        return self.folder / f"{key.digest()}.plan"

    def load(self, key: EngineKey) -> bytes | None:
        """The plan of a key; None where there is none.

        Raises:
            DamagedPlanError: the file is of another key or layout, truncated or changed.
            EngineError: the file belongs to another user or may be written by others, so it is not to be trusted.
        """
        path = self.path(key)
        packed = _read_own_file(path)
        return None if packed is None else unpack(packed, key, str(path))

    def load_or_remove(self, key: EngineKey) -> bytes | None:
        """As `load`, but a damaged file is removed, with a line on stderr, and counts as absent."""
        with self._locked(key):
            return self._load_or_remove(key)

    def store(self, key: EngineKey, content: bytes) -> None:
        """Keep a plan; a reader sees the old file or the new one, never a part.

        Raises:
            StorageError: the folder cannot be written to, or the disk is full.
        """
        with self._locked(key):
            self._write(key, content)

    def get_or_build(self, key: EngineKey, build: Callable[[], bytes]) -> bytes:
        """The plan of a key, built if it is not there.

        Processes and threads that ask at once build once: the others wait, and take what the first has built. If the
        builder fails or is killed, the lock is free again and the next in line builds.

        Raises:
            EngineError: see `load`; what `build` raises passes through.
            StorageError: see `store`.
        """
        with suppress(DamagedPlanError):  # looked at again under the lock, where it may be removed
            content = self.load(key)
            if content is not None:
                return content
        with self._locked(key):
            content = self._load_or_remove(key)
            if content is None:
                content = build()
                self._write(key, content)
        return content

    def _load_or_remove(self, key: EngineKey) -> bytes | None:
        """As `load_or_remove`, under the lock."""
        try:
            return self.load(key)
        except DamagedPlanError as error:
            print(f"{error} It is removed and made again.", file=sys.stderr, flush=True)
            self.path(key).unlink(missing_ok=True)
            return None

    def _write(self, key: EngineKey, content: bytes) -> None:
        """Write under the lock, after what a killed writer left behind is removed."""
        path = self.path(key)
        for left_over in self.folder.glob(f".{path.name}.*.part"):
            left_over.unlink(missing_ok=True)
        with atomic_file(path) as temporary:
            temporary.write_bytes(pack(key, content))

    @contextmanager
    def _locked(self, key: EngineKey) -> Iterator[None]:
        """Hold the lock of a key. The kernel frees it when the process ends, however it ends."""
        path = self.folder / f"{key.digest()}.lock"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise storage_error(path, error) from error
        try:
            _wait_for(lock)
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(lock)


def _wait_for(lock: int) -> None:
    """Take the lock; if another holds it, say so once and wait."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(lock, 20, 0).decode(errors="replace").strip() or "?"
        print(f"Process {owner} is building this engine: waiting for it.", file=sys.stderr, flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)


def _read_own_file(path: Path) -> bytes | None:
    """Read a file that only this user can have written; what was checked is what is read."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise EngineError(f"{path} cannot be read ({error.strerror}). Remove it; the engine is built again.") from error
    state = os.fstat(handle)
    if not stat.S_ISREG(state.st_mode):  # and Python would wrap no folder
        os.close(handle)
        raise EngineError(f"{path} is not a regular file. Remove it; the engine is built again.")
    with os.fdopen(handle, "rb") as file:
        if state.st_uid != os.geteuid():
            raise EngineError(
                f"{path} belongs to user {state.st_uid}, this program runs as {os.geteuid()}. An engine is executable: "
                "one of another user's is not loaded. Remove it, or give this user a cache folder of its own."
            )
        if state.st_mode & _FOR_OTHERS:
            raise EngineError(
                f"{path} has mode {stat.S_IMODE(state.st_mode):o}, so other users may change it. An engine is "
                "executable: it is not loaded. Remove it, and look who could write there."
            )
        return file.read()
