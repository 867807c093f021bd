import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dphr_infer.errors import ConfigError, ImageError, MissingPackageError
from dphr_infer.images.frame_format import nv12_frames, to_rgb
from dphr_infer.watch import video as frame_sources
from dphr_infer.watch.frames import FolderSource, Frame, Notices
from dphr_infer.watch.pictures import Pictures
from dphr_infer.watch.settings import SourceSettings
from dphr_infer.watch.video import CameraSource, FilmSource, open_source

cv2 = pytest.importorskip("cv2")

SIZE = (64, 48)
N_PROBED = 8  # FFmpeg looks at some pictures before it opens a stream
BOUNDARY = "--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n"


def write_film(path: Path, n_frames: int, fps: float = 25.0) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), fps, SIZE)
    for number in range(n_frames):
        writer.write(np.full((SIZE[1], SIZE[0], 3), (0, 0, 10 * number), np.uint8))  # BGR: red grows
    writer.release()
    return path


def jpeg(grey: int, size: tuple[int, int] = SIZE) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size, (grey, grey, grey)).save(content, "JPEG")
    return content.getvalue()


def pictures(grey: int, size: tuple[int, int] = SIZE) -> list[bytes]:
    return N_PROBED * [jpeg(grey, size)]


class Stream:
    """An MJPEG camera over HTTP on this machine; each connection plays the next part of a script, the last for ever.

    A part is a list of: bytes, a picture to send; float, seconds to be silent; "garbage"; "refuse", HTTP 503.
    """

    def __init__(self, script: list[list]) -> None:
        self.connections = 0
        stream = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                part = script[min(stream.connections, len(script) - 1)]
                stream.connections += 1
                self.send_response(503 if part == ["refuse"] else 200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                try:
                    for item in part:
                        self._play(item)
                except OSError:  # the reader has gone
                    pass

            def _play(self, item: object) -> None:
                if isinstance(item, bytes):
                    self.wfile.write(BOUNDARY.format(len(item)).encode() + item + b"\r\n")
                    self.wfile.flush()
                elif isinstance(item, float):
                    stream.closing.wait(item)
                elif item == "garbage":
                    self.wfile.write(os.urandom(1 << 16))

        self.closing = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/video"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def stream() -> Iterator[Callable[[list[list]], Stream]]:
    """A function that starts a camera by its script."""
    opened = []

    def start(script: list[list]) -> Stream:
        opened.append(Stream(script))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch) -> None:
    monkeypatch.setattr(frame_sources, "_FIRST_PAUSE_S", 0.01)


def read(source, n_frames: int = 1 << 30) -> tuple[list[Frame], Notices, str, str]:
    """Frames, at most so many; the notices, their text, and the error that ended the source."""
    said, stop, frames, ended = io.StringIO(), threading.Event(), [], ""
    notices = Notices(said)
    try:
        for frame in source.frames(stop, notices):
            frames.append(frame)
            if len(frames) == n_frames:
                stop.set()
    except ImageError as error:
        ended = str(error)
    return frames, notices, said.getvalue(), ended


def test_a_film_gives_every_frame_in_rgb_with_its_position(tmp_path: Path) -> None:
    frames, _, said, ended = read(FilmSource(write_film(tmp_path / "f.avi", 10), SourceSettings()))
    assert [frame.number for frame in frames] == list(range(1, 11))
    assert [frame.position_s for frame in frames] == pytest.approx([0.04 * place for place in range(10)])
    assert not any(frame.hurry for frame in frames) and (said, ended) == ("", "")
    red = [int(frame.image[20, 30, 0]) for frame in frames]
    assert np.abs(np.array(red) - 10 * np.arange(10)).max() <= 3 and frames[9].image[..., 2].max() <= 5
    assert frames[0].image.shape == (48, 64, 3) and frames[0].captured_at is None


def test_a_rate_shows_a_film_at_its_own_speed_and_takes_that_many_frames_a_second_of_it(tmp_path: Path) -> None:
    film = write_film(tmp_path / "f.avi", 21)  # the last frame lies at 0.8 s
    started = time.monotonic()
    frames, notices, _, _ = read(FilmSource(film, SourceSettings(rate_hz=5.0)))
    assert 0.7 < time.monotonic() - started < 4
    # Slots around 0, 0.2, 0.4, 0.6 and 0.8 s begin 0.1 s before: at 0.12, 0.32, 0.52 and 0.72 s, of 0.04 s a frame.
    assert [frame.position_s for frame in frames] == pytest.approx([0.0, 0.12, 0.32, 0.52, 0.72])
    assert all(frame.hurry for frame in frames)
    assert (notices.given, notices.passed) == (21, 16)


