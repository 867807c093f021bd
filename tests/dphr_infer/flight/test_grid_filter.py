from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from flight_hmm import PlainFilter
from made_galleries import CENTRE, STRIDE_M, TILE_M, gallery_of, grid_gallery, places

from dphr_infer.errors import ConfigError, FlightError
from dphr_infer.flight.fix import Odometry, RegisteredPoint
from dphr_infer.flight.grid_filter import GridFilter
from dphr_infer.flight.lattice import Lattice, gallery_lattice
from dphr_infer.flight.settings import FilterSettings
from dphr_infer.flight.spread import Kernel, gaussian_kernel, spread
from dphr_infer.types import GeoPoint, Prior

WHOLE, SPARSE = FilterSettings(), FilterSettings(keep_all=0)
NOISE = np.array([[200.0, 60.0], [60.0, 120.0]])


def total(grid: GridFilter) -> float:
    return grid.off + grid.rest + float(grid.mass.sum())


def dense(grid: GridFilter) -> np.ndarray:
    """Every cell's mass and off, float64 (C + 1,)."""
    mass = np.full(len(grid.lattice), grid.rest / len(grid.lattice))
    mass[grid.cells] += grid.mass
    return np.append(mass, grid.off)


def turned_lattice(degrees: float = 20.0) -> Lattice:
    """12 x 9 tiles, turned against north, with a hole."""
    column, row = (values.ravel() for values in np.meshgrid(np.arange(12.0) - 5.5, np.arange(9.0) - 4))
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    latitude, longitude = places((cos * column - sin * row) * STRIDE_M, (sin * column + cos * row) * STRIDE_M)
    held = np.delete(np.arange(108), [40, 41, 42, 52, 53])
    return gallery_lattice(gallery_of(latitude[held], longitude[held], TILE_M, STRIDE_M))


def test_the_gain_of_a_rank_by_hand() -> None:
    # k/θ = 7.1186; at ρ = 0 of a map of 100 tile areas: 0.9 · 7.1186 · 100 + 0.1.
    gain = FilterSettings().rank_gain(np.array([0.0, 0.295]), 100.0)
    assert gain == pytest.approx([640.78, 0.9 * 7.118644 * 2**-3.1 * 100 + 0.1], rel=1e-5)


@pytest.mark.parametrize("listed", [0, 1, 16, 99])
def test_the_gain_of_the_rest_is_the_mean_of_the_other_ranks(listed: int) -> None:
    settings, areas = FilterSettings(), 1 / 16
    fine = np.linspace(listed * areas, 100 * areas, 1_000_001)
    mean = settings.rank_gain((fine[1:] + fine[:-1]) / 2, 100 * areas).mean()
    assert settings.rest_gain(listed * areas, 100 * areas) == pytest.approx(mean, rel=1e-6)


def test_the_start_is_even_or_around_a_prior() -> None:
    lattice = gallery_lattice(grid_gallery(8, 8))
    even = GridFilter(lattice, WHOLE)
    np.testing.assert_allclose(dense(even), [0.5 / 64] * 64 + [0.5])
    near = GridFilter(lattice, WHOLE, Prior(CENTRE.latitude_deg, CENTRE.longitude_deg, 50.0))
    assert dense(near)[27] / dense(near)[26] == pytest.approx(math.exp(2 * 25**2 / (2 * 25**2)), rel=1e-3)
    assert dense(near)[:-1].sum() == pytest.approx(0.5)
    with pytest.raises(FlightError, match="No tile of the gallery lies within"):
        GridFilter(lattice, WHOLE, Prior(48.0, 8.0, 50.0))


def test_motion_by_whole_cells_moves_the_belief_and_what_leaves_the_map_joins_off() -> None:
    grid = GridFilter(gallery_lattice(grid_gallery(3, 2)), replace(WHOLE, start_off=0.4))
    grid.mass = np.array([0.1, 0.2, 0.3, 0, 0, 0.0])
    grid.move(Odometry(STRIDE_M, STRIDE_M, np.zeros((2, 2))))
    np.testing.assert_allclose(dense(grid), [0, 0, 0, 0, 0.1, 0.2, 0.7], atol=1e-12)


