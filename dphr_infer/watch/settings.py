"""How a source of frames is read; each default once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

from dphr_infer.errors import ConfigError
from dphr_infer.types import ColourMatrix, ColourRange, PixelFormat

MAX_RATE_HZ = 1000.0


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """How to read a source."""

    rate_hz: float | None = None
    """Frames per second to take, by a schedule that does not drift. None takes all, and a film or the pictures that are
    there wait for their turn."""
    idle_s: float | None = None
    """End a folder after this long without a new picture; 0 ends it after those that are there, None never."""
    stall_s: float = 5.0
    """Open a camera again that has given no usable frame for this long; several frames long."""
    reconnects: int = 5
    """Give a camera up after this many attempts without a frame; the pauses between them grow from 0.5 s to 8 s."""
    queue: int = 1
    """Frames that may wait to be located; the oldest is dropped for a newer one."""
    pixels: PixelFormat = "rgb"
    """nv12 takes the bytes of a V4L2 device, or of a GStreamer pipeline that ends in video/x-raw,format=NV12 ! appsink,
    as they are: half the size, and a GPU converts them. rgb takes whatever OpenCV reads."""
    colour_matrix: ColourMatrix = "bt709"
    """By which nv12 becomes RGB: bt709 of HD cameras, bt601 of most others."""
    colour_range: ColourRange = "limited"
    """Of nv12's values: limited, luma in 16..235; full, 0..255."""

    def __post_init__(self) -> None:
        if self.rate_hz is not None and not 0 < self.rate_hz <= MAX_RATE_HZ:
            raise ConfigError(f"`rate_hz` is {self.rate_hz:g}; expected a rate above 0 and at most {MAX_RATE_HZ:g} Hz.")
        if self.idle_s is not None and not 0 <= self.idle_s < math.inf:
            raise ConfigError(f"`idle_s` is {self.idle_s:g}; expected 0 s or more.")
        if not 0 < self.stall_s < math.inf:
            raise ConfigError(f"`stall_s` is {self.stall_s:g}; expected seconds above 0.")
        if self.reconnects < 0:
            raise ConfigError(f"`reconnects` is {self.reconnects}; expected at least 0.")
        for name, kind in (("pixels", PixelFormat), ("colour_matrix", ColourMatrix), ("colour_range", ColourRange)):
            if getattr(self, name) not in get_args(kind):
                raise ConfigError(f"`{name}` is {getattr(self, name)!r}; expected one of {', '.join(get_args(kind))}.")
