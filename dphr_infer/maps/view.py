"""The map around a place, as registration sees it: north up, square pixels of true metres.

A view is made from a raster (`MapRaster.view`) or from a map pack (`MapPack.view`); both are `MapPixels`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import ConfigError, MapError
from dphr_infer.geo import metres_per_degree
from dphr_infer.maps.warp import Source, warp
from dphr_infer.types import GeoPoint

MAX_LATITUDE_DEG = 89.9
MAX_VIEW_PX = 4096


@dataclass(frozen=True, slots=True, eq=False)
class MapView:
    """The map around a place: the pixels of its tangent plane (`geo.offset`), north up.

    The middle of the pixel in row r and column c of a view of h rows and w columns lies (c + 0.5 - w/2) * gsd_m east
    and (h/2 - r - 0.5) * gsd_m north of `centre`.

    Attributes:
        image:   uint8 (h, w, 3), RGB; 0 where the map has no data.
        covered: bool (h, w), whether each map pixel that a pixel was made from has data.
        centre:  of the picture.
        gsd_m:   true metres a pixel, in both directions.
    """

    image: NDArray[np.uint8]
    covered: NDArray[np.bool_]
    centre: GeoPoint
    gsd_m: float


class MapPixels(Protocol):
    """A map that gives views; a context manager."""

    def __enter__(self) -> MapPixels: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @property
    def gsd_m(self) -> float:
        """True metres a pixel of its own at its middle, the smaller of both directions."""
        ...

    @property
    def centre(self) -> GeoPoint:
        """The middle of the map."""
        ...

    def view(self, centre: GeoPoint, width_px: int, height_px: int, gsd_m: float) -> MapView:
        """The map around a place; see `view_of`."""
        ...


def view_of(source: Source, centre: GeoPoint, width_px: int, height_px: int, gsd_m: float) -> MapView:
    """A view of any source of pixels: averaged where it is finer than the view, then interpolated once.

    Args:
        source: the map's own pixels.
        centre: of the view; it may lie beyond the map, which covers nothing there.
        width_px, height_px: of the view, 1 to 4096.
        gsd_m: true metres a pixel of the view.

    Raises:
        ConfigError: a size out of its range, or a GSD that is not above 0 and finite.
        MapError: beyond 89.9 degrees of latitude; the map's file is damaged.
    """
    if not (1 <= width_px <= MAX_VIEW_PX and 1 <= height_px <= MAX_VIEW_PX):
        raise ConfigError(f"A view of {width_px} x {height_px} pixels is asked for; expected 1 to {MAX_VIEW_PX} each.")
    if not 0 < gsd_m < math.inf:
        raise ConfigError(f"A view of {gsd_m} m a pixel is asked for; expected metres above 0 and finite.")
    if abs(centre.latitude_deg) > MAX_LATITUDE_DEG:
        raise MapError(
            f"A view is asked for at latitude {centre.latitude_deg:.3f}; beyond {MAX_LATITUDE_DEG} there is no north "
            "to turn it to."
        )
    north_deg, east_deg = (gsd_m / metres for metres in metres_per_degree(centre.latitude_deg))

    def places(x_px: NDArray[np.float64], y_px: NDArray[np.float64]) -> NDArray[np.float64]:
        latitude_deg = centre.latitude_deg + (height_px / 2 - y_px) * north_deg
        turn_deg = (x_px - width_px / 2) * east_deg
        longitude_deg = (centre.longitude_deg + turn_deg + 180.0) % 360.0 - 180.0
        nowhere = (np.abs(latitude_deg) > 90.0) | (np.abs(turn_deg) > 90.0)
        return np.stack([np.where(nowhere, np.nan, latitude_deg), longitude_deg], axis=1)

    image, covered = warp(places, source, width_px, height_px)
    return MapView(image, covered, centre, gsd_m)