def test_what_is_less_than_half_a_cell_is_carried_and_blurs_nothing() -> None:
    grid = GridFilter(gallery_lattice(grid_gallery(9, 9)), WHOLE)
    grid.mass = np.zeros(81)
    grid.mass[36] = 0.5  # row 4, column 0
    for _ in range(30):
        grid.move(Odometry(0.22 * STRIDE_M, 0.0, np.eye(2) * 1e-4 * STRIDE_M**2))
    # 6.6 columns: seven whole cells less 0.4.
    assert dense(grid)[36 + 7] == pytest.approx(0.5)
    assert grid.offset == pytest.approx([-0.4, 0.0], abs=1e-4)
    found = grid.estimate()
    assert found is not None
    assert found.east_m == pytest.approx((6.6 - 4) * STRIDE_M, abs=0.01)
    # The collected noise is in the covariance, with a cell's own extent.
    assert found.covariance[0, 0] == pytest.approx((30 * 1e-4 + 1 / 12) * STRIDE_M**2, rel=1e-3)


def test_leaks_by_hand() -> None:
    grid = GridFilter(gallery_lattice(grid_gallery(2, 2)), replace(WHOLE, start_off=0.6))
    grid.leak(0.5)  # 1 % of 0.4 leaves, 2.5 % of 0.6 comes back
    assert grid.off == pytest.approx(0.6 * 0.975 + 0.4 * 0.01)
    np.testing.assert_allclose(dense(grid)[:-1], (0.4 * 0.99 + 0.6 * 0.025) / 4)


@pytest.mark.parametrize("settings", [WHOLE, SPARSE], ids=["whole", "sparse"])
def test_the_filter_is_the_plain_hidden_markov_model(settings: FilterSettings) -> None:
    """Motion with correlated noise, ranks, leaks and a registration, over a turned lattice with a hole."""
    lattice = turned_lattice()
    grid, plain = GridFilter(lattice, settings), PlainFilter(lattice, settings)
    rng = np.random.default_rng(3)
    registration = RegisteredPoint(lattice.point(30.0, 5.0), np.diag([9.0, 25.0]), 0.05)
    for frame in range(10):
        rows = rng.choice(len(lattice), 16, replace=False).astype(np.int32)
        if frame > 2:  # the matches agree on a place
            rows[0] = np.argmin(np.hypot(lattice.east_m - 12 * frame + 60, lattice.north_m - 5))
        motion = Odometry(12.0, 1.0, NOISE * (20.0 if frame == 5 else 0.2))
        for one in (grid, plain):
            one.move(motion)
            one.leak(0.7)
            one.weigh_matches(rows[: len(np.unique(rows))], 0.3)
            if frame == 8:
                one.weigh_registration(registration, 0.6)
        assert total(grid) == pytest.approx(1, abs=1e-12)
        apart = np.abs(dense(grid) - plain.belief)
        if settings is WHOLE:
            assert apart.max() < 1e-9
        else:  # what is spread evenly differs at the edges, and nearly all of this map is edge
            assert apart.sum() < 0.2 and apart[-1] < 0.05


def test_a_full_list_of_ranks_is_the_plain_model_too() -> None:
    lattice = gallery_lattice(grid_gallery(5, 4))
    grid, plain = GridFilter(lattice, WHOLE), PlainFilter(lattice, WHOLE)
    rows = np.random.default_rng(0).permutation(20).astype(np.int32)
    for one in (grid, plain):
        one.weigh_matches(rows, 1.0)
    np.testing.assert_allclose(dense(grid), plain.belief, rtol=1e-9)
    grid = GridFilter(lattice, SPARSE)
    grid.weigh_matches(rows, 1.0)
    np.testing.assert_allclose(dense(grid), plain.belief, rtol=1e-4)


def test_the_mean_and_covariance_of_the_mode_and_its_protection_by_hand() -> None:
    grid = GridFilter(gallery_lattice(grid_gallery(20, 20)), WHOLE)
    grid.mass, grid.off = np.zeros(400), 0.1
    grid.mass[[210, 211]] = 0.3, 0.5
    grid.mass[20] = 0.1  # far away
    found = grid.estimate()
    assert found is not None
    east = [grid.lattice.east_m[210], grid.lattice.east_m[211]]
    assert found.east_m == pytest.approx((0.3 * east[0] + 0.5 * east[1]) / 0.8)
    assert found.mass == pytest.approx(0.8)
    assert found.covariance[0, 0] == pytest.approx(0.375 * 0.625 * 25**2 + 25**2 / 12, rel=1e-3)
    assert found.covariance[1, 1] == pytest.approx(25**2 / 12, rel=1e-3)
    north = grid.lattice.north_m[210]
    assert grid.protection_m(east[1], north, 0.5) == pytest.approx(12.5, abs=0.01)
    assert grid.protection_m(east[1], north, 0.8 - 1e-9) == pytest.approx(37.5, abs=0.01)
    assert grid.protection_m(east[1], north, 0.89) > 200
    assert grid.protection_m(east[1], north, 0.91) == math.inf


