import errno
import os
from pathlib import Path

import pytest

from dphr_infer.atomic import atomic_file, atomic_folder
from dphr_infer.errors import StorageError


def test_a_file_appears_whole_and_replaces_the_old(tmp_path: Path) -> None:
    target = tmp_path / "new/folder/file"
    for text in ("old", "new"):
        with atomic_file(target) as temporary:
            temporary.write_text(text)
            assert not target.exists() or target.read_text() == "old"
        assert target.read_text() == text
    assert [path.name for path in target.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("error", [RuntimeError(), KeyboardInterrupt()])
def test_an_interrupted_file_leaves_the_old_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(type(error)), atomic_file(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise error
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "old")]


@pytest.mark.parametrize(
    ("number", "advice"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "read-only"), (errno.EIO, "error")]
)
def test_a_refusal_of_the_system_is_one_line_with_its_mend(tmp_path: Path, number: int, advice: str) -> None:
    for manager in (atomic_file, atomic_folder):
        with pytest.raises(StorageError, match=advice), manager(tmp_path / "out"):
            raise OSError(number, "error")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "out") as temporary:
        (temporary / "file").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with atomic_folder(tmp_path / "out") as temporary:
        (temporary / "file").write_text("whole")
    assert (tmp_path / "out/file").read_text() == "whole"


def test_a_folder_that_exists_is_kept(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="exists already"), atomic_folder(tmp_path):
        pass


def test_a_parent_that_is_a_file_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError), atomic_file(tmp_path / "file/below"):
        pass


def test_a_target_that_is_no_regular_file_is_refused_and_kept(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("")
    for target, words in [
        (tmp_path, "is a folder"),
        (tmp_path / "pipe", "a device or a pipe"),
        (Path("/dev/null"), "a device or a pipe"),
        (tmp_path / "file/below", "a part of its path is a file"),
    ]:
        with pytest.raises(StorageError, match=words), atomic_file(target):
            pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "pipe"]
