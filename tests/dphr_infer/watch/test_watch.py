import csv
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dphr_infer.errors import ConfigError, EngineError, ImageError
from dphr_infer.files.gallery import open_gallery
from dphr_infer.images.photo import Photo
from dphr_infer.indexing.index import index
from dphr_infer.locate.open import open_localizer
from dphr_infer.maps.raster import MapRaster
from dphr_infer.types import GeoPoint, LocationEstimate, Place, RowRanges
from dphr_infer.watch.frames import FolderSource, Frame, Notices
from dphr_infer.watch.lines import FrameLines
from dphr_infer.watch.queue import FrameQueue
from dphr_infer.watch.settings import SourceSettings
from dphr_infer.watch.video import open_source
from dphr_infer.watch.watch import WatchSummary, run_watch, watch

TILE_M = 50.0
ROWS = (2, 15, 30)


@pytest.fixture(scope="module")
def site(bundle, texture, tmp_path_factory) -> Path:
    """A folder with a gallery "g" and photos of three of its tiles."""
    import rasterio
    from rasterio.transform import Affine

    folder = tmp_path_factory.mktemp("site")
    profile = {"driver": "GTiff", "height": 300, "width": 400, "count": 3, "dtype": "uint8", "crs": "EPSG:32632"}
    with rasterio.open(folder / "map.tif", "w", transform=Affine(0.5, 0, 5e5, 0, -0.5, 5.2e6), **profile) as dataset:
        dataset.write(np.moveaxis(texture(300, 400, 5), 2, 0))
    index(folder / "map.tif", bundle=bundle, out=folder / "g", tile_m=TILE_M, stride_m=25.0)
    gallery = open_gallery(folder / "g")
    (folder / "photos").mkdir()
    with MapRaster(folder / "map.tif") as raster:
        for row in ROWS:
            image = raster.read_tile(raster.spot_at(gallery.point(row), TILE_M)).image
            Image.fromarray(image).save(folder / f"photos/{row:02}.png")
    return folder


@pytest.fixture
def watch_site(bundle, site) -> Callable[..., WatchSummary]:
    """A function that watches a source on the site's gallery."""

    def ask(source: object, form: str = "table", queue: int = 1, **settings: object) -> WatchSummary:
        frames = SourceSettings(idle_s=0.0, queue=queue)
        localizer = open_localizer(bundle, site / "g", threads=1, **settings)
        return run_watch(localizer, open_source(str(source), frames), frames, None, form)

    return ask


def frame(number: int, hurry: bool = True) -> Frame:
    return Frame(number, "camera", np.zeros((16, 16, 3), np.uint8), time.monotonic(), 0.0, None, hurry)


class Given:
    """A source of frames made before, each after its pause in seconds."""

    name, has_yaw = "the camera", False
    silence_s: float | None = None

    def __init__(self, n_frames: int, pause_s: float = 0.0, hurry: bool = True, error: Exception | None = None) -> None:
        self.n_frames, self.pause_s, self.hurry, self.error = n_frames, pause_s, hurry, error

    def frames(self, stop: threading.Event, notices: Notices) -> Iterator[Frame]:
        for number in range(1, self.n_frames + 1):
            if stop.wait(self.pause_s):
                return
            notices.given += 1
            yield frame(number, self.hurry)
        if self.error is not None:
            raise self.error


ESTIMATE = LocationEstimate(GeoPoint(46.9, 9.0), 0.9, "retrieved", 12.5, (Place(3, GeoPoint(46.9, 9.0), 0.9),), 0.0)


class Finder:
    """Locates by a function, so many on the way."""

    def __init__(self, locate: Callable[[Photo], LocationEstimate], most_on_the_way: int = 1) -> None:
        self.locate, self.most_on_the_way, self.waiting = locate, most_on_the_way, []

    def start(self, photo: Photo, rows: RowRanges | None = None) -> None:
        assert len(self.waiting) < self.most_on_the_way
        self.waiting.append(photo)

    def finish(self) -> LocationEstimate:
        return self.locate(self.waiting.pop(0))


def run(source: object, locate: Callable[[Photo], LocationEstimate], most_on_the_way: int = 1, **options: object):
    """The numbers of the frames that were answered, the summary, and what was said on stderr."""
    out, said = io.StringIO(), io.StringIO()
    summary = watch(source, Finder(locate, most_on_the_way), None, "csv", out=out, notices=Notices(said), **options)
    rows = list(csv.DictReader(io.StringIO(out.getvalue())))
    return [int(row["frame"]) for row in rows], summary, said.getvalue()


