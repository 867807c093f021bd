from __future__ import annotations

import itertools

import numpy as np
import pytest
from made_galleries import STRIDE_M, TILE_M, gallery_of, grid_gallery, hilbert_gallery, places
from rasterio.warp import transform

from dphr_infer.errors import GalleryError
from dphr_infer.flight.lattice import Lattice, fit_lattice, gallery_lattice


def steps_along(lattice: Lattice, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Column and row steps between successive gallery rows."""
    cells = lattice.cell_of_row[rows]
    return np.diff(lattice.column[cells]), np.diff(lattice.row[cells])


def test_rows_of_a_grid_become_its_cells() -> None:
    lattice = gallery_lattice(grid_gallery(4, 3))
    assert lattice.table.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert lattice.cell_of_row.tolist() == list(range(12))
    np.testing.assert_allclose(lattice.east_m[:4], [-37.5, -12.5, 12.5, 37.5], atol=1e-3)
    np.testing.assert_allclose(lattice.north_m[::4], [-25, 0, 25], atol=1e-6)
    np.testing.assert_allclose(lattice.axes, np.eye(2) / 25, atol=1e-7)
    assert lattice.cell_areas == 1 / 16
    assert lattice.edges == (3, 4)


def test_cells_are_only_tiles_that_exist() -> None:
    whole = grid_gallery(5, 5)
    held = np.delete(np.arange(25), [12, 13])
    lattice = gallery_lattice(gallery_of(whole.latitude_deg[held], whole.longitude_deg[held], TILE_M, STRIDE_M))
    assert len(lattice) == 23
    assert np.argwhere(lattice.table < 0).tolist() == [[2, 2], [2, 3]]


def test_a_cell_within_a_radius_is_found_by_its_true_place() -> None:
    lattice = gallery_lattice(grid_gallery(5, 5))
    assert lattice.cells_within(0, 0, 24.9).tolist() == [12]
    assert lattice.cells_within(0, 0, 25.1).tolist() == [7, 11, 12, 13, 17]
    east, north = lattice.metres(lattice.point(30.0, -20.0))
    assert (east, north) == pytest.approx((30.0, -20.0), abs=1e-6)


def test_a_map_of_a_projection_far_from_its_middle_is_a_turned_and_bent_lattice() -> None:
    # 48 km of UTM 3.2° east of its meridian at 60° north: turned by 3.2°·sin 60°, and bent by a cell.
    column, row = np.meshgrid(np.arange(480), np.arange(480))
    east, north = 655_000 + 100.0 * column.ravel(), 6_643_000 + 100.0 * row.ravel()
    longitude, latitude = (np.array(values) for values in transform("EPSG:32632", "EPSG:4326", east, north))
    gallery, order = hilbert_gallery(gallery_of(latitude, longitude, 400.0, 100.0))
    lattice = gallery_lattice(gallery)
    assert lattice.table.shape == (480, 480) and len(lattice) == 480 * 480
    np.testing.assert_array_equal(lattice.column[lattice.cell_of_row], column.ravel()[order])
    np.testing.assert_array_equal(lattice.row[lattice.cell_of_row], row.ravel()[order])
    turn = np.degrees(np.arctan2(lattice.axes[0, 1], lattice.axes[0, 0]))
    assert turn == pytest.approx(-2.77, abs=0.05)


def test_rows_of_a_map_in_degrees_may_lie_half_a_stride_beside_each_other() -> None:
    # Each row is centred and holds as many tiles as fit, so it begins half a stride further in where one less does.
    counts = [41] * 9 + [40] * 9 + [39] * 9
    east = np.concatenate([(np.arange(n) - (n - 1) / 2) * STRIDE_M for n in counts])
    north = np.repeat(np.arange(27) * STRIDE_M, counts)
    gallery, order = hilbert_gallery(gallery_of(*places(east, north), TILE_M, STRIDE_M))
    lattice = gallery_lattice(gallery)
    assert len(lattice) == sum(counts)
    back = np.argsort(order)
    for first, n in zip(np.cumsum([0, *counts]), counts, strict=False):
        column, row = steps_along(lattice, back[first : first + n])
        assert set(column) == {1} and set(row) == {0}


@pytest.mark.parametrize(("columns", "rows"), [(1, 1), (7, 1), (1, 7), (2, 2)])
def test_the_smallest_maps_are_lattices(columns: int, rows: int) -> None:
    lattice = gallery_lattice(grid_gallery(columns, rows))
    assert lattice.table.shape == (rows, columns)
    np.testing.assert_allclose(lattice.axes, np.eye(2) / 25, atol=1e-6)


def test_the_antimeridian_cuts_no_lattice() -> None:
    gallery = grid_gallery(9, 3)
    longitude = (gallery.longitude_deg - 8.0 + 180.0 + 180.0) % 360.0 - 180.0
    lattice = gallery_lattice(gallery_of(gallery.latitude_deg, longitude, TILE_M, STRIDE_M))
    assert lattice.table.shape == (3, 9)


def test_what_is_no_lattice_is_refused_in_a_line() -> None:
    rng = np.random.default_rng(0)
    scattered = places(rng.uniform(-500, 500, 300), rng.uniform(-500, 500, 300))
    for latitude, longitude, stride_m in [
        (*scattered, STRIDE_M),
        (grid_gallery(9, 9).latitude_deg, grid_gallery(9, 9).longitude_deg, 17.0),
        (grid_gallery(9, 9).latitude_deg, grid_gallery(9, 9).longitude_deg, 12.5),
        (np.tile(grid_gallery(9, 9).latitude_deg, 2), np.tile(grid_gallery(9, 9).longitude_deg, 2), STRIDE_M),
    ]:
        with pytest.raises(GalleryError, match=r"form no lattice .* apart: .*index it with") as error:
            fit_lattice(latitude, longitude, TILE_M, stride_m)
        assert "\n" not in str(error.value)
    with pytest.raises(GalleryError, match="no tile"):
        fit_lattice(np.empty(0), np.empty(0), TILE_M, STRIDE_M)
    with pytest.raises(GalleryError, match=r"spread over .* km"):
        fit_lattice(np.array([0.0, 10.0]), np.array([0.0, 10.0]), TILE_M, STRIDE_M)


def test_the_digest_tells_one_gallery_from_another() -> None:
    made = [gallery_lattice(grid_gallery(*size)).digest for size in [(4, 3), (4, 3), (3, 4)]]
    assert made[0] == made[1] != made[2]
    assert all(len(digest) == 64 for digest in made)
    other_tile = gallery_lattice(grid_gallery(4, 3, tile_m=90.0)).digest
    assert all(a != b for a, b in itertools.pairwise([made[0], other_tile]))
