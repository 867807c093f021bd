"""Frames from a film or a camera through OpenCV. The only file that imports cv2. And: what a source's name means.

    folder     a folder of pictures, see frames.py
    film       a video file; played at its own speed where a rate is asked for, else read as fast as frames are taken
    camera     a URL (rtsp://, http://, ...), a device (0 or /dev/video0), or a GStreamer pipeline (with "!")

A camera that stops, stalls or sends what is no picture is opened again, after pauses that grow, a stated number of
times; a frame resets the count. OpenCV gives up on a URL that is silent for `stall_s`; a device or a pipeline only
after 10 s or 30 s of its own.

A frame may have any size, because the preparation for the model takes all of them: a change is named and located. A
frame of another format is named and skipped, see pictures.py.
"""

from __future__ import annotations

import importlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

from dphr_infer.errors import ConfigError, ImageError, MissingPackageError
from dphr_infer.images.preprocess import IMAGE_SUFFIXES
from dphr_infer.watch.frames import FolderSource, Frame, FrameSource, Notices, Slots, wait_until
from dphr_infer.watch.pictures import NV12_END, Pictures
from dphr_infer.watch.settings import SourceSettings

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 8.0
# Beyond a stall, the time in which an own limit of OpenCV (30 s for a pipeline) must have ended a read.
_OPENCV_LIMIT_S = 35.0
# Of the frames that a film's head names, so many must come; a container without an index only estimates the number.
_WHOLE_FILM = 0.95
# What OpenCV and FFmpeg would print is replaced by our own words; -8 is FFmpeg's AV_LOG_QUIET.
_QUIET = {"OPENCV_LOG_LEVEL": "SILENT", "OPENCV_FFMPEG_LOGLEVEL": "-8"}


def open_source(text: str, settings: SourceSettings) -> FrameSource:
    """The source that a text names; nothing is opened yet but looked for.

    Raises:
        ImageError: there is no such file or folder, or it is a single picture.
        ConfigError: NV12 is asked for of what does not give it.
    """
    source = _named_source(text, settings)
    if settings.pixels == "nv12":
        _check_gives_nv12(text, source)
    return source


def _named_source(text: str, settings: SourceSettings) -> FrameSource:
    if "!" in text:
        return CameraSource(text, "the pipeline", settings)
    if "://" in text:
        return CameraSource(text, re.sub(r"://[^/@]*@", "://", text), settings)
    path = Path(f"/dev/video{text}" if re.fullmatch(r"\d{1,3}", text) else text)
    if path.is_dir():
        return FolderSource(path, settings)
    if path.is_char_device():
        return CameraSource(str(path), str(path), settings)
    if not path.is_file():
        raise ImageError(
            f"{path} {'is neither a file nor a folder' if path.exists() else 'does not exist'}. Name a folder, a film, "
            "a camera's URL or device, or a GStreamer pipeline."
        )
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise ImageError(f"{path} is a single picture: use dphr-infer locate, or name the folder it comes into.")
    return FilmSource(path, settings)


def _check_gives_nv12(text: str, source: FrameSource) -> None:
    if not isinstance(source, CameraSource) or ("://" in text and "!" not in text):
        raise ConfigError(
            f'`pixels` "nv12" is what a V4L2 device or a GStreamer pipeline gives; {source.name} is neither: take '
            f'"rgb", or a pipeline that ends in {NV12_END}'
        )
    caps = [part for part in text.split("!") if "video/x-raw" in part]
    if "!" in text and not (caps and re.search(r"format\s*=\s*(\(string\)\s*)?\"?NV12\b", caps[-1])):
        # I420 has as many bytes: its colours would be wrong, and nothing else.
        raise ConfigError(f'`pixels` is "nv12", but the pipeline does not name that format: end it with {NV12_END}')


