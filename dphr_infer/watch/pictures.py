"""What OpenCV gives of a film or a camera becomes a photo: BGR turned to RGB, or NV12 as it is.

NV12 comes from an appsink whose caps say so, or from a V4L2 device that is told not to convert, as one array
(height * 3 / 2, width): luma, and behind it chroma. It holds half the bytes of RGB, and a GPU converts it on its way.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import ImageError
from dphr_infer.images.frame_format import FrameFormat, nv12_frames, rgb_frames
from dphr_infer.images.photo import Photo
from dphr_infer.watch.frames import Notices
from dphr_infer.watch.settings import SourceSettings

NV12_END = "nvvidconv ! video/x-raw,format=NV12 ! appsink"
_BGR_END = "videoconvert ! video/x-raw,format=BGR ! appsink"


class Pictures:
    """Makes photos of what a capture gives; says, once for each kind, what is odd about it."""

    def __init__(self, cv2: Any, name: str, notices: Notices, settings: SourceSettings) -> None:
        self._cv2, self._name, self._notices, self._settings = cv2, name, notices, settings
        self._size = ""
        self._last_fault = ""

    def take(self, capture: Any) -> Photo | None:
        """The frame that was grabbed last; None where it is no picture, which is said."""
        number = self._notices.given
        try:
            image, layout = self._retrieved(capture)
        except ImageError as error:
            self._notices.failed += 1
            fault = str(error)
            if fault != self._last_fault:
                self._notices.note(f"Frame {number} of {self._name} is skipped, and all like it: {fault}")
            self._last_fault = fault
            return None
        self._last_fault = ""
        size = f"{layout.width_px}x{layout.height_px}"
        if self._size not in ("", size):
            self._notices.note(
                f"Frame {number} of {self._name} is {size} px, those before {self._size}: any size is taken."
            )
        self._size = size
        if layout.pixels == "nv12":
            return Photo(np.ascontiguousarray(image).reshape(-1), self._name, frame_format=layout)
        return Photo(self._cv2.cvtColor(image, self._cv2.COLOR_BGR2RGB), self._name)

    def _retrieved(self, capture: Any) -> tuple[NDArray[np.uint8], FrameFormat]:
        try:
            there, image = capture.retrieve()
        except self._cv2.error:
            there, image = False, None
        if not there or image is None:
            raise ImageError("it cannot be decoded")
        return image, _nv12_of(image, self._settings) if self._settings.pixels == "nv12" else _rgb_of(image)


def _rgb_of(image: NDArray[Any]) -> FrameFormat:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ImageError(
            f"it is {image.dtype} {image.shape}; expected uint8 (height, width, 3). End a pipeline with {_BGR_END}"
        )
    return rgb_frames(image.shape[1], image.shape[0])


def _nv12_of(image: NDArray[Any], settings: SourceSettings) -> FrameFormat:
    """Of uint8 (height * 3 / 2, width) or the same with one channel."""
    if image.dtype != np.uint8 or image.ndim < 2 or image.shape[2:] not in ((), (1,)) or image.shape[0] % 3:
        raise ImageError(
            f"it is {image.dtype} {image.shape}; expected NV12, uint8 (height * 3 / 2, width). End a pipeline with "
            f"{NV12_END}"
        )
    height_px, width_px = image.shape[0] // 3 * 2, image.shape[1]
    return nv12_frames(width_px, height_px, matrix=settings.colour_matrix, colour_range=settings.colour_range)
