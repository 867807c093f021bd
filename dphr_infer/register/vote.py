"""Where matched points say that one picture lies on another: votes for a translation, or for a bounded similarity.

Points are complex numbers, east + i north in metres. A similarity q = a p + b turns by arg(a) and scales by |a|; a
translation has a = 1. Every hypothesis that the matches make is tried, none is drawn by chance: the same matches give
the same answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dphr_infer.register.features import Features

Points = NDArray[np.complex128]

# Hypotheses of two matches are made of the best matches only; all vote.
_PAIRED = 120
_PAIRS_AT_ONCE = 2048
# Of an inner product of float32 unit vectors.
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Vote:
    """The best hypothesis.

    Attributes:
        turn: a of q = a p + b.
        shift: b.
        inliers: bool (n,), which matches agree with it.
        rivals: the most matches that agree on another place, further away than `rival_m`.
        hypotheses: that were tried.
        used: matches that a hypothesis is made of.
    """

    turn: complex
    shift: complex
    inliers: NDArray[np.bool_]
    rivals: int
    hypotheses: int
    used: int


def best_matches(
    query: Features, target: Features, ratio: float, most_scale: float, apart_m: float
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """One-to-one matches, the most distinct first.

    A query's nearest target counts where the query is the target's own nearest too, and where the distance is at most
    `ratio` of the distance to the next target (Lowe 2004), and where their sizes differ by at most the factor
    `most_scale`. Of matches whose query points lie within `apart_m` of each other the most distinct stays:
    SIFT finds one corner at several sizes, and each would vote.

    Args:
        query, target: with points and sizes in metres.

    Returns:
        Indices into query and into target.
    """
    if len(query) == 0 or len(target) < 2:
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    similarity = query.descriptors @ target.descriptors.T
    rows = np.arange(len(query))
    nearest = similarity.argmax(1)
    best = similarity[rows, nearest]
    similarity[rows, nearest] = -2.0
    second = similarity.max(1)
    # |a - b|² = 2 - 2ab for unit vectors; of two that are the same up to rounding neither is the nearer.
    ratios = np.sqrt((np.maximum(1 - best, 0) + _ROUNDING) / (np.maximum(1 - second, 0) + _ROUNDING))
    sizes = query.sizes / target.sizes[nearest]
    kept = np.flatnonzero((ratios <= ratio) & (sizes <= most_scale) & (sizes >= 1 / most_scale))
    if len(kept):
        back = (query.descriptors @ target.descriptors[nearest[kept]].T).argmax(0)
        kept = kept[back == kept]
    order = kept[np.argsort(ratios[kept], kind="stable")]
    points = query.points[order]
    close = np.abs(points[:, None] - points).max(2) < apart_m
    apart = np.zeros(len(order), bool)
    for index in range(len(order)):
        apart[index] = not (close[index, :index] & apart[:index]).any()
    order = order[apart]
    return order, nearest[order]


def distinct_cells(points: Points, side_m: float) -> int:
    """How many squares of a grid of that side hold one of the points or more."""
    return len({(math.floor(point.real / side_m), math.floor(point.imag / side_m)) for point in points})


def vote_translation(photo: Points, ground: Points, tolerance_m: float, rival_m: float) -> Vote:
    """The translation that most matches agree on; each match is a hypothesis."""
    shifts = ground - photo
    near = np.abs(shifts[:, None] - shifts) <= tolerance_m
    counts = near.sum(1)
    best = int(counts.argmax())
    shift = shifts[near[best]].mean()
    inliers = np.abs(shifts - shift) <= tolerance_m
    if inliers.sum() < counts[best]:
        inliers, shift = near[best], shifts[best]
    far = np.abs(shifts - shift) > rival_m
    return Vote(1.0, complex(shift), inliers, int(counts[far].max(initial=0)), len(photo), 1)


def vote_similarity(
    photo: Points, ground: Points, tolerance_m: float, rival_m: float, most_scale: float, most_turn_deg: float
) -> Vote:
    """The similarity that most matches agree on, scaled by at most `most_scale` or its inverse, turned by at most that.

    Each pair of the most distinct matches whose points lie apart is a hypothesis; where none keeps the bounds, nothing
    agrees.
    """
    n = min(len(photo), _PAIRED)
    first, second = np.triu_indices(n, 1)
    apart = np.abs(photo[first] - photo[second]) > 4 * tolerance_m
    first, second = first[apart], second[apart]
    turns = (ground[first] - ground[second]) / (photo[first] - photo[second])
    kept = (np.abs(np.log(np.maximum(np.abs(turns), 1e-9))) <= math.log(most_scale)) & (
        np.abs(np.angle(turns)) <= math.radians(most_turn_deg)
    )
    first, turns = first[kept], turns[kept]
    if len(turns) == 0:
        return Vote(1.0, 0.0, np.zeros(len(photo), bool), 0, 1, 2)
    shifts = ground[first] - turns * photo[first]
    counts = np.zeros(len(turns), np.intp)
    for start in range(0, len(turns), _PAIRS_AT_ONCE):
        some = slice(start, start + _PAIRS_AT_ONCE)
        counts[some] = (np.abs(turns[some, None] * photo + shifts[some, None] - ground) <= tolerance_m).sum(1)
    best = int(counts.argmax())
    middle = photo[np.abs(turns[best] * photo + shifts[best] - ground) <= tolerance_m].mean()
    inliers = np.abs(turns[best] * photo + shifts[best] - ground) <= tolerance_m
    similar = fit(photo[inliers], ground[inliers], 4)
    turn, shift = similar.turn, similar.shift
    again = np.abs(turn * photo + shift - ground) <= tolerance_m
    if again.sum() >= inliers.sum():
        inliers = again
    else:
        turn, shift = complex(turns[best]), complex(shifts[best])
    far = np.abs(turns * middle + shifts - (turn * middle + shift)) > rival_m
    return Vote(turn, shift, inliers, int(counts[far].max(initial=0)), n * (n - 1) // 2, 2)


@dataclass(frozen=True, slots=True)
class Fit:
    """A least-squares ground = turn * photo + shear * conj(photo) + shift.

    Attributes:
        turn, shear, shift: shear is 0 for a similarity; turn is 1 too for a translation.
        variance_m2: of the residuals, per axis.
        lever: what the variance of `shift` is to `variance_m2`.
    """

    turn: complex
    shear: complex
    shift: complex
    variance_m2: float
    lever: float


def fit(photo: Points, ground: Points, parameters: int) -> Fit:
    """Fit a translation (2 parameters), a similarity (4) or an affine map (6) to at least two matches."""
    columns = {2: [], 4: [photo], 6: [photo, photo.conj()]}[parameters]
    matrix = np.stack([*columns, np.ones_like(photo)], axis=1)
    target = ground - photo if parameters == 2 else ground
    found, _, rank, _ = np.linalg.lstsq(matrix, target, rcond=1e-6)
    residual = target - matrix @ found
    free = max(1, 2 * len(photo) - parameters)
    variance = float((np.abs(residual) ** 2).sum()) / free
    # Points that are one, or lie on a line, leave directions open: their inverse is large, not infinite.
    lever = float(np.linalg.pinv(matrix.conj().T @ matrix)[-1, -1].real) if rank == matrix.shape[1] else math.inf
    turn = 1.0 if parameters == 2 else complex(found[0])
    return Fit(turn, complex(found[1]) if parameters == 6 else 0.0, complex(found[-1]), variance, lever)