def _import_cv2() -> Any:
    for name, level in _QUIET.items():
        os.environ.setdefault(name, level)
    try:
        return importlib.import_module("cv2")
    except (ImportError, OSError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "cv2":
            raise MissingPackageError("opencv-python-headless", "video", "Reading a film or a camera") from error
        words = " ".join(str(error).split())[:300]
        fix = "install it again"
        if "numpy" in words:
            fix = "pip install 'numpy<2', for which JetPack 6's OpenCV was built"
        raise ImageError(f"OpenCV is installed but cannot be loaded ({words}): {fix}.") from error


def opencv_version() -> str:
    """Version of OpenCV, and what it reads films and cameras with.

    Raises:
        MissingPackageError: it is not installed.
        ImageError: it cannot be loaded.
    """
    cv2 = _import_cv2()
    backends = {"FFmpeg": cv2.CAP_FFMPEG, "GStreamer": cv2.CAP_GSTREAMER, "V4L2": cv2.CAP_V4L2}
    found = [name for name, backend in backends.items() if cv2.videoio_registry.hasBackend(backend)]
    return f"{cv2.__version__} with {', '.join(found) or 'nothing that reads a film or a camera'}"


def _open_capture(cv2: Any, text: str, timeout_s: float) -> Any:
    """A capture of a film, URL, device or pipeline; may be one that is not opened."""
    registry = cv2.videoio_registry
    if "!" in text:
        if not registry.hasBackend(cv2.CAP_GSTREAMER):
            raise ImageError(
                f"This OpenCV ({cv2.__version__}) is built without GStreamer, which a pipeline needs. Wheels of the "
                "package index have none: on a Jetson take JetPack's OpenCV, in a virtual environment made with "
                "--system-site-packages and without opencv-python-headless."
            )
        return cv2.VideoCapture(text, cv2.CAP_GSTREAMER)
    if text.startswith("/dev/"):
        return cv2.VideoCapture(text, cv2.CAP_V4L2)
    if registry.hasBackend(cv2.CAP_FFMPEG):
        limit_ms = max(1, round(timeout_s * 1000))
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit_ms]
        return cv2.VideoCapture(text, cv2.CAP_FFMPEG, limits)
    return cv2.VideoCapture(text, cv2.CAP_ANY)


def _ask_for_nv12(cv2: Any, capture: Any, name: str) -> None:
    """Tell a V4L2 device to send NV12 and OpenCV to leave it.

    Raises:
        ImageError: it sends another format.
    """
    nv12 = cv2.VideoWriter_fourcc(*"NV12")
    capture.set(cv2.CAP_PROP_CONVERT_RGB, 0)
    capture.set(cv2.CAP_PROP_FOURCC, nv12)
    given = int(capture.get(cv2.CAP_PROP_FOURCC))
    if given != nv12:
        letters = (given & 0xFFFFFFFF).to_bytes(4, "little").decode("latin-1")
        raise ImageError(
            f'{name} was asked for NV12 and gives {letters!r}: take `pixels` "rgb", or a pipeline that converts, '
            f"v4l2src device={name} ! videoconvert ! video/x-raw,format=NV12 ! appsink"
        )


def _grab(cv2: Any, capture: Any) -> bool:
    try:
        return bool(capture.grab())
    except cv2.error:
        return False


