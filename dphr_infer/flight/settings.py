"""Every number of the flight's filter, each default once, with where it comes from."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import ConfigError
from dphr_infer.files.calibration import Calibration

_SHARES = (
    *("outlier_share", "first_weight", "least_ground", "start_off", "to_off", "from_off", "floor"),
    *("fix_mass", "track_mass", "protection_mass"),
)


@dataclass(frozen=True, slots=True)
class FilterSettings:
    """What the filter believes about ranks, motion and being lost, and when it speaks.

    "Fitted" numbers are of this project's shipped bundle on generated cities, each left out in turn; the others are
    choices. None is a certified figure: `calibrated` takes those that a bundle was calibrated to on held-out maps.

    Raises:
        ConfigError: one lies outside its range.
    """

    rank_shape: float = 2.10
    """k of the Lomax law of the true tile's rank, in tile areas. Fitted."""
    rank_scale: float = 0.295
    """θ of that law, in tile areas. Fitted."""
    outlier_share: float = 0.1
    """o, the share of frames whose ranks say nothing about their place. A choice."""
    first_weight: float = 0.3
    """β of the first frame, for which no ground is known to be new. A choice."""
    least_ground: float = 0.05
    """New ground, as a share of the tile side, below which the ranks of a frame are not weighed. A choice."""
    start_off: float = 0.5
    """Probability at the start that the aircraft is not over the map. Indifference."""
    to_off: float = 0.02
    """Share of the mass on the map that leaves it, per `leak_ground` of new ground or more. A choice."""
    from_off: float = 0.05
    """Share of `off` that comes back, evenly over the map, per `leak_ground` of new ground or more. A choice."""
    leak_ground: float = 0.25
    """New ground, in tile sides, at which both shares are taken whole; below it in proportion, so that ten frames per
    second do not leak ten times as much as one. It is about what the flights of the fit covered per frame."""
    floor: float = 1e-6
    """Cells with less than this share of the largest cell's mass are not kept one by one; their mass joins `rest`."""
    keep_all: int = 10_000
    """Maps of at most this many cells keep every cell: the floor is for larger ones."""
    fix_mass: float = 0.98
    """A fix needs this much of all probability within a tile side of the mode. A choice, tried on wrong maps."""
    track_mass: float = 0.5
    """A track needs this much there: the mode holds more than all else."""
    fix_factor: float = 0.35
    """What the covariance of a retrieved fix is multiplied by, so that NEES nears 2. Fitted on three unseen generated
    cities of one tile and stride (160 and 40 m), where it lay between 1.0 and 1.8."""
    track_factor: float = 0.5
    """The same for the track, where NEES lay between 0.9 and 2.1."""
    fix_gate: float = 5.99
    """Squared Mahalanobis distance up to which a frame's matches agree with the filter: χ² of 2 degrees, 95 %."""
    registration_gate: float = 13.8
    """The same for a registration, which is far more precise than the filter: 99.9 %."""
    protection_mass: float = 0.95
    """q: the protection level is the radius that holds this much of all probability."""
    max_speed_mps: float = 30.0
    """Where the motion is not known, the aircraft may have gone this fast in any direction. A choice."""
    max_back_s: float = 10.0
    """A frame earlier than the last by at most this is out of order; by more, the clock has jumped. A choice."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in _SHARES and not (0 <= value <= 1):
                raise ConfigError(f"`{field.name}` is {value}; expected a share in [0, 1].")
            if field.name not in (*_SHARES, "keep_all") and not 0 < value < math.inf:
                raise ConfigError(f"`{field.name}` is {value}; expected a number above 0 and finite.")
        if self.keep_all < 0:
            raise ConfigError(f"`keep_all` is {self.keep_all}; expected a number of cells, 0 or more.")
        if self.outlier_share == 0:
            raise ConfigError("`outlier_share` is 0; expected more: one misleading frame would rule the truth out.")

    def rank_gain(self, rank_areas: NDArray[np.float64], map_areas: float) -> NDArray[np.float64]:
        """How much more likely a rank is for the tile below the aircraft than for any tile off the map.

        Off the map the rank of a given tile is uniform on [0, A] tile areas; at the tile it follows a Lomax law
        f(ρ) = (k/θ)(1 + ρ/θ)^−(k+1). The gain is (1 − o)·f(ρ)·A + o.

        Args:
            rank_areas: ρ, float64 (n,): (rank + 0.5)·(stride/tile)², ranks from 0.
            map_areas: A: number of tiles times (stride/tile)².
        """
        density = self.rank_shape / self.rank_scale * (1 + rank_areas / self.rank_scale) ** -(self.rank_shape + 1)
        return (1 - self.outlier_share) * density * map_areas + self.outlier_share

    def rest_gain(self, listed_areas: float, map_areas: float) -> float:
        """The gain of a tile that is not among the best ρ_k = `listed_areas` tile areas, whose rank is not known.

        Its rank is any of those left, each as likely as the other, so its gain is the mean of `rank_gain` over
        [ρ_k, A]: (1 − o)·A/(A − ρ_k)·∫f + o, and the integral of f over [ρ_k, A] is S(ρ_k) − S(A) with the law's tail
        S(ρ) = (1 + ρ/θ)^−k.
        """
        if listed_areas >= map_areas:
            return self.outlier_share
        near, far = ((1 + areas / self.rank_scale) ** -self.rank_shape for areas in (listed_areas, map_areas))
        mean = map_areas * (near - far) / (map_areas - listed_areas)
        return float((1 - self.outlier_share) * mean + self.outlier_share)


def calibrated(calibration: Calibration | None) -> FilterSettings:
    """The law, threshold and factors that a bundle was calibrated to; without, the defaults, which promise nothing.

    Where no threshold held at the calibration's alpha the default one is taken, and nothing is promised either.
    """
    if calibration is None:
        return FilterSettings()
    promise = calibration.promise
    settings = FilterSettings(
        rank_shape=promise.rank_shape,
        rank_scale=promise.rank_scale,
        outlier_share=promise.outlier_share,
        fix_factor=promise.fix_factor,
        track_factor=promise.track_factor,
    )
    return settings if promise.fix_mass is None else dataclasses.replace(settings, fix_mass=promise.fix_mass)
