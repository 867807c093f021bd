"""What a bundle was calibrated to: when a match alone may be believed, and what a flight's fixes are promised.

Part of manifest.json, under "calibration": null where the bundle is not calibrated, else an object of

    tile_m, stride_m    of the galleries that it was calibrated on
    date                day of the calibration, YYYY-MM-DD
    maps                [name of each held-out map]
    verdict             {"floor", "margin", "alpha", "n", "false_shares": {kind: share}, "accepted_share"}; `floor` and
                        `margin` are null where no photo may be accepted at that alpha
    promise             {"rank_shape", "rank_scale", "outlier_share", "fix_mass", "fix_factor", "track_factor", "alpha",
                        "n", "wrong", "bound", "availability": {kind: share}, "anees", "anees_low", "anees_high",
                        "confirmed_ranks"}; `fix_mass` is null where no fix may be promised at that alpha

`dphr-export calibrate` writes it; export/README.md says how each number is found.
"""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from typing import Any, get_type_hints

# Of every bound here.
CONFIDENCE = 0.95
# A gallery of another ratio of stride to tile, beyond this factor, has other ranks.
_MOST_RATIO = 1.25

CALIBRATE = "dphr-export calibrate BUNDLE --flights DIR… --out NEW, then index the maps again with NEW"


def _check(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise ValueError(f"{name} is {value!r:.60}, not {wanted}")


def _check_shares(name: str, shares: dict[str, float]) -> None:
    for kind, share in shares.items():
        _check(0 <= share <= 1, f"{name}.{kind:.40}", share, "a share in [0, 1]")


@dataclass(frozen=True, slots=True)
class VerdictCalibration:
    """From which similarity and margin on a match alone is `retrieved`.

    Attributes:
        floor: least similarity of the best tile, in [-1, 1]; None where nothing may be accepted.
        margin: least lead of the best tile over the best one more than a tile side away from it, in [0, 2]; or None.
        alpha: of each kind of photos at most this share is accepted wrongly, by its upper bound at 95 %.
        n: photos of each kind, one per tile side of flight.
        false_shares: {kind: share of them that was accepted wrongly}.
        accepted_share: of the photos over their own map that was accepted.
    """

    floor: float | None
    margin: float | None
    alpha: float
    n: int
    false_shares: dict[str, float]
    accepted_share: float

    def __post_init__(self) -> None:
        _check((self.floor is None) == (self.margin is None), "margin", self.margin, "given exactly where floor is")
        _check(self.floor is None or -1 <= self.floor <= 1, "floor", self.floor, "a similarity in [-1, 1]")
        _check(self.margin is None or 0 <= self.margin <= 2, "margin", self.margin, "a difference in [0, 2]")
        _check(0 < self.alpha < 1, "alpha", self.alpha, "a share between 0 and 1")
        _check(self.n >= 1, "n", self.n, "at least 1")
        _check(0 <= self.accepted_share <= 1, "accepted_share", self.accepted_share, "a share in [0, 1]")
        _check_shares("false_shares", self.false_shares)


@dataclass(frozen=True, slots=True)
class Promise:
    """What the fixes of a flight are promised, and the numbers of the filter that it holds for.

    A unit is a stretch of one tile side of a flight. It is accepted if any frame of it has a fix, over its own map or
    any of the others it was flown over, and wrong if any of these fixes lies more than a tile side off.

    Attributes:
        rank_shape, rank_scale: k and θ of the Lomax law of the true tile's rank, in tile areas.
        outlier_share: o, frames whose ranks say nothing.
        fix_mass: probability that a fix needs; None where no fix may be promised.
        fix_factor, track_factor: of the covariances, so that NEES is 2.
        alpha: the promise: of the units with a fix at most this share has a wrong one.
        n, wrong: units with a fix, and with a wrong one.
        bound: the upper bound of that share at 95 %.
        availability: {kind of flight: share of its frames with a fix}.
        anees, anees_low, anees_high: mean of e'Σ⁻¹e over the fixes, each map by the factors of the others, and the band
            that holds it at 95 % if errors are as the covariances say and units are independent.
        confirmed_ranks: at units whose place the filter was sure of, how often the tile there had the rank 0, 1, …;
            the last counts all beyond the list.
    """

    rank_shape: float
    rank_scale: float
    outlier_share: float
    fix_mass: float | None
    fix_factor: float
    track_factor: float
    alpha: float
    n: int
    wrong: int
    bound: float
    availability: dict[str, float]
    anees: float
    anees_low: float
    anees_high: float
    confirmed_ranks: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("rank_shape", "rank_scale", "fix_factor", "track_factor"):
            _check(0 < getattr(self, name) < math.inf, name, getattr(self, name), "a number above 0 and finite")
        _check(0 < self.outlier_share < 1, "outlier_share", self.outlier_share, "a share between 0 and 1")
        _check(self.fix_mass is None or 0 < self.fix_mass < 1, "fix_mass", self.fix_mass, "a share between 0 and 1")
        _check(0 < self.alpha < 1, "alpha", self.alpha, "a share between 0 and 1")
        _check(0 <= self.wrong <= self.n, "wrong", self.wrong, "a count of at most n")
        _check(0 <= self.bound <= 1, "bound", self.bound, "a share in [0, 1]")
        _check(min(self.anees, self.anees_low, self.anees_high) >= 0, "anees", self.anees, "0 or more")
        _check(all(count >= 0 for count in self.confirmed_ranks), "confirmed_ranks", self.confirmed_ranks, "counts")
        _check_shares("availability", self.availability)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a bundle was calibrated to; see the head of this file.

    Raises:
        ValueError: a number lies outside its range.
    """

    tile_m: float
    stride_m: float
    date: str
    maps: tuple[str, ...]
    verdict: VerdictCalibration
    promise: Promise

    def __post_init__(self) -> None:
        _check(0 < self.tile_m < math.inf, "tile_m", self.tile_m, "metres above 0")
        _check(0 < self.stride_m < math.inf, "stride_m", self.stride_m, "metres above 0")
        _check(re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", self.date) is not None, "date", self.date, "YYYY-MM-DD")
        _check(len(self.maps) >= 1, "maps", self.maps, "at least one name")

    def fits(self, tile_m: float, stride_m: float) -> bool:
        """Whether the tiles of a gallery overlap as those of the calibration do; else ranks and margins are others."""
        factor = (stride_m / tile_m) / (self.stride_m / self.tile_m)
        return 1 / _MOST_RATIO <= factor <= _MOST_RATIO

    def lines(self) -> list[str]:
        """For people: what may be believed, and by what right."""
        verdict, promise = self.verdict, self.promise
        false = ", ".join(f"{kind} {share:.1%}" for kind, share in verdict.false_shares.items())
        if verdict.floor is None or verdict.margin is None:
            retrieved = f"never: at alpha {verdict.alpha:g} no similarity and margin told right from wrong"
        else:
            retrieved = (
                f"from similarity {verdict.floor:.3f} and margin {verdict.margin:.3f} on; alpha {verdict.alpha:g}, "
                f"accepted wrongly: {false}; accepted over its own map: {verdict.accepted_share:.1%}"
            )
        available = ", ".join(f"{kind} {share:.0%}" for kind, share in promise.availability.items())
        if promise.fix_mass is None:
            fixes = f"none: at alpha {promise.alpha:g} no threshold held"
        else:
            fixes = (
                f"of stretches of one tile side with a fix at most {promise.alpha:.1%} have one that is wrong by more "
                f"than a tile side; {promise.wrong} of {promise.n} had (upper bound {promise.bound:.1%}); fixes: "
                f"{available}"
            )
        band = f"{promise.anees_low:.2f} to {promise.anees_high:.2f}"
        inside = "inside" if promise.anees_low <= promise.anees <= promise.anees_high else "OUTSIDE"
        needed = "never" if promise.fix_mass is None else f"{promise.fix_mass:g}"
        return [
            f"retrieved   {retrieved}; {verdict.n} photos of each kind",
            f"promise     {fixes}",
            f"filter      k {promise.rank_shape:.3g}, theta {promise.rank_scale:.3g}, o {promise.outlier_share:g}, fix "
            f"mass {needed}; ANEES {promise.anees:.2f}, {inside} its band of {band}",
            f"calibrated  {self.date} at {CONFIDENCE:.0%} confidence on {len(self.maps)} maps "
            f"({', '.join(self.maps)}), tile {self.tile_m:g} m, stride {self.stride_m:g} m",
        ]


def calibration_lines(calibration: Calibration | None) -> list[str]:
    """`Calibration.lines`, or that there is none."""
    if calibration is None:
        return [f"calibrated  never: no photo is retrieved, and a flight promises nothing. {CALIBRATE}"]
    return calibration.lines()


def read_calibration(raw: object) -> Calibration:
    """The value of a manifest's "calibration" that is not null.

    Raises:
        ValueError: a field is missing, unknown, of another JSON type, or outside its range.
    """
    found: Calibration = _read(Calibration, raw, "calibration")
    return found


def _read(kind: type[Any], raw: object, where: str) -> Any:
    if not isinstance(raw, dict):
        raise ValueError(f"{where} is no object")
    names = [field.name for field in dataclasses.fields(kind)]
    for name in names:
        if name not in raw:
            raise ValueError(f"{where} lacks {name}")
    for name in raw:
        if name not in names:
            raise ValueError(f"{where} has a field {name!r:.40}, which is unknown")
    hints = get_type_hints(kind)
    values = {name: _typed(hints[name], raw[name], f"{where}.{name}") for name in names}
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{where}.{error}") from error


def _typed(hint: Any, value: object, where: str) -> Any:
    """A JSON value as a field's type, with nothing converted but lists to tuples and integers to numbers."""
    if dataclasses.is_dataclass(hint):
        return _read(hint, value, where)  # type: ignore[arg-type]
    if hint == float | None and value is None:
        return None
    if hint in (float, float | None):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= 1e300:
            raise ValueError(f"{where} is {value!r:.60}, not a number")
        return float(value)
    if hint is int:
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**31:
            raise ValueError(f"{where} is {value!r:.60}, not an integer")
        return value
    if hint is str:
        if not isinstance(value, str) or not value.isprintable():
            raise ValueError(f"{where} is {value!r:.60}, not printable text")
        return value
    if hint == dict[str, float]:
        if not isinstance(value, dict):
            raise ValueError(f"{where} is {value!r:.60}, not an object")
        return {_typed(str, kind, where): _typed(float, share, f"{where}.{kind:.40}") for kind, share in value.items()}
    if not isinstance(value, list):
        raise ValueError(f"{where} is {value!r:.60}, not a list")
    return tuple(_typed(hint.__args__[0], each, where) for each in value)
