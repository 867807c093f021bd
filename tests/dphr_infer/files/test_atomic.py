import errno
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from dphr_infer.errors import StorageError
from dphr_infer.files.atomic import atomic_file, atomic_folder, check_new_folder, check_target, remove_left_over


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
def test_a_refusal_of_the_system_is_one_line_with_its_fix(tmp_path: Path, number: int, advice: str) -> None:
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


def test_a_name_that_the_system_refuses_is_one_line_at_once(tmp_path: Path) -> None:
    for name, words in [
        ("x" * 300, "the name is too long"),
        ("x" * 240, "the name is too long"),  # the name beside it, under which it is written, is longer still
        ("x" * 300 + "/file", "the name is too long"),
        ("a\0b", "a character that no file name can"),
        ("a\0b/c", "a character that no file name can"),
    ]:
        for check in (check_target, check_new_folder):
            with pytest.raises(StorageError, match=words) as caught:
                check(tmp_path / name)
            assert str(caught.value).isprintable()
        for manager in (atomic_file, atomic_folder):
            with pytest.raises(StorageError, match=words), manager(tmp_path / name):
                pytest.fail("work was spent on it")
    assert list(tmp_path.iterdir()) == []


def test_a_link_that_leads_nowhere_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("gone\nfar")
    (tmp_path / "loop").symlink_to("loop")
    for target in ("link", "loop", "link/below", "loop/below/it"):
        for manager in (atomic_file, atomic_folder):
            with (
                pytest.raises(StorageError, match="is a link that leads nowhere") as caught,
                manager(tmp_path / target),
            ):
                pytest.fail("work was spent on it")
            assert str(caught.value).isprintable()
    with pytest.raises(StorageError, match=r"\(gone\\nfar\)"):
        check_target(tmp_path / "link")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "loop"]


def test_a_failed_output_takes_the_empty_folders_that_it_made_along(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for manager in (atomic_file, atomic_folder):
        with pytest.raises(RuntimeError), manager(tmp_path / "mine/a/b/out"):
            raise RuntimeError
        assert list(tmp_path.rglob("*")) == [tmp_path / "mine"]
        with pytest.raises(RuntimeError), manager(tmp_path / "mine/a/b/out"):
            (tmp_path / "mine/a/other").write_text("of somebody")
            raise RuntimeError
        assert sorted(tmp_path.rglob("*")) == [tmp_path / "mine", tmp_path / "mine/a", tmp_path / "mine/a/other"]
        shutil.rmtree(tmp_path / "mine/a")


def killed(folder: Path, name: str, manager: str) -> None:
    """A process is killed while it writes folder/name."""
    code = f"""
import os, signal
from pathlib import Path
from dphr_infer.files.atomic import {manager}
with {manager}(Path({str(folder / name)!r})) as part:
    (part / "half" if part.is_dir() else part).write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9


@pytest.mark.parametrize("manager", [atomic_file, atomic_folder])
def test_what_a_killed_process_left_is_removed_by_the_next_with_the_same_target(tmp_path: Path, manager) -> None:
    killed(tmp_path, "out[1]", manager.__name__)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".out[1].") and left.suffix == ".part"
    with manager(tmp_path / "out[1]") as part:
        assert list(tmp_path.iterdir()) == [part]
        if part.is_dir():
            (part / "whole").write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["out[1]"]


def test_what_a_live_or_an_unknown_process_writes_is_never_removed(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "out") as live, atomic_folder(tmp_path / "out2") as other:
        remove_left_over(tmp_path)
        assert sorted(tmp_path.iterdir()) == sorted([live, other])
    maker = live.name.split(".")[2]
    pid, ticks, machine = maker.split("-")
    assert int(pid) == os.getpid()
    kept = [
        f".out.{pid}-{ticks}-{machine}.abcdefgh.part",  # of this process
        f".out.4194999-5-{'0' * 8}.abcdefgh.part",  # of another machine: nobody can tell
        ".out.abcdefgh.part",
        f"out.4194999-5-{machine}.abcdefgh.part",
        f".out.4194999-5-{machine}.abcdefgh.part.txt",
    ]
    gone = [
        f".out.{pid}-{int(ticks) - 1}-{machine}.abcdefgh.part",  # an earlier process of this number
        f".out.4194999-5-{machine}.abcdefgh.part",  # above the kernel's highest number
        f".out.{10**30}-5-{machine}.abcdefgh.part",
        f".out\n.4194999-5-{machine}.abcdefgh.part",
    ]
    for name in kept + gone:
        (tmp_path / name).touch()
    for path in (tmp_path / "out", tmp_path / "out2"):
        path.unlink() if path.is_file() else path.rmdir()
    remove_left_over(tmp_path, "another")
    assert len(list(tmp_path.iterdir())) == len(kept + gone)
    remove_left_over(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def test_a_link_in_the_place_of_what_was_left_is_removed_and_not_followed(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "out") as part:
        machine = part.name.split(".")[2].split("-")[2]
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").touch()
    (tmp_path / f".out.4194999-5-{machine}.abcdefgh.part").symlink_to(tmp_path / "folder")
    remove_left_over(tmp_path, "out")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder", "out"]


@pytest.mark.parametrize(("umask", "file_mode", "folder_mode"), [(0o077, 0o600, 0o700), (0o002, 0o664, 0o775)])
def test_what_is_written_has_the_mode_that_the_umask_leaves(
    tmp_path: Path, umask: int, file_mode: int, folder_mode: int
) -> None:
    before = os.umask(umask)
    try:
        with atomic_file(tmp_path / "new" / "file") as temporary:
            temporary.write_text("x")
        with atomic_folder(tmp_path / "folder") as temporary:
            (temporary / "inside").write_text("x")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {"new": folder_mode, "file": file_mode, "folder": folder_mode, "inside": file_mode}
