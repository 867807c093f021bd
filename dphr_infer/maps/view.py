"""placeholder until merged"""

from __future__ import annotations
from dataclasses import dataclass
from typing import Protocol
import numpy as np
from numpy.typing import NDArray
from dphr_infer.types import GeoPoint


@dataclass(frozen=True, slots=True, eq=False)
class MapView:
    image: NDArray[np.uint8]
    covered: NDArray[np.bool_]
    centre: GeoPoint
    gsd_m: float


class MapPixels(Protocol):
    @property
    def gsd_m(self) -> float: ...
    @property
    def centre(self) -> GeoPoint: ...
    def view(self, centre: GeoPoint, width_px: int, height_px: int, gsd_m: float) -> MapView: ...
