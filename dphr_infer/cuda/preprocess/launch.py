"""A frame to model input on a GPU. Launcher of preprocess.cu.

Everything is taken once for frames of one format. A frame is copied from pinned memory, or taken there by a GPU that
shares the host's memory, as a Jetson's does. Nothing here allocates device memory or waits afterwards.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dphr_infer.cuda.driver import Buffer, Cuda
from dphr_infer.cuda.preprocess.plan import ARGUMENTS, Mode, Pose, arguments, mode_of, plan_preprocess
from dphr_infer.cuda.preprocess.table import frame_table
from dphr_infer.errors import EngineError
from dphr_infer.images.frame_format import FrameFormat, check_frame
from dphr_infer.images.preprocess import Preprocess

_ALIGNMENT = 16
_POINTERS = 4


class DevicePreprocess:
    """The launch for frames of one format, its buffers and table. Make and use it inside `cuda.active()`.

    Closing the GPU frees everything.

    Args:
        cuda: the open GPU.
        image: the kernels, from `load_fatbin(..., stem="preprocess")`.
        frame: format of every frame.
        preprocess: what becomes of it.
        mode: whether each frame is turned first, by an angle of its own as `rotate_square` turns it, or rectified, by a
            view of its own as `rectify` does it.
        images: where the image goes; None takes memory for it.

    Raises:
        ImageError: the frame is too large for the model's input, or too small to be turned.
        EngineError: the memory does not suffice, or the driver refuses the kernels.
    """

    def __init__(
        self,
        cuda: Cuda,
        image: bytes,
        frame: FrameFormat,
        preprocess: Preprocess,
        *,
        mode: Mode = "upright",
        images: Buffer | None = None,
    ) -> None:
        self._cuda = cuda
        self.plan = plan_preprocess(frame, preprocess, mode, cuda.properties.shared_bytes)
        self._function = cuda.function(cuda.load(image), self.plan.kernel, self.plan.shared_bytes)
        size = preprocess.height_px * preprocess.width_px * 3
        self._image = images or cuda.allocate(size, "an image of the model's size")
        self._host_table = cuda.pinned(4 * self.plan.table_ints)
        self._table = cuda.allocate(self._host_table.nbytes, "the frame's table")
        n_bytes = -(-frame.padded_bytes // _ALIGNMENT) * _ALIGNMENT
        self._staged: NDArray[np.uint8] = cuda.pinned(n_bytes)
        # A GPU that shares the host's memory reads the frame where it is staged.
        self._in_place = cuda.properties.integrated
        if self._in_place:
            self._frame = Buffer(self._staged.ctypes.data, n_bytes)
        else:
            self._frame = cuda.allocate(n_bytes, f"a frame of {frame.width_px}x{frame.height_px} px")
        if mode == "upright":
            self._stage_table(None)
            cuda.upload(self._table.address, self._host_table)
            cuda.synchronize()

    def stage(self, frame: NDArray[np.uint8], pose: Pose = None) -> None:
        """The host's part: the frame and its table into pinned memory, unless it was written into `frame_memory`.

        Args:
            frame: of the format, contiguous uint8: (H, W, 3), or its bytes.
            pose: the angle clockwise in degrees where frames are turned, the square where they are rectified, else
                None.

        Raises:
            ImageError: a frame of another size or format, or truncated; an angle that is not finite; a frame that
                shows nothing of the square.
            EngineError: a pose of another kind than the launcher was opened for.
        """
        if self.plan.mode != mode_of(pose):
            raise EngineError(
                f"This launcher was opened for frames that are {self.plan.mode}, but what is given is for "
                f"{mode_of(pose)} ones: open another one."
            )
        values = check_frame(frame, self.plan.frame)
        if values.ctypes.data != self._staged.ctypes.data:
            self._staged[: values.size] = values
        if pose is not None:
            self._stage_table(pose)

    def frame_memory(self) -> NDArray[np.uint8]:
        """Pinned memory of the frame: what is written there, `stage` does not copy. uint8 (padded_bytes,)."""
        return self._staged[: self.plan.frame.padded_bytes]

    def enqueue(self) -> int:
        """Copy what was staged and launch, both in the stream of the work. It can be captured as a graph.

        Returns:
            Address of uint8 (height_px, width_px, 3) on the device, which holds its values in the stream's order.
            Synchronise before the next frame is staged.
        """
        if not self._in_place:
            self._cuda.upload(self._frame.address, self._staged)
        return self.launch()

    def upload_ahead(self) -> None:
        """Copy what was staged beside the stream's work, and let the stream wait for it before it goes on."""
        if not self._in_place:
            self._cuda.wait_for(self._cuda.upload_ahead(self._frame.address, self._staged))

    def launch(self) -> int:
        """The launch alone, on what `upload_ahead` copied; returns as `enqueue`. It can be captured as a graph."""
        if self.plan.mode != "upright":
            self._cuda.upload(self._table.address, self._host_table)
        nv12 = self.plan.frame.pixels == "nv12"
        values: dict[str, Any] = {
            "pixels": self._frame.address,
            "chroma": self._frame.address + self.plan.frame.chroma_offset_bytes if nv12 else 0,
            "tables": self._table.address,
            "images": self._image.address,
            "frame_bytes": len(self._staged),
            "chroma_bytes": len(self._staged) if nv12 else 0,
            "table_ints": self.plan.table_ints if self.plan.mode != "upright" else 0,
        }
        packed = struct.pack(f"@{_POINTERS}Q{len(ARGUMENTS) - _POINTERS}i", *arguments(self.plan, values))
        self._cuda.launch(self._function, (*self.plan.tiles, 1), self.plan.block, packed, self.plan.shared_bytes)
        return self._image.address

    def _stage_table(self, pose: Pose) -> None:
        self._host_table.view(np.int32)[:] = frame_table(self.plan, pose)