def _position_s(cv2: Any, capture: Any, number: int) -> float:
    """Where the frame that was grabbed last lies in its film; by the frame rate where the container keeps no times."""
    position_s = float(capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000
    fps = float(capture.get(cv2.CAP_PROP_FPS))
    return (number - 1) / fps if not position_s > 0 and fps > 0 else position_s


class FilmSource:
    """A video file. With a rate, a camera that shows it: frames fall due by their position in the film.

    A film that ends before 95 % of the frames that its head names have come is damaged, which is an error at its end.
    """

    has_yaw = False

    def __init__(self, path: Path, settings: SourceSettings) -> None:
        self.name = str(path)
        self.silence_s: float | None = None
        self._settings = settings

    def frames(self, stop: Event, notices: Notices) -> Iterator[Frame]:
        """See `FrameSource.frames`."""
        cv2 = _import_cv2()
        capture = _open_capture(cv2, self.name, self._settings.stall_s)
        try:
            if not capture.isOpened():
                raise ImageError(f"{self.name} is not a film that OpenCV can read, or it is damaged.")
            yield from self._play(cv2, capture, stop, notices)
        finally:
            capture.release()

    def _play(self, cv2: Any, capture: Any, stop: Event, notices: Notices) -> Iterator[Frame]:
        rate_hz = self._settings.rate_hz
        named = float(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        pictures, slots = Pictures(cv2, self.name, notices, self._settings), Slots(rate_hz)
        started_s = time.monotonic()
        while not stop.is_set():
            if not _grab(cv2, capture):
                if notices.given < _WHOLE_FILM * named:
                    raise ImageError(
                        f"{self.name} ended after {notices.given} of the {named:.0f} frames that its head names: it is "
                        "cut short or damaged. Copy it again from its source."
                    )
                return
            notices.given += 1
            position_s = _position_s(cv2, capture, notices.given)
            if not slots.takes(position_s):
                notices.passed += 1
                continue
            photo = pictures.take(capture)
            if photo is None:
                continue
            due_s = started_s + position_s if rate_hz else time.monotonic()
            wait_until(due_s, stop)
            yield Frame(
                notices.given,
                self.name,
                photo.image,
                due_s,
                captured_at=None,
                position_s=position_s,
                hurry=rate_hz is not None,
                frame_format=photo.frame_format,
            )


class CameraSource:
    """A camera or stream, live: what it sends is taken as it comes, and opened again when it fails.

    A URL whose stream names its number of frames is a film: its end is the end.
    """

    has_yaw = False

    def __init__(self, text: str, name: str, settings: SourceSettings) -> None:
        self.name = name
        self.silence_s: float | None = settings.stall_s + _LONGEST_PAUSE_S + _OPENCV_LIMIT_S
        self._text, self._settings = text, settings
        self._ended = False
        self._why = ""

    def frames(self, stop: Event, notices: Notices) -> Iterator[Frame]:
        """See `FrameSource.frames`."""
        cv2 = _import_cv2()
        pictures, slots = Pictures(cv2, self.name, notices, self._settings), Slots(self._settings.rate_hz)
        started_s, tried = time.monotonic(), 0
        while not stop.is_set():
            for frame in self._connection(cv2, pictures, slots, started_s, stop, notices):
                tried = 0
                yield frame
            if self._ended or stop.is_set():
                return
            if tried == self._settings.reconnects:
                raise ImageError(
                    f"{self.name} {self._why}; {tried} times in a row it was opened again without a frame. Look at the "
                    "camera and its address."
                )
            pause_s = min(_FIRST_PAUSE_S * 2**tried, _LONGEST_PAUSE_S)
            tried += 1
            count = f"{tried} of {self._settings.reconnects}"
            notices.note(f"{self.name} {self._why}: it is opened again in {pause_s:g} s ({count}).")
            stop.wait(pause_s)

    def _connection(
        self, cv2: Any, pictures: Pictures, slots: Slots, started_s: float, stop: Event, notices: Notices
    ) -> Iterator[Frame]:
        """Frames from one opening to the next fault, which is kept as words."""
        stall_s = self._settings.stall_s
        capture = _open_capture(cv2, self._text, stall_s)
        try:
            if not capture.isOpened():
                self._why = "cannot be opened"
                return
            if self._settings.pixels == "nv12" and "!" not in self._text:
                _ask_for_nv12(cv2, capture, self.name)
            named, first, bad_since_s = float(capture.get(cv2.CAP_PROP_FRAME_COUNT)), notices.given, None
            while not stop.is_set():
                asked_s = time.monotonic()
                if not _grab(cv2, capture):
                    stalled = time.monotonic() - asked_s > 0.9 * stall_s
                    self._why = f"stalled: no frame for {stall_s:g} s" if stalled else "stopped sending frames"
                    self._ended = named > 0 and not stalled and notices.given - first >= _WHOLE_FILM * named
                    return
                arrived_s, captured_at = time.monotonic(), time.time()
                notices.given += 1
                if not slots.takes(arrived_s - started_s):
                    notices.passed += 1
                    continue
                photo = pictures.take(capture)
                if photo is not None:
                    bad_since_s = None
                    yield Frame(
                        notices.given,
                        self.name,
                        photo.image,
                        arrived_s,
                        captured_at,
                        position_s=None,
                        hurry=True,
                        frame_format=photo.frame_format,
                    )
                elif bad_since_s is None:
                    bad_since_s = arrived_s
                elif arrived_s - bad_since_s > stall_s:
                    self._why = f"sends nothing that is a picture, for {stall_s:g} s"
                    return
        finally:
            capture.release()
