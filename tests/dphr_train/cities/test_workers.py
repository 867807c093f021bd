from __future__ import annotations

import os
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
