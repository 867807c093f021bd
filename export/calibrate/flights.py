"""The kinds of flights that a promise is made on, flown by the filter that flies: right, half, wrong, kidnapped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dphr_infer.files.gallery import Gallery
from dphr_infer.flight.fix import Fix, Odometry
from dphr_infer.flight.flight import Flight, FlightStep
from dphr_infer.flight.run import confirmed_rank
from dphr_infer.flight.settings import FilterSettings
from dphr_infer.geo import east_north_m
from dphr_infer.types import GeoPoint
from export.calibrate.site import Site, match, moves_m, part_of

Kind = Literal["right", "half", "wrong", "kidnapped"]
KINDS: tuple[Kind, ...] = get_args(Kind)

# What a flight's odometry errs by: σ of scale and heading, which last, and of noise per step; and what it tells of it.
_SCALE, _HEADING_DEG, _NOISE = 0.03, 2.0, 0.05
_TOLD, _TOLD_TILES = 0.08, 0.02
_SPEED_MPS = 10.0


@dataclass(frozen=True, slots=True)
class Frame:
    """What the filter said at one frame of one flight.

    Attributes:
        kind: of the flight.
        unit: number of the site and of the stretch on it.
        mass: of `FlightStep`: a fix is given up to this `fix_mass`.
        error_m: of the fix; None where there is none at any.
        nees: e'Σ⁻¹e of the fix; None with it.
        track_nees: of the track, where it has one.
        rank: confirmed, at the settings' own `fix_mass`; None where the filter was not sure.
    """

    kind: Kind
    unit: tuple[int, int]
    mass: float
    error_m: float | None
    nees: float | None
    track_nees: float | None
    rank: int | None


def fly_all(
    sites: Sequence[Site], settings: Sequence[FilterSettings], seed: int, kinds: tuple[Kind, ...] = KINDS
) -> list[Frame]:
    """Fly each site's photos over its own map, over its four halves, over every other map, and kidnapped.

    Args:
        sites: at least two.
        settings: of each site's flights.
        seed: of the odometry's errors.
        kinds: of the flights.
    """
    frames: list[Frame] = []
    for number, site in enumerate(sites):
        order = list(range(len(site.truth)))
        middle = len(order) // 2
        flights: list[tuple[Kind, Gallery, list[int]]] = [("right", site.gallery, order)]
        flights += [("half", half, order) for half in _halves(site.gallery)]
        flights += [("wrong", other.gallery, order) for other in sites if other is not site]
        flights += [("kidnapped", site.gallery, order[:middle] + order[middle:][::-1])]
        for count, (kind, gallery, photos) in enumerate(flights):
            rng = np.random.default_rng([seed, number, count])
            if kind in kinds:
                frames += _fly(kind, number, site, gallery, photos, settings[number], rng)
    return frames


def true_rank_areas(site: Site) -> NDArray[np.float64]:
    """ρ of the tile nearest to the truth at each photo, in tile areas; float64 (n,)."""
    origin = site.gallery.origin
    similarity = site.queries @ np.asarray(site.gallery.embeddings, np.float32).T
    tiles = [int(np.argmin(site.gallery.distances_m(point))) for point in site.truth]
    at_truth = similarity[np.arange(len(tiles)), tiles]
    ranks: NDArray[np.float64] = (similarity > at_truth[:, None]).sum(axis=1) + 0.5
    return ranks * (origin.stride_m / origin.tile_m) ** 2


def _halves(gallery: Gallery) -> list[Gallery]:
    """North, south, east and west."""
    halves = []
    for values in (gallery.latitude_deg, gallery.longitude_deg):
        upper = values >= np.median(values)
        halves += [part_of(gallery, np.flatnonzero(part)) for part in (upper, ~upper)]
    return halves


def told_odometry(moves: NDArray[np.float64], tile_m: float, rng: np.random.Generator) -> Iterator[Odometry]:
    """What a drone's odometry says of true moves, float64 (n, 2) metres east and north."""
    scale, turn = 1 + rng.normal(0, _SCALE), np.radians(rng.normal(0, _HEADING_DEG))
    matrix = scale * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    for move in moves:
        told = matrix @ move + rng.normal(0, _NOISE * np.hypot(*move), 2)
        sigma_m = _TOLD * np.hypot(*told) + _TOLD_TILES * tile_m
        yield Odometry(float(told[0]), float(told[1]), np.eye(2) * sigma_m**2)


def _fly(
    kind: Kind,
    number: int,
    site: Site,
    gallery: Gallery,
    photos: list[int],
    settings: FilterSettings,
    rng: np.random.Generator,
) -> Iterator[Frame]:
    flight = Flight(gallery, settings)
    k = min(len(gallery), int(np.ceil(1 / flight.lattice.cell_areas)))
    moves = moves_m([site.truth[index] for index in photos])
    if kind == "kidnapped":  # no odometry tells of it: the flight seems to go on
        jump = len(photos) // 2 - 1
        moves[jump] = moves[jump - 1]
    odometry = [None, *told_odometry(moves, flight.lattice.tile_m, rng)]
    times = np.concatenate([[0.0], np.cumsum(np.hypot(*moves.T) / _SPEED_MPS + 1e-3)])
    for index, time_s, moved in zip(photos, times, odometry, strict=True):
        matches = match(gallery, site.queries[index], k)
        step = flight.step(float(time_s), matches, moved)
        rank = confirmed_rank(flight, step, matches.rows[0])
        yield _frame(kind, (number, int(site.unit[index])), step, site.truth[index], rank)


def _frame(kind: Kind, unit: tuple[int, int], step: FlightStep, truth: GeoPoint, rank: int | None) -> Frame:
    track = None if step.track is None else _nees(step.track.point, step.track.covariance, truth)[1]
    if not isinstance(step.fix, Fix):
        return Frame(kind, unit, step.mass, None, None, track, rank)
    error_m, nees = _nees(step.fix.point, step.fix.covariance, truth)
    return Frame(kind, unit, step.mass, error_m, nees, track, rank)


def _nees(point: GeoPoint, covariance: NDArray[np.float64], truth: GeoPoint) -> tuple[float, float]:
    """Error in metres, and its square over the covariance."""
    error = np.concatenate(east_north_m(truth, np.array([point.latitude_deg]), np.array([point.longitude_deg])))
    return float(np.hypot(*error)), float(error @ np.linalg.solve(covariance, error))
