"""The flight's filter as a plain hidden Markov model: every cell, every pair of cells, nothing dropped.

States are the cells of a lattice and `off`. Each function is the definition, loop by loop.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dphr_infer.flight.fix import Odometry, RegisteredPoint
from dphr_infer.flight.lattice import Lattice
from dphr_infer.flight.settings import FilterSettings

Belief = NDArray[np.float64]


class PlainFilter:
    """Belief float64 (C + 1,), the last state is `off`."""

    def __init__(self, lattice: Lattice, settings: FilterSettings) -> None:
        self.lattice, self.settings = lattice, settings
        cells = len(lattice)
        self.belief: Belief = np.array([(1 - settings.start_off) / cells] * cells + [settings.start_off])
        self.offset, self.noise = np.zeros(2), np.zeros((2, 2))

    def move(self, odometry: Odometry) -> None:
        """Each cell's mass to each cell by the Gaussian of their distance, whole cells; what is missing joins off."""
        lattice = self.lattice
        shift = self.offset + lattice.axes @ np.array([odometry.east_m, odometry.north_m])
        whole = np.floor(shift + 0.5)
        self.offset, self.noise = shift - whole, self.noise + lattice.axes @ odometry.covariance @ lattice.axes.T
        variances, directions = np.linalg.eigh(self.noise)
        blur = variances.max() >= 0.25
        probability = {(0, 0): 1.0}
        if blur:
            covariance = directions @ np.diag(np.maximum(variances, 0.09)) @ directions.T
            across, down = (math.ceil(4 * math.sqrt(covariance[i, i])) for i in (0, 1))
            inverse = np.linalg.inv(covariance)
            probability = {
                (x, y): math.exp(-0.5 * (np.array([x, y]) @ inverse @ np.array([x, y])))
                for x in range(-across, across + 1)
                for y in range(-down, down + 1)
            }
            total = sum(probability.values())
            probability = {step: value / total for step, value in probability.items()}
            self.noise = np.zeros((2, 2))
        after = np.zeros_like(self.belief)
        after[-1] = self.belief[-1]
        for start in range(len(lattice)):
            stays = 0.0
            for end in range(len(lattice)):
                step = (
                    int(lattice.column[end] - lattice.column[start] - whole[0]),
                    int(lattice.row[end] - lattice.row[start] - whole[1]),
                )
                part = probability.get(step, 0.0)
                after[end] += self.belief[start] * part
                stays += part
            after[-1] += self.belief[start] * (1 - stays)
        self.belief = after

    def leak(self, share: float) -> None:
        """A share of the rates: on the map -> off, and off -> every cell alike."""
        to_off, from_off = share * self.settings.to_off, share * self.settings.from_off
        on, off = self.belief[:-1], self.belief[-1]
        new_off = off * (1 - from_off) + on.sum() * to_off
        self.belief = np.append(on * (1 - to_off) + off * from_off / len(on), new_off)

    def weigh_matches(self, rows: NDArray[np.int32], weight: float) -> None:
        """Bayes' rule with the tempered gain of each cell's rank; unlisted rows have the mean of the other ranks."""
        lattice, settings = self.lattice, self.settings
        n, cells = len(lattice.cell_of_row), len(lattice)
        areas = (lattice.stride_m / lattice.tile_m) ** 2
        k, theta, o = settings.rank_shape, settings.rank_scale, settings.outlier_share

        def density(rho: float) -> float:
            return k / theta * (1 + rho / theta) ** -(k + 1)

        # The mean over the other ranks, as a sum over a fine grid of ranks.
        listed, whole = len(rows) * areas, n * areas
        fine = np.linspace(listed, whole, 400_001)
        middle = (fine[1:] + fine[:-1]) / 2
        unlisted = (1 - o) * whole * float(np.mean(density(middle))) + o if len(rows) < n else math.nan
        gain = [unlisted] * cells
        for rank in reversed(range(len(rows))):
            gain[lattice.cell_of_row[rows[rank]]] = (1 - o) * density((rank + 0.5) * areas) * whole + o
        likelihood = np.array(gain) ** weight
        self._bayes(likelihood, float(likelihood.mean()))

    def weigh_registration(self, registration: RegisteredPoint, weight: float) -> None:
        """Bayes' rule with a Gaussian and a uniform part, in units of the uniform density over the map."""
        lattice, share = self.lattice, registration.outlier_share
        covariance = registration.covariance + np.eye(2) * lattice.stride_m**2 / 4
        at = np.array(lattice.metres(registration.point))
        shift = np.linalg.inv(lattice.axes) @ self.offset
        likelihood = []
        for east, north in zip(lattice.east_m, lattice.north_m, strict=True):
            error = at - (np.array([east, north]) + shift)
            density = math.exp(-0.5 * error @ np.linalg.inv(covariance) @ error)
            density /= 2 * math.pi * math.sqrt(np.linalg.det(covariance))
            likelihood.append(((1 - share) * density * len(lattice) * lattice.stride_m**2 + share) ** weight)
        self._bayes(np.array(likelihood), share**weight)

    def _bayes(self, likelihood: Belief, off: float) -> None:
        product = self.belief * np.append(likelihood, off)
        self.belief = product / product.sum()
