"""Gallery rows -> cells of the lattice that their tile centres form. Only tiles that exist are cells.

Tiles are cut a stride apart in true metres along a raster's rows, so in east and north metres their lattice is turned
(the meridian convergence of a projected map), slightly curved, and the rows of a map in degrees may lie up to half a
stride beside each other. A quadratic map from metres to (column, row) takes the turn and the bend, fitted from the
middle outwards; what is left per row is taken as that row's own shift, so that no two tiles of a row share a cell.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import GalleryError
from dphr_infer.files.gallery import Gallery
from dphr_infer.geo import east_north_m, offset
from dphr_infer.types import GeoPoint

MAX_BOX = 100_000_000
_FIT_ROWS = 20_000
# Of the tiles, in cells: how far from its cell's middle a tile may lie, and how many may lie farther or share a cell.
_MOST_OFF, _MOST_ASTRAY, _MOST_SHARED = 0.25, 0.1, 0.01

Metres = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Lattice:
    """Cells of tiles, sorted by row and then column.

    Attributes:
        middle: origin of east and north metres (its tangent plane).
        tile_m, stride_m: side of a tile, and distance between neighbouring cells.
        axes: float64 (2, 2), a displacement (east, north) in metres -> (columns, rows), at the middle.
        cell_of_row: int32 (N,), each gallery row's cell.
        east_m, north_m: float64 (C,), each cell's tile centre; the true one, not the lattice point.
        column, row: int32 (C,), from 0.
        table: int32 (rows, columns), the cell there, or -1.
        edges: how many cells have no neighbour one column, one row further.
        digest: of places, tile and stride, hex.
    """

    middle: GeoPoint
    tile_m: float
    stride_m: float
    axes: Metres
    cell_of_row: NDArray[np.int32]
    east_m: Metres
    north_m: Metres
    column: NDArray[np.int32]
    row: NDArray[np.int32]
    table: NDArray[np.int32]
    edges: tuple[int, int]
    digest: str

    def __len__(self) -> int:
        return len(self.east_m)

    @property
    def cell_areas(self) -> float:
        """Area of a cell in tile areas, (stride/tile)²."""
        return (self.stride_m / self.tile_m) ** 2

    def cells_within(self, east_m: float, north_m: float, radius_m: float) -> NDArray[np.intp]:
        """Cells whose tile centre lies at most `radius_m` away, sorted."""
        near = np.flatnonzero(np.abs(self.north_m - north_m) <= radius_m)
        return near[np.hypot(self.east_m[near] - east_m, self.north_m[near] - north_m) <= radius_m]

    def point(self, east_m: float, north_m: float) -> GeoPoint:
        """Metres -> degrees."""
        return offset(self.middle, east_m, north_m)

    def metres(self, point: GeoPoint) -> tuple[float, float]:
        """Degrees -> metres east and north of the middle."""
        east, north = east_north_m(self.middle, np.array([point.latitude_deg]), np.array([point.longitude_deg]))
        return float(east[0]), float(north[0])


def gallery_lattice(gallery: Gallery) -> Lattice:
    """The lattice of a gallery; see `fit_lattice`."""
    origin = gallery.origin
    return fit_lattice(gallery.latitude_deg, gallery.longitude_deg, origin.tile_m, origin.stride_m)


def fit_lattice(latitude_deg: Metres, longitude_deg: Metres, tile_m: float, stride_m: float) -> Lattice:
    """Find the lattice of tile centres.

    Args:
        latitude_deg, longitude_deg: float64 (N,), N >= 1, in an order that keeps neighbours together, as a gallery's.
        tile_m, stride_m: side of a tile, and distance between tile centres in true metres.

    Raises:
        GalleryError: there is no tile, they form no lattice of this stride, or they lie so far apart that its
            bounding box has more than 100 million cells.
    """
    if len(latitude_deg) == 0:
        raise GalleryError("There is no tile, so there is no lattice to fly over: index a map first.")
    first = GeoPoint(float(latitude_deg[0]), float(longitude_deg[0]))
    ends = [(float(values.min()), float(values.max())) for values in east_north_m(first, latitude_deg, longitude_deg)]
    middle = offset(first, sum(ends[0]) / 2, sum(ends[1]) / 2)
    east, north = east_north_m(middle, latitude_deg, longitude_deg)
    _check_box(ends, stride_m)
    points = np.stack([east, north], axis=1)
    coefficients, start = _grow_fit(points, stride_m)
    uv = _lattice_coordinates(points, coefficients, start, stride_m)
    column, row, astray = _snap(uv)
    column, row = column - column.min(), row - row.min()
    width, height = int(column.max()) + 1, int(row.max()) + 1
    key, cell_of_row, sharing = np.unique(row * width + column, return_inverse=True, return_counts=True)
    cell_of_row = cell_of_row.reshape(-1)
    table = np.full((height, width), -1, np.int32)
    table.flat[key] = np.arange(len(key), dtype=np.int32)
    edges = _edges(table)
    _check_lattice(astray, len(points) - len(key), edges, len(points), stride_m)
    return Lattice(
        middle,
        tile_m,
        stride_m,
        coefficients[:2].T / stride_m,
        cell_of_row.astype(np.int32),
        np.bincount(cell_of_row, east) / sharing,
        np.bincount(cell_of_row, north) / sharing,
        (key % width).astype(np.int32),
        (key // width).astype(np.int32),
        table,
        edges,
        _digest(latitude_deg, longitude_deg, tile_m, stride_m),
    )


def _check_box(ends: list[tuple[float, float]], stride_m: float) -> None:
    # A turned box is at most twice as large.
    cells = 2 * np.prod([(high - low) / stride_m + 1 for low, high in ends])
    if cells > MAX_BOX:
        wide, high = ((high - low) / 1000 for low, high in ends)
        raise GalleryError(
            f"The gallery's tiles spread over {wide:,.0f} x {high:,.0f} km, about {cells:.2g} cells of {stride_m:g} m; "
            f"a flight takes {MAX_BOX:.0e}. Index the maps that lie far apart into galleries of their own."
        )


def _terms(points: Metres) -> Metres:
    """(n, 2) in strides -> (n, 6): east, north, 1 and the quadratic terms."""
    east, north = points.T
    return np.stack([east, north, np.ones_like(east), east * east, east * north, north * north], axis=1)


def _lattice_coordinates(points: Metres, coefficients: Metres, start: Metres, stride_m: float) -> Metres:
    local: Metres = _terms((points - start) / stride_m) @ coefficients
    return local


def _grow_fit(points: Metres, stride_m: float) -> tuple[Metres, Metres]:
    """Coefficients (6, 2) of columns and rows, about a tile near the middle: fit near it, then ever farther out."""
    start = points[np.argmin(np.hypot(*points.T))]
    turn = _turn(points, stride_m)
    coefficients = np.zeros((6, 2))
    coefficients[:2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    distance = np.hypot(*(points - start).T)
    reach, farthest = 8 * stride_m, float(distance.max())
    while True:
        near = np.flatnonzero(distance <= reach)
        near = near[:: max(1, len(near) // _FIT_ROWS)]
        terms = _terms((points[near] - start) / stride_m)
        # Scaled to 1, so that what the places do not determine is left as it is.
        scale = (
            np.maximum(np.abs(terms).max(axis=0), 1e-9)
            if len(near) > 30
            else np.array([1, 1, 1, np.inf, np.inf, np.inf])
        )
        place = terms @ coefficients
        left = np.rint(place) - place
        for axis in (0, 1):
            # Rows that are shifted against the others say nothing of the lattice's shape.
            sure = np.abs(left[:, axis]) < _MOST_OFF
            change = np.linalg.lstsq(terms[sure] / scale, left[sure, axis], rcond=1e-4)[0] / scale
            coefficients[:, axis] += change
        if reach >= farthest:
            return coefficients, start
        reach *= 1.5


def _turn(points: Metres, stride_m: float) -> float:
    """Angle of the lattice against east, in [-45°, 45°], from pairs of rows that are neighbours on the ground."""
    steps = np.diff(points, axis=0)
    length = np.hypot(*steps.T)
    steps = steps[np.abs(length / stride_m - 1) < 0.1]
    if len(steps) == 0:
        return 0.0
    angle = np.arctan2(steps[:, 1], steps[:, 0])
    return float(np.angle(np.exp(4j * angle).mean()) / 4)


def _snap(uv: Metres) -> tuple[NDArray[np.int64], NDArray[np.int64], float]:
    """Coordinates (n, 2) -> whole columns and rows, and the share of tiles that lie far from any lattice.

    Along one axis the lines of tiles may be shifted against each other, as rows of a map in degrees are; of the two,
    the one that leaves the tiles nearer to their cells is taken.
    """
    results = []
    for along in (0, 1):
        line = np.rint(uv[:, 1 - along]).astype(np.int64)
        across_off = np.abs(uv[:, 1 - along] - line)
        _, index = np.unique(line, return_inverse=True)
        index = index.reshape(-1)
        turns = np.exp(2j * np.pi * uv[:, along])
        phase = np.angle(np.bincount(index, turns.real) + 1j * np.bincount(index, turns.imag)) / (2 * np.pi)
        shifted = uv[:, along] - phase[index]
        place = np.rint(shifted).astype(np.int64)
        off = np.maximum(np.abs(shifted - place), across_off)
        results.append((float(np.mean(off)), along, place, line, float(np.mean(off > _MOST_OFF))))
    _, along, place, line, astray = min(results, key=lambda result: result[:2])
    return (place, line, astray) if along == 0 else (line, place, astray)


def _edges(table: NDArray[np.int32]) -> tuple[int, int]:
    held = np.pad(table >= 0, 1)
    inner = held[1:-1, 1:-1]
    return int((inner & ~held[1:-1, 2:]).sum()), int((inner & ~held[2:, 1:-1]).sum())


def _check_lattice(astray: float, shared: int, edges: tuple[int, int], n: int, stride_m: float) -> None:
    if astray > _MOST_ASTRAY or shared > _MOST_SHARED * n or (n >= 4 and min(edges) > 0.75 * n):
        raise GalleryError(
            f"The gallery's {n} tiles form no lattice {stride_m:g} m apart: {astray:.0%} lie more than a quarter of "
            f"that beside it (at most {_MOST_ASTRAY:.0%}), {shared} share a cell, and {min(edges)} have no neighbour. "
            "A flight needs the tiles of one map at one stride: index it with dphr-infer index."
        )


def _digest(latitude_deg: Metres, longitude_deg: Metres, tile_m: float, stride_m: float) -> str:
    sha = hashlib.sha256(f"{tile_m!r} {stride_m!r}".encode())
    for values in (latitude_deg, longitude_deg):
        sha.update(np.ascontiguousarray(values, "<f8").tobytes())
    return sha.hexdigest()
