import io
import itertools
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from dphr_infer.errors import ConfigError, ImageError
from dphr_infer.watch import frames as frames_module
from dphr_infer.watch.frames import FolderSource, Notices, Slots
from dphr_infer.watch.settings import SourceSettings


def write_picture(path: Path, grey: int = 100, size: tuple[int, int] = (32, 24)) -> None:
    Image.new("RGB", size, (grey, grey, grey)).save(path)


def test_a_rate_takes_the_first_frame_of_each_slot() -> None:
    slots = Slots(2.0)  # slots around 0, 0.5, 1.0, ... s
    taken = [s for s in (0.0, 0.1, 0.2, 0.26, 0.4, 0.74, 0.76, 2.1, 2.2) if slots.takes(s)]
    assert taken == [0.0, 0.26, 0.76, 2.1]


def test_a_rate_of_the_cameras_own_takes_every_frame_though_its_clock_trembles() -> None:
    slots = Slots(30.0)
    assert all(slots.takes(frame / 30 + (-1) ** frame * 0.01) for frame in range(100))
    assert all(Slots(None).takes(0.0) for _ in range(3))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"rate_hz": 0.0}, "`rate_hz` is 0"),
        ({"rate_hz": float("nan")}, "`rate_hz` is nan"),
        ({"idle_s": -1.0}, "`idle_s` is -1"),
        ({"stall_s": 0.0}, "`stall_s` is 0"),
        ({"reconnects": -1}, "`reconnects` is -1"),
        ({"pixels": "yuyv"}, "`pixels` is 'yuyv'; expected one of rgb, nv12"),
        ({"colour_matrix": "bt2020"}, "`colour_matrix` is 'bt2020'; expected one of bt601, bt709"),
        ({"colour_range": "video"}, "`colour_range` is 'video'; expected one of limited, full"),
    ],
)
def test_settings_that_cannot_work_are_refused(words: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SourceSettings(**words)


def read_all(folder: Path, **settings: float) -> tuple[list, Notices, str]:
    said = io.StringIO()
    notices = Notices(said)
    source = FolderSource(folder, SourceSettings(**{"idle_s": 0.0, **settings}))
    return list(source.frames(threading.Event(), notices)), notices, said.getvalue()


def test_a_folder_gives_its_pictures_by_name_and_they_may_wait(tmp_path: Path) -> None:
    for name in ("b.png", "a.jpg", "c.PNG"):
        write_picture(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    frames, notices, _ = read_all(tmp_path)
    assert [Path(frame.name).name for frame in frames] == ["a.jpg", "b.png", "c.PNG"]
    assert [frame.number for frame in frames] == [1, 2, 3] and notices.given == 3
    assert frames[1].image.shape == (24, 32, 3) and not frames[1].hurry
    assert frames[1].captured_at == (tmp_path / "b.png").stat().st_mtime


def test_a_picture_cut_short_is_tried_again_then_named_and_skipped(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    write_picture(tmp_path / "b.png")
    started = time.monotonic()
    frames, notices, said = read_all(tmp_path)
    assert time.monotonic() - started > 0.2
    assert [frame.number for frame in frames] == [2] and (notices.given, notices.failed) == (2, 1)
    assert "a.png is damaged or cut short" in said and said.endswith("It is skipped.\n")


def test_a_picture_that_is_still_being_written_is_read_when_it_is_whole(tmp_path: Path, monkeypatch) -> None:
    write_picture(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[:40])

    monkeypatch.setattr(frames_module, "_RETRY_S", 0.4)

    def finish() -> None:
        for end in (*range(41, 49), len(whole)):
            time.sleep(0.1)
            (tmp_path / "a.png").write_bytes(whole[:end])

    writer = threading.Thread(target=finish)
    writer.start()
    frames, notices, said = read_all(tmp_path)
    writer.join()
    assert len(frames) == 1 and notices.failed == 0 and said == ""


def test_pictures_that_come_later_are_read_once_by_time_of_writing(tmp_path: Path) -> None:
    write_picture(tmp_path / "m.png")
    stop, notices = threading.Event(), Notices(io.StringIO())
    names = []
    for frame in FolderSource(tmp_path, SourceSettings(idle_s=5.0)).frames(stop, notices):
        names.append((Path(frame.name).name, frame.hurry))
        if len(names) == 1:
            write_picture(tmp_path / "z.png")
            time.sleep(0.02)
            write_picture(tmp_path / "a.png")
        if len(names) == 3:
            stop.set()
    assert names == [("m.png", False), ("z.png", True), ("a.png", True)]


def test_a_rate_paces_a_folder_by_schedule_and_not_by_sleep(tmp_path: Path) -> None:
    for number in range(10):
        write_picture(tmp_path / f"{number}.png")
    stop, arrived, ready = threading.Event(), [], []
    for frame in FolderSource(tmp_path, SourceSettings(rate_hz=20.0, idle_s=0.0)).frames(stop, Notices()):
        arrived.append(frame.arrived_s)
        ready.append(time.monotonic())
        time.sleep(0.04)  # work that would add up if each pause began after it
    assert all(later - earlier == pytest.approx(0.05) for earlier, later in itertools.pairwise(arrived))
    assert 0.44 < ready[-1] - ready[0] < 0.7  # 9 pauses of 0.05 s; 0.81 s if the work came on top


def test_a_rate_takes_the_newest_of_the_pictures_that_came_in_a_slot(tmp_path: Path) -> None:
    write_picture(tmp_path / "0.png")
    stop, notices, names = threading.Event(), Notices(), []
    for frame in FolderSource(tmp_path, SourceSettings(rate_hz=2.0)).frames(stop, notices):
        names.append(Path(frame.name).name)
        if len(names) == 2:
            stop.set()
            continue
        for name in ("1.png", "2.png", "3.png"):
            write_picture(tmp_path / name)
            time.sleep(0.01)
    assert names == ["0.png", "3.png"]
    assert (notices.given, notices.passed) == (4, 2)


def test_a_folder_that_vanishes_ends_with_words(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    frames = FolderSource(folder, SourceSettings()).frames(threading.Event(), Notices())
    folder.rmdir()
    with pytest.raises(ImageError, match="cannot be read any more"):
        next(frames)