def test_a_full_queue_drops_its_oldest_frame() -> None:
    queue = FrameQueue(2)
    for number in (1, 2, 3, 4):
        queue.put(frame(number))
    assert queue.dropped == 2
    assert [queue.take(0).number, queue.take(0).number] == [3, 4]
    assert queue.take(0.01) is None and not queue.ended
    queue.put(frame(5))
    queue.close()
    queue.put(frame(6))
    assert queue.dropped == 3 and queue.take(0).number == 5 and queue.ended
    with pytest.raises(ConfigError, match="0 frames long"):
        FrameQueue(0)


def test_frames_that_may_wait_are_all_located_in_order() -> None:
    answered, summary, _ = run(Given(20, hurry=False), lambda _: time.sleep(0.002) or ESTIMATE)
    assert answered == list(range(1, 21)) and summary.dropped == 0


def test_a_slow_localizer_drops_the_oldest_and_counts_every_frame() -> None:
    source = Given(40, pause_s=0.005)
    answered, summary, said = run(source, lambda _: time.sleep(0.03) or ESTIMATE)
    assert answered == sorted(answered) and 3 < len(answered) < 30
    assert answered[0] == 1 and answered[-1] == 40  # the newest is always there
    assert (summary.given, summary.located + summary.dropped) == (40, 40) and summary.dropped > 5
    assert summary.latency_p50_ms >= 30 and summary.age_p50_ms < 250
    assert f"40 frames in {summary.seconds:.1f} s: {len(answered)} located ({len(answered)} accepted), " in said


def test_a_longer_queue_holds_what_a_burst_brings() -> None:
    for length, located in ((1, 2), (4, 5)):
        gate = threading.Event()
        source = Given(5)
        source.frames = lambda stop, notices: _then(gate, Given.frames(source, stop, notices))  # noqa: B023
        answered, summary, _ = run(source, lambda _: gate.wait(5) and ESTIMATE, queue_length=length)  # noqa: B023
        assert len(answered) == summary.located <= located and answered[-1] == 5
        assert summary.located + summary.dropped == 5


def _then(gate: threading.Event, frames: Iterator[Frame]) -> Iterator[Frame]:
    yield from frames
    gate.set()


def test_where_two_may_be_on_the_way_each_is_answered_and_none_waits_for_one_that_is_to_come() -> None:
    answered, summary, _ = run(Given(20, hurry=False), lambda _: ESTIMATE, most_on_the_way=2, queue_length=5)
    assert answered == list(range(1, 21)) and summary.located == 20
    _, summary, _ = run(Given(3, pause_s=0.3), lambda _: ESTIMATE, most_on_the_way=2)
    assert summary.located == 3 and summary.age_p90_ms < 250


def test_a_frame_that_cannot_be_located_is_named_and_the_others_go_on() -> None:
    numbers = itertools.count(1)

    def locate(_: Photo) -> LocationEstimate:
        if next(numbers) == 2:
            raise ImageError("it is 3x3 px.")
        return ESTIMATE

    answered, summary, said = run(Given(3, hurry=False), locate)
    assert answered == [1, 3] and summary.failed == 1
    assert said.startswith("Frame 2 of camera is skipped: it is 3x3 px.\n3 frames in ")


@pytest.mark.parametrize("most_on_the_way", [1, 2])
def test_a_source_that_fails_says_what_was_located_so_far_and_that_is_all_it_gave(most_on_the_way: int) -> None:
    said = io.StringIO()
    source = Given(3, hurry=False, error=ImageError("The camera is gone."))
    with pytest.raises(ImageError, match=r"The camera is gone\. 3 frames were located until then\."):
        watch(
            source, Finder(lambda _: ESTIMATE, most_on_the_way), None, "csv", out=io.StringIO(), notices=Notices(said)
        )
    assert said.getvalue().startswith("3 frames in ")


def test_a_source_that_hangs_in_the_driver_ends_with_words() -> None:
    source = Given(1, pause_s=30.0)
    source.silence_s = 0.2
    with pytest.raises(ImageError, match="the camera has given no sign for 0 s"):
        watch(source, Finder(lambda _: ESTIMATE), None, "csv", out=io.StringIO(), notices=Notices(io.StringIO()))


def test_an_engine_that_fails_ends_the_watch_with_its_summary() -> None:
    def locate(_: Photo) -> LocationEstimate:
        raise EngineError("The GPU is gone.")

    said = io.StringIO()
    with pytest.raises(EngineError, match="The GPU is gone"):
        watch(Given(3, hurry=False), Finder(locate), None, "csv", out=io.StringIO(), notices=Notices(said))
    assert "0 located (0 accepted)" in said.getvalue()


