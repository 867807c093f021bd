"""A Bayes filter over the cells of a lattice and one more state, `off`: off the map, or lost.

Belief: `mass` of the cells that are kept one by one, `rest` spread evenly over all cells besides, and `off`; together
1. Cells below a floor are not kept: their mass joins `rest`, so that a step costs what the belief's extent costs, not
the map's, and no mass is dropped silently. A small map keeps every cell, and the filter is then the plain hidden Markov
model that tests/references spells out.

Motion moves the belief by whole cells; the fraction that is left is carried as the offset of all hypotheses from their
cells, and motion noise is collected until it is worth a blur. So slow flight at a high rate does not smear the belief,
which interpolating between cells in every frame would.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import FlightError
from dphr_infer.flight.fix import Odometry, RegisteredPoint
from dphr_infer.flight.lattice import Lattice
from dphr_infer.flight.settings import FilterSettings
from dphr_infer.flight.spread import Cells, Kernel, Mass, gaussian_kernel, spread
from dphr_infer.types import Prior

# Blur when the collected noise has this variance along some direction, and then by at least the other, in cells².
BLUR_FROM, BLUR_LEAST = 0.25, 0.09
# Beyond it a registration's density is nothing, in σ.
_FAR_SIGMAS = 8.0
_MODE_KERNEL = gaussian_kernel(np.eye(2), (2, 2))


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """The mass around the mode.

    Attributes:
        east_m, north_m: its mean.
        covariance: float64 (2, 2), m², a cell's own extent and the noise that is still to be applied included.
        mass: all within a tile side of the mean, of 1; `rest` is not counted.
    """

    east_m: float
    north_m: float
    covariance: NDArray[np.float64]
    mass: float


class GridFilter:
    """The belief; see the head of this file.

    Args:
        lattice: over which.
        settings: rates, law of the ranks, floor.
        prior: the start is a Gaussian around it, with `radius_m` as two σ; None takes every cell alike.

    Raises:
        FlightError: no tile lies near the prior.
    """

    def __init__(self, lattice: Lattice, settings: FilterSettings, prior: Prior | None = None) -> None:
        self.lattice, self.settings = lattice, settings
        self.cells: Cells = np.empty(0, np.intp)
        self.mass: Mass = np.empty(0)
        self.off, self.rest = settings.start_off, 1 - settings.start_off
        self.offset: Mass = np.zeros(2)  # (columns, rows), each in [-0.5, 0.5]
        self.noise: Mass = np.zeros((2, 2))  # cells², collected and not yet applied
        if prior is not None:
            self._start_at(prior)
        self._keep()

    def _start_at(self, prior: Prior) -> None:
        sigma_m = prior.radius_m / 2
        east, north = self.lattice.metres(prior.centre)
        cells = self.lattice.cells_within(east, north, _FAR_SIGMAS * sigma_m)
        distance2 = (self.lattice.east_m[cells] - east) ** 2 + (self.lattice.north_m[cells] - north) ** 2
        density = np.exp(-distance2 / (2 * sigma_m**2))
        if not density.sum() > 0:
            raise FlightError(
                f"No tile of the gallery lies within {_FAR_SIGMAS / 2:g} radii of {prior.radius_m:g} m from "
                f"{prior.latitude_deg:.6f},{prior.longitude_deg:.6f}. Widen the radius, or take the gallery of that "
                "region."
            )
        self.cells, self.mass, self.rest = cells, density / density.sum() * self.rest, 0.0

    def _keep(self) -> None:
        """Give what lies below the floor to `rest`; on a small map keep every cell."""
        n = len(self.lattice)
        if n <= self.settings.keep_all:
            mass = np.full(n, self.rest / n)
            mass[self.cells] += self.mass
            self.cells, self.mass, self.rest = np.arange(n), mass, 0.0
        elif len(self.mass):
            small = self.mass < self.settings.floor * self.mass.max()
            self.rest += float(self.mass[small].sum())
            self.cells, self.mass = self.cells[~small], self.mass[~small]

    def _normalise(self) -> None:
        total = self.off + self.rest + float(self.mass.sum())
        self.off, self.rest, self.mass = self.off / total, self.rest / total, self.mass / total

    def move(self, odometry: Odometry) -> None:
        """Shift by a motion and blur by its covariance; mass that falls on no tile joins `off`.

        Of `rest`, which has no shape, the share leaves that would leave a map of this outline by straight edges.
        """
        lattice = self.lattice
        shift = lattice.axes @ (odometry.east_m, odometry.north_m) + self.offset
        most = (lattice.table.shape[1], lattice.table.shape[0])
        # Farther than the map is wide is off it; so that whole columns stay whole numbers.
        shift = np.clip(shift, [-2.0 * most[0], -2.0 * most[1]], [2.0 * most[0], 2.0 * most[1]])
        whole = np.floor(shift + 0.5)
        self.offset = shift - whole
        self.noise = self.noise + lattice.axes @ odometry.covariance @ lattice.axes.T
        kernel = Kernel(np.ones((1, 1)), int(whole[0]), int(whole[1]))
        variances, directions = np.linalg.eigh(self.noise)
        if variances[-1] >= BLUR_FROM:
            covariance = directions @ np.diag(np.maximum(variances, BLUR_LEAST)) @ directions.T
            kernel = gaussian_kernel(covariance, most, int(whole[0]), int(whole[1]))
            self.noise = np.zeros((2, 2))
        elif not whole.any():
            return
        before = float(self.mass.sum())
        self.cells, self.mass = spread(lattice, self.cells, self.mass, kernel)
        across, down = kernel.mean_distance()
        inside = float(kernel.values.sum())
        for edge, distance in zip(lattice.edges, (across, down), strict=True):
            inside *= max(0.0, 1 - edge * distance / len(lattice))
        self.off += max(0.0, before - float(self.mass.sum())) + self.rest * (1 - inside)
        self.rest *= inside
        self._keep()
        self._normalise()

    def leak(self, share: float) -> None:
        """Some of the mass on the map leaves it and some of `off` comes back; `share` of both rates, in [0, 1]."""
        to_off, from_off = share * self.settings.to_off, share * self.settings.from_off
        on, off = 1 - self.off, self.off
        self.mass = self.mass * (1 - to_off)
        self.rest = self.rest * (1 - to_off) + off * from_off
        self.off = off * (1 - from_off) + on * to_off
        self._keep()
        self._normalise()

    def gains(self, rows: NDArray[np.int32]) -> tuple[Cells, Mass, float]:
        """The best rows of a search over the whole gallery -> their cells, sorted, their gains, and all others' gain.

        See `FilterSettings.rank_gain` and `rest_gain`. Where rows share a cell the best counts.
        """
        lattice = self.lattice
        cells, ranks = np.unique(lattice.cell_of_row[rows], return_index=True)
        areas, n = lattice.cell_areas, len(lattice.cell_of_row)
        gain = self.settings.rank_gain((ranks.astype(np.float64) + 0.5) * areas, n * areas)
        return cells.astype(np.intp), gain, self.settings.rest_gain(len(rows) * areas, n * areas)

    def weigh_matches(self, rows: NDArray[np.int32], weight: float) -> None:
        """Multiply by the likelihood of a frame's ranks, tempered: L = gain^weight; `off` by its mean over the cells.

        Args:
            rows: int32 (k,), best first, of a search over the whole gallery.
            weight: β in (0, 1]: how much of the frame's ground is new.
        """
        cells, gain, rest_gain = self.gains(rows)
        n, left = len(self.lattice), len(self.lattice) - len(cells)
        likelihood, elsewhere = gain**weight, rest_gain**weight if left else 0.0
        self._multiply(cells, likelihood, elsewhere)
        self.off *= (float(likelihood.sum()) + left * elsewhere) / n
        self._keep()
        self._normalise()

    def weigh_registration(self, registration: RegisteredPoint, weight: float) -> float:
        """Multiply by a registered position's likelihood: a Gaussian mixed with its uniform outlier share.

        A cell stands for its whole square, and a Gaussian narrower than half a stride would fall between the cells, so
        stride²/4 is added to the covariance. Densities are relative to the uniform one over the map. Off the map a
        registration can only be an outlier.

        Args:
            registration: of this frame.
            weight: exponent in (0, 1]; less than 1 where it shares its ground with one that was weighed.

        Returns:
            The probability, before weighing, that this registration is none of the outliers.
        """
        lattice, share = self.lattice, registration.outlier_share
        stride2 = lattice.stride_m**2
        covariance = registration.covariance + np.eye(2) * stride2 / 4
        reach = _FAR_SIGMAS * math.sqrt(float(np.linalg.eigvalsh(covariance)[-1]))
        east, north = np.array(lattice.metres(registration.point)) - self.offset_m
        cells = lattice.cells_within(float(east), float(north), reach)
        error = np.stack([lattice.east_m[cells] - east, lattice.north_m[cells] - north])
        exponent = -0.5 * np.einsum("in,ij,jn->n", error, np.linalg.inv(covariance), error)
        norm = 2 * math.pi * math.sqrt(np.linalg.det(covariance))
        inlier = (1 - share) * np.exp(exponent) / norm * len(lattice) * stride2
        held = np.intersect1d(self.cells, cells, assume_unique=True, return_indices=True)
        mass = np.full(len(cells), self.rest / len(lattice))
        mass[held[2]] += self.mass[held[1]]
        good = float(mass @ inlier)
        self._multiply(cells, (inlier + share) ** weight, share**weight)
        self.off *= share**weight
        self._keep()
        self._normalise()
        return good / (good + share)

    def _multiply(self, cells: Cells, likelihood: Mass, elsewhere: float) -> None:
        """Every cell's mass by its likelihood, `elsewhere` for those not given; not normalised.

        `rest` stays what all cells have alike; a given cell's surplus over it is kept with the cell. No likelihood is
        below `elsewhere`, so no surplus is negative.
        """
        alike = self.rest / len(self.lattice)
        union = _union(self.cells, cells)
        mass, factor = np.full(len(union), alike), np.full(len(union), elsewhere)
        mass[np.searchsorted(union, self.cells)] += self.mass
        factor[np.searchsorted(union, cells)] = likelihood
        self.cells, self.mass = union, np.maximum(mass * factor - alike * elsewhere, 0.0)
        self.rest *= elsewhere

    @property
    def offset_m(self) -> Mass:
        """Metres east and north from a cell to the hypothesis it stands for."""
        return np.asarray(np.linalg.solve(self.lattice.axes, self.offset), np.float64)

    def estimate(self) -> Estimate | None:
        """Mean and covariance of the mass within a tile side of the mode; None where no cell is kept.

        The mode is that of the belief blurred by one cell, then thrice the mean of what lies within a tile side.
        """
        lattice = self.lattice
        cells, blurred = spread(lattice, self.cells, self.mass, _MODE_KERNEL)
        if len(cells) == 0:
            return None
        mode = cells[np.argmax(blurred)]
        places: Mass = np.stack([lattice.east_m[self.cells], lattice.north_m[self.cells]])
        centre: Mass = np.array([lattice.east_m[mode], lattice.north_m[mode]])
        # Three means cannot lead farther than this.
        near = (np.abs(places - centre[:, None]) <= 4 * lattice.tile_m).all(axis=0)
        places, masses = places[:, near], self.mass[near]
        for last in (False, False, False, True):
            inside = np.hypot(*(places - centre[:, None])) <= lattice.tile_m
            mass = float(masses[inside].sum())
            if mass == 0:
                return None
            if not last:
                centre = np.asarray(places[:, inside] @ masses[inside] / mass, np.float64)
        error = places[:, inside] - centre[:, None]
        back = np.linalg.inv(lattice.axes)
        covariance = (error * masses[inside]) @ error.T / mass + back @ self.noise @ back.T
        east, north = centre + self.offset_m
        return Estimate(float(east), float(north), covariance + np.eye(2) * lattice.stride_m**2 / 12, mass)

    def protection_m(self, east_m: float, north_m: float, share: float) -> float:
        """Radius around a place that holds a share of all probability, half a cell included.

        Infinite where no radius does: `off` and `rest` are taken to lie outside.
        """
        east, north = np.array([east_m, north_m]) - self.offset_m
        distance = np.hypot(self.lattice.east_m[self.cells] - east, self.lattice.north_m[self.cells] - north)
        order = np.argsort(distance)
        index = int(np.searchsorted(np.cumsum(self.mass[order]), share))
        return math.inf if index >= len(order) else float(distance[order[index]]) + self.lattice.stride_m / 2


def _union(sorted_cells: Cells, others: Cells) -> Cells:
    """Both, sorted, each once."""
    index = np.minimum(np.searchsorted(sorted_cells, others), max(len(sorted_cells) - 1, 0))
    new = others if len(sorted_cells) == 0 else others[sorted_cells[index] != others]
    return np.sort(np.concatenate([sorted_cells, new])) if len(new) else sorted_cells
