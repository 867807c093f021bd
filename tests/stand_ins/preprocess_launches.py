"""Runs preprocess.cu on this processor as its plan says, and says what it has to find."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dphr_infer.cuda.preprocess import plan as planning
from dphr_infer.cuda.preprocess.table import frame_table
from dphr_infer.images.frame_format import FrameFormat, check_frame, to_rgb
from dphr_infer.images.preprocess import Preprocess
from dphr_infer.images.rectify import GroundSquare, rectify
from dphr_infer.images.rotation import rotate_square

ORIN_SHARED_BYTES = 166_912
SOURCE = Path(planning.__file__).with_name("preprocess.cu")


@dataclass(frozen=True)
class Made:
    """What a launch wrote, and what it read of the frames."""

    images: NDArray[np.uint8]
    bytes_read: int
    plan: planning.PreprocessPlan


def launch(
    device: Any,
    frames: Sequence[NDArray[np.uint8]],
    layout: FrameFormat,
    preprocess: Preprocess,
    poses: Sequence[planning.Pose] | None = None,
    *,
    variant: str = "",
    shared_limit: int = ORIN_SHARED_BYTES,
    **schedule: Any,
) -> Made:
    """One launch over all frames; `variant` is appended to the kernel's name."""
    mode = planning.mode_of(poses[0] if poses else None)
    plan = planning.plan_preprocess(layout, preprocess, mode, shared_limit)
    assert plan.shared_bytes <= shared_limit
    pitch = -(-layout.padded_bytes // 16) * 16
    pixels = np.full((len(frames), pitch), 0x5A, np.uint8)
    for row, frame in zip(pixels, frames, strict=True):
        flat = check_frame(frame, layout)
        row[: flat.size] = flat
    nv12 = layout.pixels == "nv12"
    chroma = np.ascontiguousarray(np.roll(pixels, -layout.chroma_offset_bytes, axis=1)) if nv12 else None
    tables = [frame_table(plan, pose) for pose in poses or [None]]
    images = np.zeros((len(frames), preprocess.height_px, preprocess.width_px, 3), np.uint8)
    values = {
        "pixels": pixels,
        "chroma": chroma,
        "tables": np.stack(tables),
        "images": images,
        "frame_bytes": pitch,
        "chroma_bytes": pitch if nv12 else 0,
        "table_ints": plan.table_ints if poses else 0,
    }
    report = device.launch(
        plan.kernel + variant,
        (*plan.tiles, len(frames)),
        plan.block,
        *planning.arguments(plan, values),
        shared_bytes=plan.shared_bytes,
        **schedule,
    )
    return Made(images, sum(report.bytes_read[:2]), plan)


def reference(
    frame: NDArray[np.uint8], layout: FrameFormat, preprocess: Preprocess, pose: planning.Pose
) -> NDArray[np.uint8]:
    """What the CPU makes of one frame."""
    image = to_rgb(frame, layout)
    if isinstance(pose, GroundSquare):
        image = rectify(image, pose.view, pose.side_px, pose.gsd_m).image
    elif pose is not None:
        image = rotate_square(image, pose, max(preprocess.height_px, preprocess.width_px))
    return preprocess(image)