def test_a_registration_raises_its_place_and_off_the_map_it_is_an_outlier() -> None:
    lattice = gallery_lattice(grid_gallery(20, 20))
    grid = GridFilter(lattice, FilterSettings())
    at = lattice.point(float(lattice.east_m[210]), float(lattice.north_m[210]))
    good = grid.weigh_registration(RegisteredPoint(at, np.eye(2), 0.05), 1.0)
    # Half of all probability on the map, whose mean density is 1: 0.5 · 0.95 against 0.05.
    assert good == pytest.approx(0.475 / 0.525, rel=2e-2)
    assert grid.off == pytest.approx(0.025 / 0.525, rel=3e-2)
    found = grid.estimate()
    assert found is not None and found.mass > 0.85
    elsewhere = GridFilter(lattice, FilterSettings())
    assert elsewhere.weigh_registration(RegisteredPoint(GeoPoint(48, 8), np.eye(2), 0.05), 1.0) == 0
    assert elsewhere.off == pytest.approx(0.5)


@pytest.mark.parametrize("spread_out", [False, True])
def test_scattered_sliced_and_fourier_moves_agree(spread_out: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    lattice = turned_lattice()
    rng = np.random.default_rng(1)
    cells = np.sort(rng.choice(len(lattice), 9 if spread_out else 90, replace=False))
    mass = rng.random(len(cells))
    kernel = gaussian_kernel(np.array([[2.0, 0.8], [0.8, 1.0]]), (12, 9), 1, -2)
    found = []
    for cheap in (("_SCATTER_NS", "_CALLS_NS"), ("_FOURIER_NS",), ("_SLICE_NS",)):
        with monkeypatch.context() as patch:
            for name in cheap:
                patch.setattr(f"dphr_infer.flight.spread.{name}", 1e-9)
            values = np.zeros(len(lattice))
            at, moved = spread(lattice, cells, mass, kernel)
            values[at] = moved
            found.append(values)
    np.testing.assert_allclose(found[1], found[0], atol=1e-13)
    np.testing.assert_allclose(found[2], found[0], atol=1e-13)
    assert found[0].sum() < mass.sum()


def test_a_kernel_wider_than_the_map_leaves_its_tails_off_it() -> None:
    kernel = gaussian_kernel(np.eye(2) * 100.0, (8, 8))
    assert kernel.values.shape == (17, 17)
    inside = math.erf(8.5 / 10 / math.sqrt(2)) ** 2
    assert kernel.values.sum() == pytest.approx(inside, rel=1e-3)
    assert gaussian_kernel(np.eye(2), (8, 8)).values.sum() == pytest.approx(1)


def test_the_part_spread_evenly_leaves_a_rectangle_as_each_cell_would() -> None:
    lattice = gallery_lattice(grid_gallery(30, 20))
    grid, whole = GridFilter(lattice, SPARSE), GridFilter(lattice, WHOLE)
    for one in (grid, whole):
        one.move(Odometry(3.2 * STRIDE_M, -1.1 * STRIDE_M, np.diag([900.0, 400.0])))
    assert len(grid.cells) == 0
    assert grid.off == pytest.approx(whole.off, rel=1e-6)


def test_a_concentrated_belief_keeps_few_cells_and_loses_no_mass() -> None:
    lattice = gallery_lattice(grid_gallery(300, 300))
    grid = GridFilter(lattice, FilterSettings())
    for frame in range(12):
        near = lattice.cells_within(-2000 + 40.0 * frame, 0.0, 60.0)[:16]
        grid.move(Odometry(40.0, 0.0, np.eye(2) * 25.0))
        grid.leak(1.0)
        grid.weigh_matches(near.astype(np.int32), 0.4)
        assert total(grid) == pytest.approx(1, abs=1e-9)
    found = grid.estimate()
    assert found is not None and found.mass > 0.98
    assert 0 < len(grid.cells) < 3000 and 0 < grid.rest < 0.01
    assert np.hypot(found.east_m + 2000 - 440, found.north_m) < TILE_M


def test_a_shift_beyond_the_map_empties_it() -> None:
    grid = GridFilter(gallery_lattice(grid_gallery(4, 4)), WHOLE)
    grid.move(Odometry(1e9, 0.0, np.zeros((2, 2))))
    assert grid.off == 1 and grid.estimate() is None
    assert spread(grid.lattice, np.array([0]), np.array([1.0]), Kernel(np.ones((1, 1)), 99))[0].size == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [("rank_shape", 0), ("floor", -1), ("fix_mass", 1.01), ("fix_gate", math.nan), ("outlier_share", 0)],
)
def test_settings_out_of_range_are_refused(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"`{field}` is"):
        replace(FilterSettings(), **{field: value})