def test_a_film_without_times_goes_by_its_frame_rate(tmp_path: Path) -> None:
    """Bare JPEGs behind each other, and a capture that tells no time at all."""
    (tmp_path / "f.mjpeg").write_bytes(b"".join(jpeg(10 * number) for number in range(20)))
    frames, _, _, ended = read(FilmSource(tmp_path / "f.mjpeg", SourceSettings()))
    assert [frame.position_s for frame in frames] == pytest.approx([0.04 * place for place in range(20)])
    assert ended == ""

    class Timeless:
        def get(self, name: int) -> float:
            return 20.0 if name == cv2.CAP_PROP_FPS else 0.0

    assert frame_sources._position_s(cv2, Timeless(), 5) == 0.2


def test_a_film_that_is_cut_short_says_so_at_its_end(tmp_path: Path) -> None:
    film = write_film(tmp_path / "f.avi", 40)
    content = film.read_bytes()
    film.write_bytes(content[: len(content) // 2])
    frames, _, _, ended = read(FilmSource(film, SourceSettings()))
    assert 5 < len(frames) < 38
    assert f"ended after {len(frames)} of the 40 frames that its head names" in ended


def test_a_file_that_is_no_film_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f.mp4").write_bytes(os.urandom(5000))
    assert read(FilmSource(tmp_path / "f.mp4", SourceSettings()))[3].endswith(
        "f.mp4 is not a film that OpenCV can read, or it is damaged."
    )


def test_a_camera_that_stops_is_opened_again_and_its_frames_go_on(stream) -> None:
    camera = stream([pictures(10), ["refuse"], [*pictures(30), 5.0]])
    frames, _, said, _ = read(CameraSource(camera.url, "the camera", SourceSettings(stall_s=1.0)), 2 * N_PROBED)
    assert [int(frame.image[0, 0, 0]) for frame in frames] == N_PROBED * [10] + N_PROBED * [30]
    assert [frame.number for frame in frames] == list(range(1, 2 * N_PROBED + 1))
    assert all(frame.hurry and abs(frame.captured_at - time.time()) < 10 for frame in frames)
    assert said.splitlines() == [
        "the camera stopped sending frames: it is opened again in 0.01 s (1 of 5).",
        "the camera cannot be opened: it is opened again in 0.02 s (2 of 5).",
    ]


def test_a_camera_that_stalls_is_opened_again(stream) -> None:
    camera = stream([[*pictures(10), 9.0], [*pictures(20), 9.0]])
    started = time.monotonic()
    frames, _, said, _ = read(CameraSource(camera.url, "the camera", SourceSettings(stall_s=1.0)), 2 * N_PROBED)
    assert [int(frame.image[0, 0, 0]) for frame in frames] == N_PROBED * [10] + N_PROBED * [20]
    assert time.monotonic() - started < 8
    assert said == "the camera stalled: no frame for 1 s: it is opened again in 0.01 s (1 of 5).\n"


def test_opening_a_camera_again_and_again_keeps_no_handle(stream) -> None:
    camera = stream([*(20 * [pictures(10)]), ["refuse"]])
    before = len(list(Path("/proc/self/fd").iterdir()))
    source = CameraSource(camera.url, "the camera", SourceSettings(stall_s=2.0, reconnects=1))
    frames, *_ = read(source)
    assert len(frames) == 20 * N_PROBED and camera.connections == 21
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2


def test_a_camera_that_sends_garbage_ends_after_the_stated_number_of_attempts(stream) -> None:
    camera = stream([[*pictures(10), "garbage"], ["garbage"]])
    settings = SourceSettings(stall_s=1.0, reconnects=3)
    frames, _, said, ended = read(CameraSource(camera.url, "the camera", settings))
    assert [int(frame.image[0, 0, 0]) for frame in frames] == N_PROBED * [10]
    assert camera.connections == 4 and len(said.splitlines()) == 3
    assert "in 0.04 s (3 of 3)" in said  # 0.01, 0.02, 0.04: the pauses grow
    assert ended.startswith("the camera cannot be opened; 3 times in a row it was opened again without a frame.")


def test_a_camera_that_is_not_there_ends_with_words_and_without_the_password() -> None:
    url = "rtsp://pilot:secret@127.0.0.1:9/video"  # nobody listens there
    _, _, said, ended = read(open_source(url, SourceSettings(stall_s=0.5, reconnects=1)))
    assert "rtsp://127.0.0.1:9/video cannot be opened; 1 times in a row" in ended
    assert "secret" not in said + ended


def test_frames_of_another_size_are_named_and_taken(stream) -> None:
    camera = stream([pictures(10), [*pictures(30, (80, 60)), 5.0]])
    frames, notices, said, _ = read(CameraSource(camera.url, "the camera", SourceSettings(stall_s=1.0)), 2 * N_PROBED)
    assert [frame.image.shape for frame in frames] == N_PROBED * [(48, 64, 3)] + N_PROBED * [(60, 80, 3)]
    assert f"Frame {N_PROBED + 1} of the camera is 80x60 px, those before 64x48: any size is taken." in said
    assert notices.failed == 0


class Grabbed:
    """Stands for a capture where no backend here gives such frames: a pipeline that ends in another pixel format."""

    def __init__(self, image: np.ndarray) -> None:
        self.image = image

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, self.image


@pytest.mark.parametrize(
    ("image", "words", "pixels"),
    [
        (np.zeros((72, 64), np.uint8), "it is uint8 (72, 64); expected uint8 (height, width, 3)", "rgb"),
        (np.zeros((48, 64, 3), np.uint16), "it is uint16 (48, 64, 3); expected uint8", "rgb"),
        (np.zeros((8, 64, 3), np.uint8), "The frame is 64x8 px; at least 16 px per side", "rgb"),
        (
            np.zeros((48, 64, 3), np.uint8),
            "it is uint8 (48, 64, 3); expected NV12, uint8 (height * 3 / 2, width)",
            "nv12",
        ),
        (np.zeros((48, 64, 2), np.uint8), "it is uint8 (48, 64, 2); expected NV12", "nv12"),  # YUYV
        (np.zeros((73, 64), np.uint8), "it is uint8 (73, 64); expected NV12", "nv12"),
        (np.zeros((72, 64), np.uint16), "it is uint16 (72, 64); expected NV12", "nv12"),
        (np.zeros(72 * 64, np.uint8), "it is uint8 (4608,); expected NV12", "nv12"),
        (np.zeros((72, 63), np.uint8), "An nv12 frame of 63x48 px has an odd side", "nv12"),
        (np.zeros((12, 64), np.uint8), "The frame is 64x8 px; at least 16 px per side", "nv12"),
    ],
)
def test_frames_of_another_format_are_named_once_and_skipped(image: np.ndarray, words: str, pixels: str) -> None:
    said = io.StringIO()
    notices = Notices(said)
    pictures = Pictures(cv2, "the camera", notices, SourceSettings(pixels=pixels))
    for number in (1, 2, 3):
        notices.given = number
        assert pictures.take(Grabbed(image)) is None
    good = np.zeros((72, 64) if pixels == "nv12" else (48, 64, 3), np.uint8)
    assert pictures.take(Grabbed(good)).rgb.shape == (48, 64, 3)
    assert notices.failed == 3 and len(said.getvalue().splitlines()) == 1
    assert f"Frame 1 of the camera is skipped, and all like it: {words}" in said.getvalue()


def test_a_source_is_known_by_its_name(tmp_path: Path) -> None:
    settings = SourceSettings()
    film = write_film(tmp_path / "f.avi", 1)
    assert isinstance(open_source(str(tmp_path), settings), FolderSource)
    assert isinstance(open_source(str(film), settings), FilmSource)
    assert isinstance(open_source("rtsp://camera/1", settings), CameraSource)
    assert isinstance(open_source("videotestsrc ! appsink", settings), CameraSource)
    assert isinstance(open_source("/dev/null", settings), CameraSource)  # a character device, as a camera is
    Image.new("RGB", SIZE).save(tmp_path / "a.png")
    for text, message in (
        ("none.mp4", "none.mp4 does not exist"),
        ("999", "/dev/video999 does not exist"),
        (str(tmp_path / "a.png"), "is a single picture: use dphr-infer locate"),
    ):
        with pytest.raises(ImageError, match=message):
            open_source(text, settings)


def test_an_opencv_built_for_another_numpy_names_the_fix(tmp_path: Path, monkeypatch) -> None:
    """What JetPack 6's OpenCV 4.8 says beside NumPy 2: its own module raises as that one does."""
    (tmp_path / "cv2.py").write_text("raise ImportError('numpy.core.multiarray failed to import')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "cv2")
    with pytest.raises(ImageError, match=r"cannot be loaded \(numpy.core.multiarray failed to import\): .*numpy<2"):
        frame_sources.opencv_version()


def test_a_pipeline_without_gstreamer_names_what_is_missing() -> None:
    if cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        pytest.skip("this OpenCV has GStreamer")
    assert "built without GStreamer" in read(open_source("videotestsrc ! appsink", SourceSettings()))[3]


def test_without_opencv_a_film_names_the_package_and_a_folder_needs_none(tmp_path: Path, monkeypatch) -> None:
    film = write_film(tmp_path / "f.avi", 1)
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(MissingPackageError, match=r"opencv-python-headless.*pip install 'dphr\[video\]'"):
        next(FilmSource(film, SourceSettings()).frames(threading.Event(), Notices()))
    Image.new("RGB", SIZE).save(tmp_path / "a.png")
    assert len(read(FolderSource(tmp_path, SourceSettings(idle_s=0.0)))[0]) == 1


PIPELINE = "nvarguscamerasrc ! video/x-raw(memory:NVMM),format=NV12 ! nvvidconv ! video/x-raw, format=NV12 ! appsink"


@pytest.mark.parametrize("shape", [(72, 64), (72, 64, 1)])
def test_a_pipeline_that_ends_in_nv12_gives_its_bytes_with_their_meaning(nv12_camera, shape: tuple[int, ...]) -> None:
    grabbed = [np.random.default_rng(seed).integers(0, 256, shape, np.uint8) for seed in range(3)]
    camera = nv12_camera(grabbed)
    settings = SourceSettings(reconnects=0, pixels="nv12", colour_matrix="bt601", colour_range="full")
    frames, notices, said, ended = read(open_source(PIPELINE, settings))
    layout = nv12_frames(64, 48, matrix="bt601", colour_range="full")
    assert camera.opened == [(PIPELINE, cv2.CAP_GSTREAMER)] and camera.set_to == []
    assert [frame.number for frame in frames] == [1, 2, 3] and notices.failed == 0 and said == ""
    for frame, given in zip(frames, grabbed, strict=True):
        assert frame.frame_format == layout and frame.image.shape == (72 * 64,)
        assert np.array_equal(frame.image, given.reshape(-1))
        assert np.array_equal(frame.photo().rgb, to_rgb(given.reshape(-1), layout))
    assert ended.startswith("the pipeline stopped sending frames; 0 times in a row it was opened again")


def test_nv12_of_another_size_is_named_in_pixels_and_taken(nv12_camera) -> None:
    nv12_camera([np.zeros((72, 64), np.uint8), np.zeros((90, 80), np.uint8)])
    frames, _, said, _ = read(open_source(PIPELINE, SourceSettings(reconnects=0, pixels="nv12")))
    assert [frame.photo().rgb.shape for frame in frames] == [(48, 64, 3), (60, 80, 3)]
    assert said == "Frame 2 of the pipeline is 80x60 px, those before 64x48: any size is taken.\n"


def test_a_device_is_told_to_send_nv12_and_opencv_to_leave_it(nv12_camera) -> None:
    camera = nv12_camera([np.full((72, 64), 128, np.uint8)], "NV12")
    settings = SourceSettings(reconnects=0, pixels="nv12")
    frames, *_ = read(CameraSource("/dev/video9", "/dev/video9", settings))
    nv12 = cv2.VideoWriter_fourcc(*"NV12")
    assert camera.opened == [("/dev/video9", cv2.CAP_V4L2)]
    assert camera.set_to == [(cv2.CAP_PROP_CONVERT_RGB, 0), (cv2.CAP_PROP_FOURCC, nv12)]
    assert len(frames) == 1 and frames[0].photo().rgb[0, 0].tolist() == [130, 130, 130]  # (128 - 16) * 255 / 219


def test_a_device_that_sends_another_format_is_refused_with_the_pipeline_that_converts(nv12_camera) -> None:
    camera = nv12_camera([np.zeros((72, 64), np.uint8)], "YU12")  # as many bytes as NV12
    frames, _, _, ended = read(CameraSource("/dev/video9", "/dev/video9", SourceSettings(pixels="nv12")))
    assert frames == [] and camera.released == 1
    assert ended == (
        "/dev/video9 was asked for NV12 and gives 'YU12': take `pixels` \"rgb\", or a pipeline that converts, "
        "v4l2src device=/dev/video9 ! videoconvert ! video/x-raw,format=NV12 ! appsink"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rtsp://pilot:secret@camera/1", r'"nv12" is what a V4L2 device .* gives; rtsp://camera/1 is neither'),
        (".", r'"nv12" is what a V4L2 device .* gives; \. is neither: take "rgb", or a pipeline'),
        ("videotestsrc ! appsink", r"does not name that format: end it with nvvidconv ! video/x-raw,format=NV12"),
        ("a ! video/x-raw,format=NV12 ! b ! video/x-raw,format=I420 ! appsink", "does not name that format"),
    ],
)
def test_nv12_of_a_source_that_does_not_give_it_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_source(text, SourceSettings(pixels="nv12"))


def test_a_device_and_a_pipeline_with_typed_caps_may_give_nv12() -> None:
    settings = SourceSettings(pixels="nv12")
    assert isinstance(open_source("/dev/null", settings), CameraSource)
    assert isinstance(open_source("a ! video/x-raw, format=(string)NV12, width=64 ! appsink", settings), CameraSource)
