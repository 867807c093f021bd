"""sweep filter: a step of the flight's filter by the number of cells.

A made-up flight crosses a square map: a third of a frame's best rows lie around its place, the others anywhere. It
starts lost, and every 50 frames it is elsewhere without having been told, so that steps with a wide belief are among
the samples. Frames are made ahead; a sample is `Flight.step` alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.cases.galleries import STRIDE_M, grid_places
from bench.cases.photo import Raw, to_record
from bench.machine.program import say
from bench.record import FILTER_STEP, BenchRecord, Subject
from bench.request import FilterGrid
from bench.sampling import StopRule, sample
from bench.sweeps.point import Bench, unique
from dphr_infer.files.gallery import Gallery, GalleryOrigin
from dphr_infer.flight.fix import Odometry
from dphr_infer.flight.flight import Flight
from dphr_infer.flight.lattice import Lattice
from dphr_infer.types import Matches

_TILE_CELLS = 4
_TILE_M = _TILE_CELLS * STRIDE_M
_MATCHES = _TILE_CELLS**2
_FRAMES, _LOST_EVERY = 250, 50
_INTERVAL_S = 10.0
_SIGMA_SHARE = 0.05


def filter_points(grid: FilterGrid, bench: Bench) -> Iterator[BenchRecord]:
    """Every point of `sweep filter`."""
    for cells in unique(grid.cells):
        say(f"the filter on {cells:,} cells")
        yield bench.record(
            Subject(gallery_rows=cells), scenarios=(to_record(_measure(cells, grid.step_tiles, bench.rule), [], None),)
        )


def _measure(cells: int, step_tiles: float, rule: StopRule) -> Raw:
    flight, number, tracked = Flight(made_up_gallery(cells)), 0, 0
    coming = itertools.cycle(made_up_frames(flight.lattice, step_tiles))

    def step() -> None:
        nonlocal number, tracked
        matches, moved = next(coming)
        number += 1
        tracked += flight.step(_INTERVAL_S * number, matches, moved).track is not None

    found = sample(step, rule)
    settings, extra = {"cells": cells, "step_tiles": step_tiles}, {"tracked_share": tracked / number}
    return Raw(FILTER_STEP, settings, found.start_ms, found.duration_ms, {}, 0, found.stopped, extra)


def made_up_gallery(cells: int) -> Gallery:
    """Places alone: the filter asks for nothing else."""
    origin = GalleryOrigin("", _TILE_M, STRIDE_M, "", "", "EPSG:4326", "fp32")
    return Gallery(np.empty((cells, 0), np.float16), *grid_places(cells, 0, cells), origin, Path("generated"))


def made_up_frames(lattice: Lattice, step_tiles: float) -> list[tuple[Matches, Odometry]]:
    """Frames over a lattice whose box is full but for its last row; see the head of this file."""
    rng, (height, width) = np.random.default_rng(0), lattice.table.shape
    row_of_cell = np.argsort(lattice.cell_of_row)
    most = np.array([width, height - 1]) - 1.0
    place, turn, found = rng.uniform(0, most), 0.0, []
    for number in range(_FRAMES):
        if number % _LOST_EVERY == 0:
            place, turn = rng.uniform(0, most), rng.uniform(0, 2 * math.pi)
        step = step_tiles * _TILE_CELLS * np.array([math.cos(turn), math.sin(turn)])
        if not ((place + step >= 0) & (place + step <= most)).all():
            turn, step = turn + math.pi, -step
        place = np.clip(place + step, 0, most)
        column, row = np.rint(place).astype(int)
        reach = _TILE_CELLS // 2
        near = lattice.table[max(0, row - reach) : row + reach, max(0, column - reach) : column + reach].ravel()
        here = near[near >= 0]
        near_by = rng.choice(here, min(len(here), _MATCHES // 2), replace=False)
        elsewhere = rng.integers(0, len(lattice), _MATCHES)  # some meet; the filter loses nothing by the rest
        cells = np.unique(np.concatenate([near_by, elsewhere]))
        rows = row_of_cell[rng.permutation(cells)].astype(np.int32)[None]
        # Rows of the lattice count from the north or the south: its axes know.
        east_m, north_m = np.linalg.solve(lattice.axes, step)
        sigma_m = _SIGMA_SHARE * float(np.hypot(east_m, north_m))
        moved = Odometry(float(east_m), float(north_m), np.eye(2) * sigma_m**2)
        found.append((Matches(rows, np.linspace(1, 0, rows.shape[1], dtype=np.float32)[None]), moved))
    return found
