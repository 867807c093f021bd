"""Flights over held-out maps -> the law of ranks, the covariances' factors, and the threshold that a promise holds for.

Each map is flown with the law and the factors of the *other* maps, so that what is counted was not fitted to it; the
bundle gets those of all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import ExportError
from dphr_infer.files.calibration import Promise
from dphr_infer.flight.settings import FilterSettings
from export.calibrate.bounds import loosest, needed_n, upper_bound
from export.calibrate.flights import KINDS, Frame, fly_all, true_rank_areas
from export.calibrate.law import RankLaw, fit_law
from export.calibrate.site import Site

FIX_MASSES = (0.9999, 0.9995, 0.999, 0.998, 0.997, 0.996, 0.995, 0.99, 0.98, 0.97, 0.95, 0.9, 0.8)
# e'Σ⁻¹e of two dimensions.
_NEES = 2.0


@dataclass(frozen=True, slots=True)
class _Fitted:
    """What is fitted to some of the maps."""

    law: RankLaw
    fix_factor: float
    track_factor: float

    def settings(self, fix_mass: float) -> FilterSettings:
        return FilterSettings(
            rank_shape=self.law.shape,
            rank_scale=self.law.scale,
            fix_factor=self.fix_factor,
            track_factor=self.track_factor,
            fix_mass=fix_mass,
        )


def calibrate_promise(sites: Sequence[Site], alpha: float, seed: int) -> Promise:
    """Fit, fly, test.

    Args:
        sites: held-out maps with their flights; each is left out in turn.
        alpha: of the stretches with a fix at most this share has a wrong one.
        seed: of the odometry's errors.

    Raises:
        ExportError: too few maps, or too few stretches for `alpha`; the line says how many it takes.
    """
    units = sum(len(site.firsts()) for site in sites)
    _require_units(sites, units, alpha)
    areas = [true_rank_areas(site) for site in sites]
    default = FilterSettings()
    laws = [fit_law(np.concatenate(areas[:left] + areas[left + 1 :])) for left in range(len(sites))]
    plain = [_Fitted(law, default.fix_factor, default.track_factor) for law in laws]
    first = fly_all(sites, [fitted.settings(default.fix_mass) for fitted in plain], seed, ("right",))

    def refit(law: RankLaw, taken: Callable[[int], bool]) -> _Fitted:
        frames = [frame for frame in first if taken(frame.unit[0]) and frame.error_m is not None]
        fix, track = (_mean_per_unit(_right(frames, sites, 0.0), name) for name in ("nees", "track_nees"))
        return _Fitted(law, default.fix_factor * fix / _NEES, default.track_factor * track / _NEES)

    others = [refit(law, lambda number, left=left: number != left) for left, law in enumerate(laws)]  # type: ignore[misc]
    frames = fly_all(sites, [fitted.settings(FIX_MASSES[-1]) for fitted in others], seed + 1)
    fix_mass, wrong, n = _threshold(frames, sites, alpha, units)
    whole = refit(fit_law(np.concatenate(areas)), lambda _: True)
    return _promise(whole, frames, sites, alpha, fix_mass, wrong, n)


def _require_units(sites: Sequence[Site], units: int, alpha: float) -> None:
    needed = needed_n(alpha)
    if len(sites) < 2:
        raise ExportError(
            f"{len(sites)} map was given; at least 2 are needed, each flown over by the other's photos too."
        )
    if units < needed:
        raise ExportError(
            f"The flights have {units} stretches of one tile side, but alpha {alpha:g} takes at least {needed} with a "
            "fix and none wrong. Give more flights, or a larger --alpha."
        )


def _right(frames: Sequence[Frame], sites: Sequence[Site], fix_mass: float) -> list[Frame]:
    """Those of flights over their own map whose fix or track, if any, is of the right place."""
    return [
        frame
        for frame in frames
        if frame.kind == "right"
        and frame.mass >= fix_mass
        and (frame.error_m is None or frame.error_m <= sites[frame.unit[0]].gallery.origin.tile_m)
    ]


def _mean_per_unit(frames: Sequence[Frame], name: str) -> float:
    values = _per_unit(frames, name)
    if not len(values):
        raise ExportError(
            "No flight over its own map had a fix, so no covariance can be calibrated. Look at the photos and the tile "
            "side, or train the model further."
        )
    return float(values.mean())


def _per_unit(frames: Sequence[Frame], name: str) -> NDArray[np.float64]:
    """The mean of an attribute over each stretch that has it, float64 (n,)."""
    found: dict[tuple[int, int], list[float]] = {}
    for frame in frames:
        value = getattr(frame, name)
        if value is not None:
            found.setdefault(frame.unit, []).append(value)
    return np.array([np.mean(values) for values in found.values()])


def count_units(frames: Sequence[Frame], fix_mass: float, tile_m: float) -> tuple[int, int]:
    """(wrong, n): stretches with a fix farther than a tile side off at a threshold, and with any, of whatever kind.

    A stretch counts once: the flights of all kinds show the same photos, so they are not independent of each other.
    """
    fixes = [frame for frame in frames if frame.error_m is not None and frame.mass >= fix_mass]
    wrong = {frame.unit for frame in fixes if frame.error_m is not None and frame.error_m > tile_m}
    return len(wrong), len({frame.unit for frame in fixes})


def _threshold(
    frames: Sequence[Frame], sites: Sequence[Site], alpha: float, units: int
) -> tuple[float | None, int, int]:
    """The loosest threshold that holds, from where enough stretches have a fix; and its wrong and n."""
    tile_m, needed = sites[0].gallery.origin.tile_m, needed_n(alpha)
    counts = {fix_mass: count_units(frames, fix_mass, tile_m) for fix_mass in FIX_MASSES}
    if counts[FIX_MASSES[-1]][1] < needed:
        raise ExportError(
            f"Only {counts[FIX_MASSES[-1]][1]} of {units} stretches of one tile side had a fix at the loosest "
            f"threshold, but alpha {alpha:g} takes at least {needed} with none wrong. Give more flights, or a "
            "larger --alpha."
        )

    def tried() -> Iterator[tuple[float, list[tuple[int, int]]]]:
        for fix_mass, count in counts.items():
            if count[1] >= needed:
                yield fix_mass, [count]

    chosen = loosest(tried(), alpha)
    return chosen, *counts[FIX_MASSES[-1] if chosen is None else chosen]


def _promise(
    fitted: _Fitted,
    frames: Sequence[Frame],
    sites: Sequence[Site],
    alpha: float,
    fix_mass: float | None,
    wrong: int,
    n: int,
) -> Promise:
    from scipy.stats import chi2

    least = FilterSettings().fix_mass if fix_mass is None else fix_mass
    right = _right(frames, sites, least)
    nees = _per_unit(right, "nees")
    low, high = (float(chi2.ppf(share, _NEES * len(nees))) / len(nees) for share in (0.025, 0.975))
    available = {
        kind: float(np.mean([f.error_m is not None and f.mass >= least for f in frames if f.kind == kind]))
        for kind in KINDS
    }
    return Promise(
        rank_shape=_rounded(fitted.law.shape),
        rank_scale=_rounded(fitted.law.scale),
        outlier_share=FilterSettings().outlier_share,
        fix_mass=fix_mass,
        fix_factor=_rounded(fitted.fix_factor),
        track_factor=_rounded(fitted.track_factor),
        alpha=alpha,
        n=n,
        wrong=wrong,
        bound=_rounded(upper_bound(wrong, n)),
        availability={kind: round(share, 4) for kind, share in available.items()},
        anees=_rounded(float(nees.mean())),
        anees_low=_rounded(low),
        anees_high=_rounded(high),
        confirmed_ranks=_rank_counts(right, sites[0]),
    )


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _rank_counts(frames: Sequence[Frame], site: Site) -> tuple[int, ...]:
    """Of each stretch the first confirmed rank; the last count is of all that are not among the matches."""
    origin = site.gallery.origin
    k = int(np.ceil((origin.tile_m / origin.stride_m) ** 2))
    ranks: dict[tuple[int, int], int] = {}
    for frame in frames:
        if frame.rank is not None:
            ranks.setdefault(frame.unit, frame.rank)
    return tuple(np.bincount(np.minimum(list(ranks.values()), k).astype(np.intp), minlength=k + 1).tolist())
