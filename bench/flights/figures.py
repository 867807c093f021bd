"""Flights of one kind -> their figures, each with its count and interval (`intervals`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.flights.fly import Flown
from bench.flights.intervals import Figure, mean, quantile, root, share

# Beyond these a fix is false: metres of a registered one, tile sides of a retrieved one. On a wrong map each is.
FALSE_REGISTERED_M, FALSE_RETRIEVED_TILES = 10.0, 1.0
WITHIN_M = (1.0, 5.0, 10.0, 25.0)

Values = NDArray[np.float64]
Truths = NDArray[np.bool_]


def is_fixed(flown: Flown) -> Truths:
    """Which frames have a fix, bool (n,)."""
    return np.array([bool(source) for source in flown.frames["fix"]], bool)


def is_false(flown: Flown) -> Truths:
    """Which frames have a fix that is false, bool (n,)."""
    fixed, error_m = is_fixed(flown), flown.column("error_m")
    if flown.kind == "wrong":
        return fixed
    registered = np.array([source == "registered" for source in flown.frames["fix"]], bool)
    most_m = np.where(registered, FALSE_REGISTERED_M, FALSE_RETRIEVED_TILES * flown.tile_m)
    return fixed & (np.nan_to_num(error_m, nan=-1.0) > most_m)


def find_figures(flights: Sequence[Flown]) -> dict[str, Any]:
    """The figures of flights of one kind, as JSON values: {name: `Figure` as a dict}.

    A segment is one tile length flown: frames of one share their ground, and are not independent.
    """
    segments = _segments(flights)
    fixed, false = _joined(is_fixed, flights), _joined(is_false, flights)
    found: dict[str, Figure] = {
        "availability": share(int(fixed.sum()), len(fixed)),
        "false_fixes": share(int(false.sum()), int(fixed.sum()), "exact"),
        "false_segments": share(len(set(segments[false])), len(set(segments[fixed])), "exact"),
        "segments_with_a_false_fix": share(len(set(segments[false])), len(set(segments)), "exact"),
        **_alone(flights),
    }
    if flights[0].kind != "wrong":
        found |= _errors("fix", flights, "error_m", segments) | _errors("track", flights, "track_error_m", segments)
        found |= _in_time(flights) | _promises(flights, segments)
    return {name: asdict(figure) for name, figure in found.items()}


def _joined(part: Any, flights: Sequence[Flown]) -> Any:
    return np.concatenate([part(flown) for flown in flights])


def _column(flights: Sequence[Flown], name: str) -> Values:
    return np.concatenate([flown.column(name) for flown in flights])


def _segments(flights: Sequence[Flown]) -> NDArray[np.int64]:
    """The number of each frame's segment, int64 (n,), different in different flights."""
    own = [(flown.column("flown_m") // flown.tile_m).astype(np.int64) for flown in flights]
    first = np.cumsum([0, *(int(one.max(initial=0)) + 1 for one in own)])
    return np.concatenate([one + start for one, start in zip(own, first, strict=False)])


def _errors(name: str, flights: Sequence[Flown], column: str, segments: NDArray[np.int64]) -> dict[str, Figure]:
    errors = _column(flights, column)
    known = np.isfinite(errors)
    errors, groups = errors[known], segments[known]
    return {
        f"{name}_rmse_m": root(mean(errors**2, groups)),
        f"{name}_median_m": quantile(errors, 0.5),
        f"{name}_p95_m": quantile(errors, 0.95),
        **{f"{name}_within_{m:g}_m": share(int((errors < m).sum()), len(errors)) for m in WITHIN_M},
    }


def _alone(flights: Sequence[Flown]) -> dict[str, Figure]:
    """Of each photo alone, before the filter: a photo that is verified, and how far off those are."""
    verified = np.array([verdict == "verified" for flown in flights for verdict in flown.frames["verdict"]], bool)
    found = {"verified": share(int(verified.sum()), len(verified), "exact")}
    if flights[0].kind != "wrong":
        errors = _column(flights, "photo_error_m")[verified]
        found |= {
            "verified_median_m": quantile(errors, 0.5),
            "verified_p95_m": quantile(errors, 0.95),
            "verified_beyond_10_m": share(int((errors > 10).sum()), len(errors), "exact"),
        }
    return found


def _in_time(flights: Sequence[Flown]) -> dict[str, Figure]:
    """First fix, availability after it, the longest silence over the map, recovery after the jump: over flights."""
    firsts, gaps, recovered = list[tuple[float, float]](), list[tuple[float, float]](), list[float]()
    after_fixed = after = jumps = 0
    for flown in flights:
        fixed, on_map, false = is_fixed(flown), np.array(flown.frames["on_map"], bool), is_false(flown)
        time_s, flown_m = flown.column("time_s"), flown.column("flown_m")
        hits = np.flatnonzero(fixed)
        if len(hits):
            first = int(hits[0])
            firsts.append((float(time_s[first] - time_s[0]), float(flown_m[first])))
            after_fixed += int((fixed & on_map)[first:].sum())
            after += int(on_map[first:].sum())
            gaps.append(_longest_gap(fixed[first:], on_map[first:], time_s[first:], flown_m[first:]))
        if flown.jump is not None and flown.jump < len(fixed):
            jumps += 1
            right = np.flatnonzero(fixed & ~false & (np.arange(len(fixed)) >= flown.jump))
            if len(right):
                recovered.append(float(flown_m[right[0]] - flown_m[flown.jump]) / flown.tile_m)
    seconds, metres = (np.array([one[i] for one in firsts]) for i in (0, 1))
    found = {
        "available_after_first_fix": share(after_fixed, after),
        "flights_with_a_fix": share(len(firsts), len(flights), "exact"),
        "first_fix_s": quantile(seconds, 0.5),
        "first_fix_m": quantile(metres, 0.5),
        "first_fix_most_tiles": _most(metres / flights[0].tile_m),
        "longest_gap_s": _most(np.array([gap[0] for gap in gaps])),
        "longest_gap_m": _most(np.array([gap[1] for gap in gaps])),
    }
    if jumps:
        found |= {
            "recovered": share(len(recovered), jumps, "exact"),
            "recovery_median_tiles": quantile(np.array(recovered), 0.5),
            "recovery_most_tiles": _most(np.array(recovered)),
        }
    return found


def _most(values: Values) -> Figure:
    return Figure(float(values.max()) if len(values) else None, None, None, len(values))


def _longest_gap(fixed: Truths, on_map: Truths, time_s: Values, flown_m: Values) -> tuple[float, float]:
    """Seconds and metres of the longest stretch over the map between one fix and the next, or the end."""
    most, since = (0.0, 0.0), 0
    for i in range(len(fixed)):
        if fixed[i] or not on_map[i] or i == len(fixed) - 1:
            most = max(most, (float(time_s[i] - time_s[since]), float(flown_m[i] - flown_m[since])))
            since = i
    return most


def _promises(flights: Sequence[Flown], segments: NDArray[np.int64]) -> dict[str, Figure]:
    """What fixes say of themselves: protection level and covariance."""
    error_m, protection_m, nees = (_column(flights, name) for name in ("error_m", "protection_m", "nees"))
    fixed = np.isfinite(error_m)
    promised = fixed & np.isfinite(protection_m)
    return {
        "protection_infinite": share(int((fixed & ~promised).sum()), int(fixed.sum())),
        "beyond_protection": share(
            int((error_m[promised] > protection_m[promised]).sum()), int(promised.sum()), "exact"
        ),
        "anees": mean(nees[fixed], segments[fixed]),
    }
