from __future__ import annotations

import dataclasses
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dphr_infer.engines.tensorrt import cache as engine_cache
from dphr_infer.engines.tensorrt.cache import DamagedPlanError, EngineCache, EngineKey, default_folder, pack, unpack
from dphr_infer.errors import EngineError, StorageError

KEY = EngineKey("ab" * 32, "Orin, 8 SMs", "8.7", "TensorRT 10.3.0.30", "batch 1..16, best 4", ("strongly typed",))
OTHER = dataclasses.replace(KEY, tensorrt="TensorRT 10.7.0.23")
PLAN = b"a plan"

# A process that gets the engine; its build notes itself in `builds` and lasts until the file `go` is there.
PROCESS = """
import os, sys, time
from pathlib import Path
from dphr_infer.engines.tensorrt.cache import EngineCache, EngineKey

root = Path(sys.argv[1])
key = EngineKey("ab" * 32, "Orin, 8 SMs", "8.7", "TensorRT 10.3.0.30", "batch 1..16, best 4", ("strongly typed",))

def build():
    with open(root / "builds", "a") as file:
        file.write(f"{os.getpid()}\\n")
    while not (root / "go").exists():
        time.sleep(0.005)
    return f"built by {os.getpid()}".encode()

print(EngineCache(root / "cache").get_or_build(key, build).decode())
"""