def lines_of(form: str) -> list[str]:
    out = io.StringIO()
    lines = FrameLines(form, out)
    for number in (1, 2):
        one = Frame(number, "rtsp://cam/1", np.zeros((16, 16, 3), np.uint8), 0.0, 1_700_000_000.25, 1.5, True)
        lines.write(one, ESTIMATE, 12.345, 67.891)
    return out.getvalue().splitlines()


def test_a_line_says_what_locate_lists_and_when_and_how_old() -> None:
    head, *lines = lines_of("csv")
    assert head.startswith("frame,captured_at,position_s,latency_ms,age_ms,photo,latitude_deg,longitude_deg,similarity")
    begin = "2,2023-11-14T22:13:20.250Z,1.5,12.35,67.89,rtsp://cam/1,46.9,9.0,0.9,true,retrieved,,12.5,0.0,"
    assert lines[1].startswith(begin) and len(lines[1].split(",")) == len(head.split(","))
    first, second = map(json.loads, lines_of("geojson"))
    assert first["geometry"] == {"type": "Point", "coordinates": [9.0, 46.9]}
    assert second["properties"]["frame"] == 2 and second["properties"]["photo"] == "rtsp://cam/1"
    assert second["properties"]["places"][0]["row"] == 3 and second["properties"]["age_ms"] == 67.89
    assert " ".join(lines_of("table")[2].split()) == "2 46.900000 9.000000 0.9000 retrieved 12 m 12.3 ms 68 ms 1"
    with pytest.raises(ConfigError, match="Format 'xml' is unknown"):
        FrameLines("xml", io.StringIO())


def test_a_folder_is_located_as_locate_does(watch_site, site, capsys) -> None:
    summary = watch_site(site / "photos", "geojson")
    captured = capsys.readouterr()
    features = [json.loads(line) for line in captured.out.splitlines()]
    assert [feature["properties"]["places"][0]["row"] for feature in features] == list(ROWS)
    assert (summary.given, summary.located, summary.dropped, summary.failed) == (3, 3, 0, 0)
    assert "3 frames in" in captured.err and "latency p50" in captured.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"queue": 0}, "0 frames long"),
        ({"source": "rtsp://camera/1", "heading": "north"}, "rtsp://camera/1 has no yaw"),
    ],
)
def test_a_request_that_cannot_work_is_refused(watch_site, site, words: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        watch_site(**{"source": site / "photos", **words})


def test_a_watch_that_locates_nothing_is_an_error(watch_site, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match="None of the 1 frames that were looked at could be located"):
        watch_site(tmp_path)


WATCH = """
import sys
from dphr_infer.cli.main import main

bundle, gallery, source = sys.argv[1:]
sys.exit(main(["watch", bundle, gallery, source, "--threads", "1", "--format", "csv"]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_with_the_summary_and_lines_come_at_once(bundle, site, tmp_path: Path, number: int) -> None:
    command = [sys.executable, "-c", WATCH, str(bundle.folder), str(site / "g"), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        (tmp_path / "a.png").write_bytes((site / "photos/15.png").read_bytes())
        lines = [watching.stdout.readline(), watching.stdout.readline()]  # blocks unless they are flushed
        watching.send_signal(number)
        out, error = watching.communicate(timeout=20)
    assert lines[0].startswith("frame,") and lines[1].startswith("1,") and out == ""
    assert watching.returncode == 0 and "1 frames in" in error and "Traceback" not in error


def usage() -> tuple[int, int]:
    """Resident bytes and open files of this process."""
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resident, len(list(Path("/proc/self/fd").iterdir()))


def test_memory_and_handles_stay_flat_over_thousands_of_frames(bundle, site, tmp_path: Path) -> None:
    """The real pipeline: pictures are decoded from files, embedded by ONNX Runtime, matched, and listed."""
    tiny = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    for number in range(200):
        tiny.save(tmp_path / f"{number:03}.bmp")
    gallery = open_gallery(site / "g")
    settings = SourceSettings(idle_s=0.0)
    measured = []
    with open_localizer(bundle, gallery, threads=1) as localizer, Path(os.devnull).open("w") as out:
        for _ in range(20):
            source = FolderSource(tmp_path, settings)
            notices = Notices(out)
            summary = watch(source, localizer, out=out, notices=notices, queue_length=50)
            assert summary.located == 200
            measured.append(usage())
    assert measured[-1][1] == measured[0][1]
    # The allocator has what it needs after two thousand frames; two thousand more may hold half a KiB each.
    assert measured[-1][0] - measured[9][0] < 1 << 20
