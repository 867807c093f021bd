from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dphr_infer.errors import DatasetError, StorageError
from dphr_train.cities.workers import each_forked


def leave_mark(folder: Path, item: int) -> None:
    (folder / str(item)).touch()


def die(_: Path, item: int) -> None:
    if item == 1:
        os._exit(9)


def refuse(_: Path, item: int) -> None:
    raise StorageError(f"item {item} could not be written")


@pytest.mark.parametrize("workers", [1, 2, 0])
def test_every_item_is_worked_on_once(tmp_path: Path, workers: int) -> None:
    assert sum(1 for _ in each_forked(leave_mark, tmp_path, list(range(7)), workers)) == 7
    assert sorted(path.name for path in tmp_path.iterdir()) == [str(i) for i in range(7)]


def test_a_killed_process_is_told_and_does_not_hang(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="One of 2 worker processes was killed"):
        list(each_forked(die, tmp_path, [0, 1, 2, 3], 2))


def test_an_error_of_the_work_arrives_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="could not be written"):
        list(each_forked(refuse, tmp_path, [0, 1], 2))


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended but was not yet waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


FAMILY = """
import os, sys, time
from pathlib import Path
from dphr_train.cities.workers import each_forked

def sleep(folder, item):
    (folder / f"{os.getpid()}.pid").touch()
    time.sleep(600)

list(each_forked(sleep, Path(sys.argv[1]), [0, 1], 2))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends the children on Linux")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_no_worker_outlives_a_killed_parent(tmp_path: Path, end: signal.Signals) -> None:
    parent = subprocess.Popen([sys.executable, "-c", FAMILY, str(tmp_path)])
    try:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("*.pid"))) < 2:
            assert parent.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        workers = [int(path.stem) for path in tmp_path.glob("*.pid")]
        assert all(alive(pid) for pid in workers)
    finally:
        parent.send_signal(end)
        parent.wait(timeout=60)
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.02)
