"""Move and blur mass over the cells of a lattice; what leaves the tiles is told, not lost."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dphr_infer.flight.lattice import Lattice

Mass = NDArray[np.float64]
Cells = NDArray[np.intp]

# Rough costs per cell: dense by one slice per kernel value, dense by Fourier transform, scattered; and of each kernel
# value that is scattered, which is a dozen calls.
_SLICE_NS, _FOURIER_NS, _SCATTER_NS, _CALLS_NS = 1.5, 150.0, 40.0, 20_000.0
_SIGMAS = 4.0


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """Probability of a displacement in whole cells.

    Attributes:
        values: float64 (2·rows + 1, 2·columns + 1), the middle is no displacement; sums to at most 1, the remainder
            lies beyond the lattice.
        column, row: added to every displacement.
    """

    values: Mass
    column: int = 0
    row: int = 0

    @property
    def reach(self) -> tuple[int, int]:
        """Columns and rows on either side of the middle."""
        return self.values.shape[1] // 2, self.values.shape[0] // 2

    def mean_distance(self) -> tuple[float, float]:
        """Mean of the absolute displacement, in columns and in rows."""
        columns, rows = self.reach
        across = np.abs(np.arange(-columns, columns + 1) + self.column)
        down = np.abs(np.arange(-rows, rows + 1) + self.row)
        return float(self.values.sum(axis=0) @ across), float(self.values.sum(axis=1) @ down)


def gaussian_kernel(covariance: Mass, most: tuple[int, int], column: int = 0, row: int = 0) -> Kernel:
    """A Gaussian sampled at whole cells, to 4 σ; and no farther than a lattice is wide, where the rest is off it.

    Args:
        covariance: float64 (2, 2), (column, row), in cells²; its variances at least 0.09.
        most: columns and rows of the lattice.
        column, row: whole displacement besides.
    """
    columns, rows = (max(1, math.ceil(_SIGMAS * math.sqrt(covariance[i, i]))) for i in (0, 1))
    cut = columns > most[0] or rows > most[1]
    columns, rows = min(columns, most[0]), min(rows, most[1])
    x, y = np.arange(-columns, columns + 1.0), np.arange(-rows, rows + 1.0)[:, None]
    (a, b), (_, d) = np.linalg.inv(covariance)
    values = np.exp(-0.5 * (a * x * x + 2 * b * x * y + d * y * y))
    total = 2 * math.pi * math.sqrt(np.linalg.det(covariance)) if cut else float(values.sum())
    return Kernel(values / max(total, float(values.sum())), column, row)


def spread(lattice: Lattice, cells: Cells, mass: Mass, kernel: Kernel) -> tuple[Cells, Mass]:
    """Each cell's mass goes where the kernel sends it; mass that falls on no tile is missing from the result.

    Args:
        cells: sorted, each at most once.
        mass: float64, theirs.

    Returns:
        The cells that hold mass now, sorted, and their mass.
    """
    if len(cells) == 0:
        return cells, mass
    column, row = lattice.column[cells], lattice.row[cells]
    low, high = (int(column.min()), int(row.min())), (int(column.max()) + 1, int(row.max()) + 1)
    columns, rows = kernel.reach
    area = (high[0] - low[0] + 2 * columns) * (high[1] - low[1] + 2 * rows)
    dense_ns = area * min(_SLICE_NS * kernel.values.size, _FOURIER_NS)
    if kernel.values.size * (len(cells) * _SCATTER_NS + _CALLS_NS) < dense_ns:
        return _scattered(lattice, column, row, mass, kernel)
    window = np.zeros((high[1] - low[1], high[0] - low[0]))
    window[row - low[1], column - low[0]] = mass
    blurred = _convolve(window, kernel.values)
    return _read(lattice, blurred, low[0] - columns + kernel.column, low[1] - rows + kernel.row)


def _convolve(window: Mass, kernel: Mass) -> Mass:
    """Full convolution: each side grows by the kernel's less one."""
    height, width = (a + b - 1 for a, b in zip(window.shape, kernel.shape, strict=True))
    if kernel.size * _SLICE_NS > _FOURIER_NS:
        product = np.fft.rfft2(window, (height, width)) * np.fft.rfft2(kernel, (height, width))
        return np.maximum(np.fft.irfft2(product, (height, width)), 0.0)
    down, across = _factors(kernel)
    if across is None:
        return _slices(window, kernel)
    return _slices(_slices(window, down), across)


def _slices(window: Mass, kernel: Mass) -> Mass:
    out = np.zeros([a + b - 1 for a, b in zip(window.shape, kernel.shape, strict=True)])
    for (y, x), value in np.ndenumerate(kernel):
        out[y : y + window.shape[0], x : x + window.shape[1]] += value * window
    return out


def _factors(kernel: Mass) -> tuple[Mass, Mass | None]:
    """A column and a row whose product a kernel is, as that of noise along the lattice's axes; else itself and None."""
    middle = kernel[kernel.shape[0] // 2, kernel.shape[1] // 2]
    down, across = kernel[:, [kernel.shape[1] // 2]], kernel[[kernel.shape[0] // 2]] / middle
    return (down, across) if np.allclose(down @ across, kernel, rtol=0, atol=1e-15) else (kernel, None)


def _read(lattice: Lattice, window: Mass, column: int, row: int) -> tuple[Cells, Mass]:
    """The cells below a window whose first value lies at a column and a row, and its values there."""
    height, width = lattice.table.shape
    top, left = max(row, 0), max(column, 0)
    bottom, right = min(row + window.shape[0], height), min(column + window.shape[1], width)
    if bottom <= top or right <= left:
        return np.empty(0, np.intp), np.empty(0)
    below = lattice.table[top:bottom, left:right]
    values = window[top - row : bottom - row, left - column : right - column]
    held = (below >= 0) & (values > 0)
    return below[held].astype(np.intp), values[held]


def _scattered(
    lattice: Lattice, column: NDArray[np.int32], row: NDArray[np.int32], mass: Mass, kernel: Kernel
) -> tuple[Cells, Mass]:
    height, width = lattice.table.shape
    columns, rows = kernel.reach
    out = np.zeros(len(lattice))  # pages that nothing touches cost nothing
    touched = []
    for (y, x), value in np.ndenumerate(kernel.values):
        to_row, to_column = row + (y - rows + kernel.row), column + (x - columns + kernel.column)
        inside = (to_row >= 0) & (to_row < height) & (to_column >= 0) & (to_column < width)
        cells = lattice.table[to_row[inside], to_column[inside]]
        held = cells >= 0
        cells = cells[held]
        out[cells] += value * mass[inside][held]  # no two sources share a target
        touched.append(cells)
    if sum(map(len, touched)) > len(out) / 8:
        found = np.flatnonzero(out)
    else:  # a large map is not read for a few cells
        every = np.sort(np.concatenate(touched)).astype(np.intp)
        found = every[np.flatnonzero(np.diff(every, prepend=-1))]
    values = out[found]
    return found[values > 0], values[values > 0]
