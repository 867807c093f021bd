"""The law of the true tile's rank: a Lomax law, fitted by maximum likelihood."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import ExportError

# Scales that are tried, in tile areas. Ranks that fall off faster than any Lomax law end at the upper one.
_SCALES = (1e-3, 1e2)
_LEAST_RANKS = 20


@dataclass(frozen=True, slots=True)
class RankLaw:
    """f(ρ) = (k/θ)(1 + ρ/θ)^−(k+1): `shape` is k, `scale` θ in tile areas."""

    shape: float
    scale: float

    def mean_log_density(self, areas: NDArray[np.float64]) -> float:
        """Of ranks in tile areas, float64 (n,)."""
        log_density = math.log(self.shape / self.scale) - (self.shape + 1) * np.log1p(areas / self.scale)
        return float(log_density.mean())


def fit_law(areas: NDArray[np.float64]) -> RankLaw:
    """The law under which ranks are likeliest.

    For a given θ the best k is n / Σ log(1 + ρ/θ), so θ alone is searched: on a grid, and then finer around its best.

    Args:
        areas: ρ of the true tile of each frame, float64 (n,), at least 20, above 0.

    Raises:
        ExportError: fewer, or values that are no ranks.
    """
    if len(areas) < _LEAST_RANKS or not (np.isfinite(areas) & (areas > 0)).all():
        raise ExportError(
            f"The law of ranks is fitted to {len(areas)} frames; at least {_LEAST_RANKS} are needed, each with a rank. "
            "Give more flights, or longer ones."
        )
    low, high = (math.log(scale) for scale in _SCALES)
    best = RankLaw(1.0, 1.0)
    while high - low > 1e-6:
        laws = [_law_at(areas, math.exp(value)) for value in np.linspace(low, high, 41)]
        best = max(laws, key=lambda law: law.mean_log_density(areas))
        step = (high - low) / 40
        low, high = math.log(best.scale) - step, math.log(best.scale) + step
        low, high = max(low, math.log(_SCALES[0])), min(high, math.log(_SCALES[1]))
    return best


def _law_at(areas: NDArray[np.float64], scale: float) -> RankLaw:
    return RankLaw(float(1 / np.log1p(areas / scale).mean()), scale)
