"""A georeferenced raster as squares of true metres. The only file that imports rasterio.

A tile is a square on the ground, aligned with the raster's columns and rows. How many pixels it takes is measured where
it lies: two small pixel offsets are transformed to WGS84, and geo.metres_per_degree turns their degrees into metres. So
a tile of 100 m is 100 m on the ground in UTM, in degrees, and in Web Mercator, whose own metres shrink with latitude.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import MapError, MissingPackageError
from dphr_infer.geo import metres_per_degree
from dphr_infer.maps.mercator import MERCATOR_TURN_M
from dphr_infer.maps.raster_checks import check_georeference, colour_bands
from dphr_infer.maps.tiling import GridRow, PixelBox, Tile, TileSpot, compose_tile, pixel_box, plan_rows
from dphr_infer.maps.view import MAX_LATITUDE_DEG, MapView, view_of
from dphr_infer.types import GeoPoint

MAX_ROTATION_DEG = 2.0

# In bytes: unlike GDAL's own option, rasterio does not read small numbers as megabytes.
_CACHE_BYTES = 64 << 20
_PROBE_PX = 0.5
# A place that its projection does not bring back to this lies where the projection has lost its way: 1 cm.
_RETURN_DEG = 1e-7
_BLANK = 230


def _import_rasterio() -> Any:
    try:
        import rasterio
        import rasterio._err
        import rasterio.enums
        import rasterio.errors
        import rasterio.warp
        import rasterio.windows
    except ImportError as error:
        raise MissingPackageError("rasterio", "map", "Reading a map") from error
    return rasterio


def rasterio_version() -> str:
    """Version of the installed rasterio, with its GDAL.

    Raises:
        MissingPackageError: it is not installed.
    """
    rasterio = _import_rasterio()
    return f"{rasterio.__version__} (GDAL {rasterio.__gdal_version__})"


class MapRaster:
    """A map opened for reading tiles; a context manager. Reads windows only; GDAL's cache is held to 64 MB.

    The first three bands are taken as red, green and blue unless the file names them otherwise. What its mask, its
    alpha band or its no-data value declares as absent is absent.

    Args:
        path: anything GDAL reads, 8 bits, at least three bands, with a coordinate reference system.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rasterio = _import_rasterio()
        self._dataset: Any = None
        self._environment: Any = None
        self._bands: tuple[int, ...] = (1, 2, 3)

    def __enter__(self) -> MapRaster:
        """Open the map.

        Raises:
            MapError: missing, damaged, without a georeference that leads to WGS84, with fewer than three bands, or not
                of 8 bits.
        """
        rasterio = self._rasterio
        if self.path.is_dir():
            raise MapError(f"{self.path} is a folder. Name the raster file in it.")
        if not self.path.is_file():
            raise MapError(f"{self.path} {'is not a regular file' if self.path.exists() else 'does not exist'}.")
        self._environment = rasterio.Env(GDAL_CACHEMAX=_CACHE_BYTES)
        self._environment.__enter__()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
                self._dataset = rasterio.open(self.path)
            check_georeference(self.path, self._dataset)
            self._bands = colour_bands(self.path, self._dataset)
            self.to_points(np.array([self.width_px / 2]), np.array([self.height_px / 2]))
        except rasterio.errors.RasterioIOError as error:
            self.close()
            raise MapError(f"{self.path} is not a raster that GDAL can read: {error}") from error
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; harmless when it is closed already."""
        if self._dataset is not None:
            self._dataset.close()
            self._dataset = None
        if self._environment is not None:
            self._environment.__exit__(None, None, None)
            self._environment = None

    @property
    def width_px(self) -> int:
        """Columns of the raster."""
        return int(self._dataset.width)

    @property
    def height_px(self) -> int:
        """Rows of the raster."""
        return int(self._dataset.height)

    @property
    def crs(self) -> str:
        """The coordinate reference system, for people."""
        return str(self._dataset.crs.to_string())

    def to_points(self, x_px: NDArray[np.float64], y_px: NDArray[np.float64]) -> NDArray[np.float64]:
        """Pixel positions (0 is the outer edge of the first pixel) -> float64 (n, 2), latitude and longitude.

        Raises:
            MapError: the map's projection does not reach a position.
        """
        t = self._dataset.transform
        easting, northing = t.c + t.a * x_px + t.b * y_px, t.f + t.d * x_px + t.e * y_px
        longitude, latitude = self._transform(self._dataset.crs, "EPSG:4326", easting, northing)
        points = np.stack([np.asarray(latitude, np.float64), np.asarray(longitude, np.float64)], axis=1)
        beyond = np.abs(points[:, 1]) > 180.0  # where a map in degrees goes on across the antimeridian
        points[beyond, 1] = (points[beyond, 1] + 180.0) % 360.0 - 180.0
        if not np.isfinite(points).all():
            raise MapError(f"{self.path} covers places that its projection {self.crs} cannot bring to WGS84.")
        return points

    def locate(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Latitude and longitude, float64 (n, 2) -> pixel positions x and y; see `warp.Source.locate`."""
        at = np.full(points.shape, np.nan)
        known = np.isfinite(points).all(axis=1)
        places = points[known]
        xs, ys = self._project("EPSG:4326", self._dataset.crs, places[:, 1], places[:, 0])
        back = np.stack(self._project(self._dataset.crs, "EPSG:4326", xs, ys)[::-1], axis=1) - places
        back[:, 1] = (back[:, 1] + 180.0) % 360.0 - 180.0
        lost = ~(np.abs(back) < _RETURN_DEG).all(axis=1)
        if (turn := self._turn()) and len(xs):
            bounds = self._dataset.bounds
            near = xs[0] + turn * round(((bounds.left + bounds.right) / 2 - xs[0]) / turn)
            xs = xs + turn * np.round((near - xs) / turn)
        t = ~self._dataset.transform
        found = np.stack([t.c + t.a * xs + t.b * ys, t.f + t.d * xs + t.e * ys], axis=1)
        found[lost] = np.nan
        at[known] = found
        return at

    def _turn(self) -> float:
        """What a turn round the earth adds to the map's first coordinate; 0 where no turn leads back."""
        crs = self._dataset.crs
        return 360.0 if crs.is_geographic else MERCATOR_TURN_M if crs.to_epsg() == 3857 else 0.0

    def _project(self, source: Any, target: Any, xs: Any, ys: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """As `_transform`, with NaN for each position that the projection refuses."""
        rasterio = self._rasterio
        errors = (rasterio.errors.RasterioError, rasterio.errors.RasterioIOError, rasterio._err.CPLE_BaseError)
        try:
            return tuple(np.asarray(values) for values in rasterio.warp.transform(source, target, xs, ys))  # type: ignore
        except errors:
            if len(xs) == 1:
                return np.array([np.nan]), np.array([np.nan])
        each = [self._project(source, target, xs[i : i + 1], ys[i : i + 1]) for i in range(len(xs))]
        return np.concatenate([x for x, _ in each]), np.concatenate([y for _, y in each])

    def _transform(self, source: Any, target: Any, xs: Any, ys: Any) -> Any:
        rasterio = self._rasterio
        try:
            return rasterio.warp.transform(source, target, xs, ys)
        except (rasterio.errors.RasterioError, rasterio.errors.CRSError, rasterio._err.CPLE_BaseError) as error:
            raise MapError(
                f"{self.path} has the coordinate system {self.crs[:60]}, which does not lead to WGS84 ({error}). "
                "Assign the one that it was made in: gdal_edit.py -a_srs EPSG:…"
            ) from error

    def to_px(self, point: GeoPoint) -> tuple[float, float]:
        """A place -> pixel position (x, y); it may lie outside the raster."""
        xs, ys = self._transform("EPSG:4326", self._dataset.crs, [point.longitude_deg], [point.latitude_deg])
        t = ~self._dataset.transform
        if turn := self._turn():  # that which lies nearest to the map's middle
            bounds = self._dataset.bounds
            xs = [xs[0] + turn * round(((bounds.left + bounds.right) / 2 - xs[0]) / turn)]
        return float(t.c + t.a * xs[0] + t.b * ys[0]), float(t.f + t.d * xs[0] + t.e * ys[0])

    def metres_per_px(self, x_px: NDArray[np.float64], y_px: NDArray[np.float64]) -> NDArray[np.float64]:
        """True metres that a step of one pixel takes, float64 (n, 2): to the right, and down.

        Raises:
            MapError: beyond 89.9 degrees of latitude.
        """
        metres: NDArray[np.float64] = np.hypot(*self._steps_m(x_px, y_px).transpose(2, 0, 1)).T
        return metres

    def _steps_m(self, x_px: NDArray[np.float64], y_px: NDArray[np.float64]) -> NDArray[np.float64]:
        """Metres north and east of a step of one pixel to the right, and of one down: float64 (2, n, 2)."""
        n = len(x_px)
        near = self.to_points(
            np.concatenate([x_px - _PROBE_PX, x_px + _PROBE_PX, x_px, x_px]),
            np.concatenate([y_px, y_px, y_px - _PROBE_PX, y_px + _PROBE_PX]),
        ).reshape(2, 2, n, 2)
        steps_deg = near[:, 1] - near[:, 0]  # over one pixel
        steps_deg[..., 1] = (steps_deg[..., 1] + 180.0) % 360.0 - 180.0
        if np.abs(near[..., 0]).max() > MAX_LATITUDE_DEG:
            raise MapError(
                f"{self.path} reaches latitude {np.abs(near[..., 0]).max():.3f}; beyond {MAX_LATITUDE_DEG} there is no "
                "north to lay tiles by. Cut the map off before the pole: gdalwarp -te …"
            )
        steps: NDArray[np.float64] = steps_deg * [metres_per_degree(latitude) for latitude in near[0, 0, :, 0]]
        return steps

    def plan_rows(self, tile_m: float, stride_m: float, row_bytes: int = 0) -> list[GridRow]:
        """The grid of tiles that lie wholly within the map; see `tiling.plan_rows`.

        Raises:
            MapError: as that.
        """
        return plan_rows(self.width_px, self.height_px, self.metres_per_px, tile_m, stride_m, row_bytes)

    def row_spots(self, row: GridRow, tile_m: float) -> list[TileSpot]:
        """The tiles of one row of the grid, each of the size that `tile_m` has at its own place."""
        return self._spots(row.x_px + row.step_px * np.arange(row.count), np.full(row.count, row.y_px), tile_m)

    def spot_at(self, point: GeoPoint, tile_m: float) -> TileSpot:
        """The tile around a place, which may reach beyond the map."""
        x_px, y_px = self.to_px(point)
        return self._spots(np.array([x_px]), np.array([y_px]), tile_m)[0]

    def _spots(self, x_px: NDArray[Any], y_px: NDArray[Any], tile_m: float) -> list[TileSpot]:
        sizes = tile_m / self.metres_per_px(x_px, y_px)
        points = self.to_points(x_px, y_px)
        return [
            TileSpot(float(x), float(y), float(width), float(height), GeoPoint(float(latitude), float(longitude)))
            for x, y, (width, height), (latitude, longitude) in zip(x_px, y_px, sizes, points, strict=True)
        ]

    def read_tile(self, spot: TileSpot) -> Tile:
        """Read a tile at the map's own resolution, north up.

        Where the map is north up within 2 degrees, the tile's edges are the nearest whole pixels (`compose_tile`);
        elsewhere, also where it is mirrored, the tile is a view.

        Raises:
            MapError: the file is damaged.
        """
        right, down = self._steps_m(np.array([spot.x_px]), np.array([spot.y_px]))[:, 0]
        turn_rad = max(abs(math.atan2(right[0], right[1])), abs(math.atan2(down[1], -down[0])))
        if math.degrees(turn_rad) > MAX_ROTATION_DEG:
            side_m, side_px = spot.width_px * math.hypot(*right), round(max(spot.width_px, spot.height_px, 1.0))
            seen = self.view(spot.point, side_px, side_px, side_m / side_px)
            whole = PixelBox(0, 0, side_px, side_px)
            return compose_tile(whole, whole, seen.image, seen.covered)
        box = pixel_box(spot)
        inside = box.clipped(self.width_px, self.height_px)
        pixels, has_data = np.zeros((0, 0, 3), np.uint8), np.zeros((0, 0), bool)
        if not inside.empty:
            pixels, mask = self._read(inside, None)
            has_data = mask > 0
        return compose_tile(box, inside, pixels, has_data)

    @property
    def centre(self) -> GeoPoint:
        """The middle of the map."""
        latitude_deg, longitude_deg = self.to_points(np.array([self.width_px / 2]), np.array([self.height_px / 2]))[0]
        return GeoPoint(float(latitude_deg), float(longitude_deg))

    @property
    def gsd_m(self) -> float:
        """True metres a pixel at the middle of the map, the smaller of both directions."""
        return float(self.metres_per_px(np.array([self.width_px / 2]), np.array([self.height_px / 2])).min())

    def view(self, centre: GeoPoint, width_px: int, height_px: int, gsd_m: float) -> MapView:
        """The map around a place, north up, whichever way the raster is turned; see `view.view_of`."""
        return view_of(self, centre, width_px, height_px, gsd_m)

    def block_of(self, x_px: float, y_px: float) -> tuple[int, int]:
        """The nearest whole numbers of pixels; see `warp.Source.block_of`."""
        return (
            min(max(1, round(x_px)), self.width_px),
            min(max(1, round(y_px)), self.height_px),
        )

    def extent(self, block: tuple[int, int]) -> PixelBox:
        """The whole blocks of the raster; see `warp.Source.extent`."""
        return PixelBox(0, 0, self.width_px // block[0], self.height_px // block[1])

    def read_blocks(self, box: PixelBox, block: tuple[int, int]) -> NDArray[np.uint8]:
        """See `warp.Source.read_blocks`; what is transparent in part has no data here.

        Where absence is a value of the pixels, a block's mean leaves it out.
        """
        x, y = block
        pixels = PixelBox(box.left * x, box.top * y, box.right * x, box.bottom * y)
        image, mask = self._read(pixels, None if block == (1, 1) else (box.bottom - box.top, box.right - box.left))
        return np.dstack([image, np.where(mask == 255, np.uint8(255), np.uint8(0))])

    def read_overview(self, max_side_px: int) -> tuple[NDArray[np.uint8], float]:
        """The whole map, its longer side at most `max_side_px`, and the factor from map pixels to its pixels."""
        factor = min(1.0, max_side_px / max(self.width_px, self.height_px))
        size = (max(1, round(self.height_px * factor)), max(1, round(self.width_px * factor)))
        image, mask = self._read(PixelBox(0, 0, self.width_px, self.height_px), size)
        image[mask == 0] = _BLANK
        return image, factor

    def _read(self, box: PixelBox, size: tuple[int, int] | None) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Pixels uint8 (H, W, 3) and what part of each has data, uint8 (H, W); `size` to reduce to by averaging."""
        rasterio = self._rasterio
        window = rasterio.windows.Window(box.left, box.top, box.right - box.left, box.bottom - box.top)
        shape, mask_shape = (None, None) if size is None else ((3, *size), size)
        average = rasterio.enums.Resampling.average
        try:
            pixels = self._dataset.read(list(self._bands), window=window, out_shape=shape, resampling=average)
            mask = self._dataset.dataset_mask(window=window, out_shape=mask_shape, resampling=average)
        # Before rasterio 1.4 a RasterioIOError is no RasterioError.
        except (rasterio.errors.RasterioError, rasterio.errors.RasterioIOError) as error:
            raise MapError(
                f"{self.path} is damaged: {error.__cause__ or error}. Copy it again from its source."
            ) from error
        return np.ascontiguousarray(np.moveaxis(pixels, 0, 2)), mask