def refuse_to_build() -> bytes:
    raise AssertionError("built, although nothing had to be")


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "cache")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Start `PROCESS`; what still runs at the end of the test is killed."""
    processes = []

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PROCESS, str(tmp_path)]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def wait_until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.005)


def builders(root: Path) -> list[int]:
    return [int(line) for line in (root / "builds").read_text().split()] if (root / "builds").exists() else []


def test_what_was_stored_is_loaded_under_an_equal_key_and_under_no_other(cache: EngineCache) -> None:
    assert cache.load(KEY) is None
    cache.store(KEY, PLAN)
    assert cache.load(dataclasses.replace(KEY)) == PLAN
    assert cache.load(OTHER) is None


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(EngineKey)])
def test_every_field_of_the_key_names_another_file(cache: EngineCache, field: str) -> None:
    changed = dataclasses.replace(KEY, **{field: ("x",) if field == "flags" else "x"})
    assert cache.path(changed) != cache.path(KEY)


def test_the_file_is_as_the_docstring_says_byte_by_byte() -> None:
    key = EngineKey("00", "g", "8.7", "t", "p", ("f",))
    text = b'{"capability":"8.7","flags":["f"],"gpu":"g","model_sha256":"00","profile":"p","tensorrt":"t"}'
    assert len(text) == 93
    body = b"DPHRPLAN\x01\x00\x00\x00\x5d\x00\x00\x00" + text + b"\x06\x00\x00\x00\x00\x00\x00\x00a plan"
    assert pack(key, PLAN) == body + hashlib.sha256(body).digest()
    assert EngineCache(Path("/x")).path(key) == Path("/x") / f"{hashlib.sha256(text).hexdigest()}.plan"


@given(content=st.binary(max_size=200), gpu=st.text(max_size=20), flags=st.lists(st.text(max_size=5), max_size=3))
def test_every_engine_comes_back_as_it_was(content: bytes, gpu: str, flags: list[str]) -> None:
    key = dataclasses.replace(KEY, gpu=gpu, flags=tuple(flags))
    assert unpack(pack(key, content), key, "a file") == content


@given(place=st.integers(0, len(pack(KEY, PLAN)) - 1), flip=st.integers(1, 255))
def test_a_flipped_byte_anywhere_is_refused(place: int, flip: int) -> None:
    packed = bytearray(pack(KEY, PLAN))
    packed[place] ^= flip
    with pytest.raises(DamagedPlanError, match=r"^a file [^\n]+$"):
        unpack(bytes(packed), KEY, "a file")


@given(length=st.integers(0, len(pack(KEY, PLAN)) - 1))
@example(length=0)
@example(length=16)
@example(length=31)
def test_a_truncated_file_is_refused(length: int) -> None:
    with pytest.raises(DamagedPlanError):
        unpack(pack(KEY, PLAN)[:length], KEY, "a file")


@given(more=st.binary(min_size=1, max_size=40))
def test_bytes_after_the_end_are_refused(more: bytes) -> None:
    with pytest.raises(DamagedPlanError):
        unpack(pack(KEY, PLAN) + more, KEY, "a file")


def sealed(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()


def test_another_layout_another_key_and_a_wrong_length_are_refused_though_the_digest_fits() -> None:
    body = pack(KEY, PLAN)[:-32]
    with pytest.raises(DamagedPlanError, match="layout version 2; this program reads version 1"):
        unpack(sealed(body[:8] + b"\x02" + body[9:]), KEY, "a file")
    with pytest.raises(DamagedPlanError, match=r"holds the engine of another key: .*TensorRT 10\.7\.0\.23"):
        unpack(pack(OTHER, PLAN), KEY, "a file")
    with pytest.raises(DamagedPlanError, match="holds 7 bytes of engine, its head says 6"):
        unpack(sealed(body + b"!"), KEY, "a file")
    with pytest.raises(DamagedPlanError, match="does not begin with DPHRPLAN"):
        unpack(b"\x7fELF" * 100, KEY, "a file")


def test_load_refuses_a_damaged_file_and_leaves_it(cache: EngineCache) -> None:
    cache.store(KEY, PLAN)
    cache.path(KEY).write_bytes(cache.path(KEY).read_bytes()[:-1])
    with pytest.raises(EngineError, match="damaged or truncated"):
        cache.load(KEY)
    assert cache.path(KEY).exists()


def test_get_or_build_replaces_a_damaged_file_and_says_so(
    cache: EngineCache, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.store(KEY, PLAN)
    packed = bytearray(cache.path(KEY).read_bytes())
    packed[-40] ^= 1
    cache.path(KEY).write_bytes(packed)
    assert cache.get_or_build(KEY, lambda: b"a new plan") == b"a new plan"
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "is damaged or truncated" in error and "It is removed and made again." in error
    assert cache.get_or_build(KEY, refuse_to_build) == b"a new plan"


def test_a_plan_of_another_version_under_this_name_is_built_again(cache: EngineCache) -> None:
    cache.store(OTHER, PLAN)
    cache.path(OTHER).rename(cache.path(KEY))
    assert cache.get_or_build(KEY, lambda: b"mine") == b"mine"


def test_load_or_remove_takes_a_damaged_file_for_none(cache: EngineCache) -> None:
    assert cache.load_or_remove(KEY) is None
    cache.store(KEY, PLAN)
    assert cache.load_or_remove(KEY) == PLAN
    cache.path(KEY).write_bytes(b"")
    assert cache.load_or_remove(KEY) is None
    assert not cache.path(KEY).exists()


@pytest.mark.parametrize("mode", [0o666, 0o664, 0o646])
def test_a_plan_that_others_may_write_is_neither_loaded_nor_replaced(cache: EngineCache, mode: int) -> None:
    cache.store(KEY, PLAN)
    cache.path(KEY).chmod(mode)
    for take in (cache.load, lambda key: cache.get_or_build(key, refuse_to_build)):
        with pytest.raises(EngineError, match=f"has mode {mode:o}, so other users may change it. An engine is exec"):
            take(KEY)
    cache.path(KEY).chmod(0o644)
    assert cache.load(KEY) == PLAN


def test_a_plan_of_another_user_is_refused(cache: EngineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.store(KEY, PLAN)
    owner = os.geteuid()
    if owner == 0:
        os.chown(cache.path(KEY), 4321, -1)
        owner = 4321
    else:  # only root can give a file away; the other way round it is the same comparison
        monkeypatch.setattr(engine_cache.os, "geteuid", lambda: owner + 1)
    with pytest.raises(EngineError, match=f"belongs to user {owner}, this program runs as"):
        cache.load(KEY)


def test_a_link_a_folder_and_a_pipe_in_place_of_a_plan_are_refused(cache: EngineCache, tmp_path: Path) -> None:
    cache.store(KEY, PLAN)
    cache.path(KEY).rename(tmp_path / "elsewhere")
    cache.path(KEY).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EngineError, match="cannot be read"):
        cache.load(KEY)
    cache.path(KEY).unlink()
    cache.path(KEY).mkdir()
    with pytest.raises(EngineError, match="not a regular file"):
        cache.load(KEY)
    cache.path(KEY).rmdir()
    os.mkfifo(cache.path(KEY))
    with pytest.raises(EngineError, match="not a regular file"):
        cache.load(KEY)


def test_the_cache_is_open_to_its_user_alone(cache: EngineCache) -> None:
    cache.store(KEY, PLAN)
    assert cache.folder.stat().st_mode & 0o777 == 0o700
    assert cache.path(KEY).stat().st_mode & 0o022 == 0


def test_the_default_folder_follows_xdg_and_ignores_a_relative_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/pilot")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_folder() == Path("/home/pilot/.cache/dphr/engines") == EngineCache().folder
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/pilot")
    assert default_folder() == Path("/var/cache/pilot/dphr/engines")
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert default_folder() == Path("/home/pilot/.cache/dphr/engines")


def test_a_folder_that_cannot_be_made_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="a part of its path is a file"):
        EngineCache(tmp_path / "file" / "cache").get_or_build(KEY, refuse_to_build)


def test_a_build_that_fails_leaves_nothing_and_frees_the_lock(cache: EngineCache) -> None:
    def fail() -> bytes:
        raise EngineError("no")

    with pytest.raises(EngineError, match=r"^no$"):
        cache.get_or_build(KEY, fail)
    assert [path.suffix for path in cache.folder.iterdir()] == [".lock"]
    assert cache.get_or_build(KEY, lambda: PLAN) == PLAN


def test_threads_that_ask_at_once_build_once(cache: EngineCache) -> None:
    built, results = [], []

    def build() -> bytes:
        built.append(threading.get_ident())
        time.sleep(0.05)
        return PLAN

    threads = [threading.Thread(target=lambda: results.append(cache.get_or_build(KEY, build))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1 and results == [PLAN] * 4


def test_of_two_processes_that_build_at_once_the_second_waits_and_takes_the_firsts_engine(
    tmp_path: Path, start: Callable[[], subprocess.Popen[str]]
) -> None:
    first = start()
    wait_until(lambda: builders(tmp_path) == [first.pid])
    second = start()
    assert second.stderr is not None
    assert second.stderr.readline() == f"Process {first.pid} is building this engine: waiting for it.\n"
    assert first.poll() is None and second.poll() is None
    (tmp_path / "go").touch()
    assert first.communicate()[0] == second.communicate()[0] == f"built by {first.pid}\n"
    assert builders(tmp_path) == [first.pid]


def test_a_builder_that_is_killed_leaves_a_free_lock_and_the_one_that_waits_builds(
    tmp_path: Path, start: Callable[[], subprocess.Popen[str]]
) -> None:
    first = start()
    wait_until(lambda: builders(tmp_path) == [first.pid])
    second = start()
    assert second.stderr is not None and "waiting" in second.stderr.readline()
    first.send_signal(signal.SIGKILL)
    first.wait()
    wait_until(lambda: builders(tmp_path) == [first.pid, second.pid])
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]
    (tmp_path / "go").touch()
    assert second.communicate()[0] == f"built by {second.pid}\n"
    assert start().communicate()[0] == f"built by {second.pid}\n"


def test_a_writer_that_is_killed_leaves_a_part_that_the_next_one_removes(cache: EngineCache) -> None:
    script = f"""
import os, signal
from pathlib import Path
from dphr_infer.files.atomic import atomic_file
with atomic_file(Path({str(cache.path(KEY))!r})) as part:
    part.write_bytes(b"half a plan")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL
    assert [path.suffix for path in cache.folder.iterdir()] == [".part"]
    assert cache.get_or_build(KEY, lambda: PLAN) == PLAN
    assert sorted(path.suffix for path in cache.folder.iterdir()) == [".lock", ".plan"]
    assert cache.load(KEY) == PLAN
