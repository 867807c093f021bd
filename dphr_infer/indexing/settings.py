"""Which tiles a map is cut into, and how they are embedded and stored; each default once."""

from __future__ import annotations

from dataclasses import dataclass

from dphr_infer.errors import ConfigError
from dphr_infer.types import EMBED_BATCH, GalleryDtype


@dataclass(frozen=True, slots=True)
class IndexSettings:
    """Which tiles a map is cut into, and how their embeddings are stored."""

    tile_m: float
    """Side of a tile in true metres; about what a photo shows of the ground."""
    stride_m: float
    """Distance between tile centres in true metres."""
    dtype: GalleryDtype = "fp16"
    """How embeddings are stored."""
    max_nodata: float = 0.2
    """Skip a tile with a larger share of pixels without data; below that they get its mean colour."""
    batch: int = EMBED_BATCH
    """Tiles embedded at once."""
    map_gsd_m: float | None = None
    """Metres a pixel that the map pack keeps at least; the map's own by default."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_nodata < 1:
            raise ConfigError(f"`max_nodata` is {self.max_nodata}; expected a share in [0, 1).")
