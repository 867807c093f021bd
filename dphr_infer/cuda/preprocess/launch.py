"""Frames to model input on a GPU. Launcher of preprocess.cu.

Everything is taken once for a stated number of frames. A run copies frames from pinned memory, or takes them where they
lie: on the device, or in memory that a Jetson's GPU shares with the host. It starts one launch, allocates no device
memory and waits for nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dphr_infer.cuda.driver import Buffer, Cuda
from dphr_infer.cuda.preprocess.plan import ARGUMENTS, arguments, plan_preprocess
from dphr_infer.cuda.preprocess.table import frame_table
from dphr_infer.errors import EngineError, ImageError
from dphr_infer.images.frame_format import FrameFormat, check_frame
from dphr_infer.images.preprocess import Preprocess

_ALIGNMENT = 16
_POINTERS = 4
_MAX_FRAMES = 65_535  # the grid's third side


class DevicePreprocess:
    """The launch for frames of one format, its buffers and tables. Make and use it inside `cuda.active()`.

    Closing the GPU frees everything.

    Args:
        cuda: the open GPU.
        image: the kernels, from `load_fatbin(..., stem="preprocess")`.
        frame: format of every frame.
        preprocess: what becomes of it.
        max_frames: frames of one run, at least 1.
        turned: whether each frame is turned by an angle of its own first, as `rotate_square` turns it.
        uploads: whether frames come from the host; False takes no memory for them, and only `run_on_device` works.
        images: where the images go; None takes memory for them.

    Raises:
        ImageError: the frame is too large for the model's input, or too small to be turned.
        EngineError: max_frames is out of range, the memory does not suffice, or the driver refuses the kernels.
    """

    def __init__(
        self,
        cuda: Cuda,
        image: bytes,
        frame: FrameFormat,
        preprocess: Preprocess,
        max_frames: int = 1,
        *,
        turned: bool = False,
        uploads: bool = True,
        images: Buffer | None = None,
    ) -> None:
        if not 1 <= max_frames <= _MAX_FRAMES:
            raise EngineError(f"max_frames is {max_frames}, but a launch takes 1..{_MAX_FRAMES}: choose one of these.")
        self._cuda, self._max_frames = cuda, max_frames
        self.plan = plan_preprocess(frame, preprocess, turned, cuda.properties.shared_bytes)
        self._function = cuda.function(cuda.load(image), self.plan.kernel, self.plan.shared_bytes)
        size = preprocess.height_px * preprocess.width_px * 3
        self._images = images or cuda.allocate(max_frames * size, f"{max_frames} images of the model's size")
        n_tables = max_frames if turned else 1
        self._host_tables = cuda.pinned(4 * n_tables * self.plan.table_ints)
        self._tables = cuda.allocate(self._host_tables.nbytes, "the tables of the frames")
        self._frame_bytes = -(-frame.padded_bytes // _ALIGNMENT) * _ALIGNMENT
        self._staged: NDArray[np.uint8] | None = None
        if uploads:
            n_bytes = max_frames * self._frame_bytes
            self._staged = cuda.pinned(n_bytes).reshape(max_frames, self._frame_bytes)
            # A GPU that shares the host's memory reads the frames where they are staged.
            self._in_place = cuda.properties.integrated
            if self._in_place:
                self._frames = Buffer(self._staged.ctypes.data, n_bytes)
            else:
                self._frames = cuda.allocate(n_bytes, f"{max_frames} frames of {frame.width_px}x{frame.height_px} px")
        if not turned:
            self._stage_tables([None])
            cuda.upload(self._tables.address, self._tables_of(1))
            cuda.synchronize()

    def run(self, frames: Sequence[NDArray[np.uint8]], clockwise_deg: Sequence[float] | None = None) -> int:
        """Copy frames to the device and start the launch.

        The images hold their values in the stream's order. Synchronise before the next run, which fills the same
        pinned memory and the same images.

        Args:
            frames: 1..max_frames of the format, each contiguous uint8: (H, W, 3), or its bytes.
            clockwise_deg: one angle a frame where frames are turned, else None.

        Returns:
            Address of uint8 (len(frames), height_px, width_px, 3) on the device.

        Raises:
            ImageError: a frame of another size or format, or truncated; more frames than max_frames, or none; an angle
                that is not finite.
            EngineError: angles given where frames are not turned, or the reverse.
        """
        self.stage(frames, clockwise_deg)
        return self.enqueue(len(frames))

    def stage(self, frames: Sequence[NDArray[np.uint8]], clockwise_deg: Sequence[float] | None = None) -> None:
        """The part of `run` that is the host's: frames and tables into pinned memory. Arguments and errors as there."""
        if self._staged is None:
            raise EngineError("This launcher was opened for frames on the device: open it with uploads=True.")
        self._check_run(len(frames), clockwise_deg)
        flat = [check_frame(one, self.plan.frame) for one in frames]
        for row, values in zip(self._staged, flat, strict=False):
            if values.ctypes.data != row.ctypes.data:  # else it was written into `frame_memory`
                row[: values.size] = values
        if clockwise_deg is not None:
            self._stage_tables(clockwise_deg)

    def frame_memory(self) -> NDArray[np.uint8]:
        """Pinned memory of the first frame: what is written there, `stage` does not copy. uint8 (padded_bytes,)."""
        if self._staged is None:
            raise EngineError("This launcher was opened for frames on the device: open it with uploads=True.")
        return self._staged[0, : self.plan.frame.padded_bytes]

    def enqueue(self, n_frames: int) -> int:
        """The part of `run` that is the GPU's: copy what was staged and launch. It can be captured as a graph."""
        if self._staged is None:
            raise EngineError("This launcher was opened for frames on the device: open it with uploads=True.")
        if not self._in_place:
            self._cuda.upload(self._frames.address, self._staged[:n_frames])
        return self.launch(n_frames)

    def upload_ahead(self, n_frames: int) -> None:
        """Copy what was staged beside the stream's work, and let the stream wait for it before it goes on."""
        if self._staged is not None and not self._in_place:
            self._cuda.wait_for(self._cuda.upload_ahead(self._frames.address, self._staged[:n_frames]))

    def launch(self, n_frames: int) -> int:
        """The launch alone, on frames that `upload_ahead` copied. It can be captured as a graph."""
        chroma = self._frames.address + self.plan.frame.chroma_offset_bytes
        return self._launch(self._frames.address, chroma, self._frame_bytes, n_frames)

    def run_on_device(
        self, address: int, frame_bytes: int, n_frames: int = 1, clockwise_deg: Sequence[float] | None = None
    ) -> int:
        """Start the launch on frames that lie on the device, or in memory that it shares with the host.

        Args:
            address: of the first frame; memory around the frames is read from the 16-byte boundary before the first
                byte to the one behind the last.
            frame_bytes: from one frame to the next.
            n_frames: 1..max_frames.
            clockwise_deg: as in `run`; what it returns and raises, too.
        """
        self._check_run(n_frames, clockwise_deg)
        layout = self.plan.frame
        if not layout.frame_bytes <= frame_bytes <= np.iinfo(np.int32).max:
            raise ImageError(
                f"Frames lie {frame_bytes} bytes apart, but {layout.width_px}x{layout.height_px} px {layout.pixels} "
                f"needs {layout.frame_bytes}: it is truncated, or of another size or format than announced."
            )
        if clockwise_deg is not None:
            self._stage_tables(clockwise_deg)
        return self._launch(address, address + layout.chroma_offset_bytes, frame_bytes, n_frames)

    def _check_run(self, n_frames: int, clockwise_deg: Sequence[float] | None) -> None:
        if not 1 <= n_frames <= self._max_frames:
            raise ImageError(
                f"{n_frames} frames are given, but this launcher was opened for 1..{self._max_frames}: split them, or "
                "raise max_frames."
            )
        if self.plan.turned != (clockwise_deg is not None):
            given = "no angles" if clockwise_deg is None else "angles"
            raise EngineError(
                f"This launcher was opened with turned={self.plan.turned}, but {given} were given: open another one."
            )
        if clockwise_deg is not None and len(clockwise_deg) != n_frames:
            raise EngineError(f"{len(clockwise_deg)} angles for {n_frames} frames: give one for each.")

    def _stage_tables(self, clockwise_deg: Sequence[float | None]) -> None:
        staged = self._tables_of(len(clockwise_deg))
        rows = staged.view(np.int32).reshape(len(clockwise_deg), self.plan.table_ints)
        for row, degrees in zip(rows, clockwise_deg, strict=True):
            row[:] = frame_table(self.plan, degrees)

    def _tables_of(self, n_frames: int) -> NDArray[np.uint8]:
        return self._host_tables[: 4 * n_frames * self.plan.table_ints]

    def _launch(self, pixels: int, chroma: int, frame_bytes: int, n_frames: int) -> int:
        if self.plan.turned:
            self._cuda.upload(self._tables.address, self._tables_of(n_frames))
        nv12 = self.plan.frame.pixels == "nv12"
        values: dict[str, Any] = {
            "pixels": pixels,
            "chroma": chroma if nv12 else 0,
            "tables": self._tables.address,
            "images": self._images.address,
            "frame_bytes": frame_bytes,
            "chroma_bytes": frame_bytes if nv12 else 0,
            "table_ints": self.plan.table_ints if self.plan.turned else 0,
        }
        packed = struct.pack(f"@{_POINTERS}Q{len(ARGUMENTS) - _POINTERS}i", *arguments(self.plan, values))
        grid = (*self.plan.tiles, n_frames)
        self._cuda.launch(self._function, grid, self.plan.block, packed, self.plan.shared_bytes)
        return self._images.address
