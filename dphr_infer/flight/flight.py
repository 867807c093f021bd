"""Frames in time -> a fix or none, with its reason, and a track. The one file that knows all parts of the room.

    with dphr.open("samples/bundle", "city.gallery", top_k=16) as localizer:  # at least (tile/stride)² matches
        flight = dphr.Flight(localizer.gallery)
        for time_s, photo, odometry in frames:
            step = flight.step(time_s, localizer.locate(photo), odometry)
            if isinstance(step.fix, dphr.Fix):
                ...

It knows nothing of how a frame is matched or registered: it takes gallery rows, best first, and a registered point;
an estimate that a localizer with a map has verified brings both.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import FlightError
from dphr_infer.files.gallery import Gallery
from dphr_infer.flight.fix import Fix, NoFix, Odometry, Reason, RegisteredPoint, Track, registered_point, sigma_of
from dphr_infer.flight.grid_filter import Estimate, GridFilter
from dphr_infer.flight.lattice import gallery_lattice
from dphr_infer.flight.settings import FilterSettings
from dphr_infer.flight.state import FlightState, load_state, save_state
from dphr_infer.types import LocationEstimate, Matches, Prior

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class FlightStep:
    """What one frame gave.

    Attributes:
        time_s: of the frame.
        fix: this frame's own measurement, or why there is none.
        track: the filtered path, None while no place holds half of the probability.
        mass: probability within a tile side of the filter's mode; a fix needs `FilterSettings.fix_mass` of it.
        off: probability of being off the map, or lost.
        weight: how much the frame's ranks counted, in [0, 1]; 0 where too little ground was new.
        note: what was unusual, for people; empty else.
    """

    time_s: float
    fix: Fix | NoFix
    track: Track | None
    mass: float
    off: float
    weight: float
    note: str = ""


class Flight:
    """The filter over one flight. Not for several threads at once.

    Args:
        gallery: of the map that is flown over.
        settings: None takes `FilterSettings()`.
        prior: where the flight starts; None knows nothing.

    Raises:
        GalleryError: its tiles form no lattice.
        FlightError: no tile lies near the prior.
    """

    def __init__(self, gallery: Gallery, settings: FilterSettings | None = None, prior: Prior | None = None) -> None:
        self.settings = settings or FilterSettings()
        self.lattice = gallery_lattice(gallery)
        self._grid = GridFilter(self.lattice, self.settings, prior)
        self._state = FlightState()
        self._told = False

    def save(self, path: str | Path) -> None:
        """Write the state, so that `restore` goes on from here.

        Raises:
            StorageError: it cannot be written.
        """
        save_state(Path(path), self._state, self._grid)

    @classmethod
    def restore(cls, path: str | Path, gallery: Gallery) -> Flight:
        """A flight that goes on where `save` left it, with its settings.

        Raises:
            FlightError: missing, damaged, or of a flight over another gallery.
            GalleryError: the gallery's tiles form no lattice.
        """
        flight = cls(gallery)
        flight._state, flight._grid = load_state(Path(path), flight.lattice)
        flight.settings = flight._grid.settings
        return flight

    def step(
        self,
        time_s: float,
        found: Matches | LocationEstimate | None,
        odometry: Odometry | None,
        registration: RegisteredPoint | None = None,
    ) -> FlightStep:
        """Take one frame.

        Args:
            time_s: when it was taken, by any clock that runs forward.
            found: its matches, of a search over the whole gallery; at least (tile/stride)² of them lose nothing against
                all. None where it has none.
            odometry: motion since the last frame that was taken; None where it is not known, also over a gap: the
                aircraft may then have gone `max_speed_mps` anywhere. Ignored at the first frame.
            registration: where it was found on the map's pixels; None takes what a verified estimate says.

        Returns:
            A frame more than `max_back_s` before the last, or without odometry so long after it that the aircraft may
            be anywhere, starts the flight anew and says so in `note`.

        Raises:
            FlightError: the time is not finite, the frame is a duplicate or out of order, the odometry is faster than
                `max_speed_mps`, or a row is none of the gallery's. The flight is then as before: skip the frame, or
                give it again without that odometry.
        """
        rows = self._rows(found)
        if registration is None and isinstance(found, LocationEstimate):
            registration = registered_point(found)
        seconds, note = self._check_time(time_s, odometry is not None)
        if odometry is not None and seconds is not None:
            self._check_speed(odometry, seconds)
        if note:
            _log.warning("%s", note)
            self._grid, self._state = GridFilter(self.lattice, self.settings), FlightState()
        state, first = self._state, self._state.time_s is None
        state.time_s = time_s
        if seconds is not None:
            self._move(odometry, seconds)
        weight = self._weigh(rows)
        good = 0.0 if registration is None else self._register(registration)
        estimate = self._grid.estimate()
        fix: Fix | NoFix
        if estimate is None or estimate.mass < self.settings.fix_mass:
            fix = NoFix(self._reason(odometry, registration, first))
        else:
            fix = self._fix(rows, registration, good, estimate)
        mass = 0.0 if estimate is None else estimate.mass
        return FlightStep(time_s, fix, self._track(estimate), mass, self._grid.off, weight, note)

    def _rows(self, found: Matches | LocationEstimate | None) -> NDArray[np.int32]:
        """Rows (k,), best first; of several views those of the view with the most similar match."""
        if found is None:
            return np.empty(0, np.int32)
        if isinstance(found, LocationEstimate):
            rows = np.array([place.row for place in found.places], np.int32)
        else:
            rows = found.rows[int(np.argmax(found.similarity[:, 0]))]
        n = len(self.lattice.cell_of_row)
        if len(rows) and not (rows.min() >= 0 and rows.max() < n):
            raise FlightError(f"Row {rows.max()} is matched, but the gallery has {n}: it is another gallery's match.")
        enough = min(n, math.ceil(1 / self.lattice.cell_areas))
        if 0 < len(rows) < enough and not self._told:
            self._told = True
            _log.warning("A frame has %d matches; with `top_k` %d the filter loses nothing.", len(rows), enough)
        return rows

    def _check_time(self, time_s: float, motion_known: bool) -> tuple[float | None, str]:
        """Seconds since the last frame, None where there is none to go on from, and why a flight starts anew."""
        last = self._state.time_s
        if not math.isfinite(time_s):
            raise FlightError(f"The frame's time is {time_s}; expected finite seconds.")
        if last is None:
            return None, ""
        if time_s == last:
            raise FlightError(f"Two frames have the time {time_s:.3f} s: a duplicate would count twice. Skip it.")
        if last - self.settings.max_back_s <= time_s < last:
            raise FlightError(
                f"The frame of {time_s:.3f} s comes after the one of {last:.3f} s: frames are taken in the order of "
                "time. Skip it."
            )
        if time_s < last:
            return None, f"The clock jumped from {last:.3f} to {time_s:.3f} s: the flight starts anew."
        height, width = self.lattice.table.shape
        across_m = math.hypot(height, width) * self.lattice.stride_m
        if not motion_known and (time_s - last) * self.settings.max_speed_mps > 2 * across_m:
            return None, (
                f"{time_s - last:.0f} s of unknown motion at up to {self.settings.max_speed_mps:g} m/s lead twice "
                f"across the map of {across_m:.0f} m: the flight starts anew."
            )
        return time_s - last, ""

    def _check_speed(self, odometry: Odometry, seconds: float) -> None:
        # Its own noise may exceed the limit over a short time.
        most = self.settings.max_speed_mps * seconds + 3 * sigma_of(odometry.covariance)
        if odometry.distance_m > most:
            raise FlightError(
                f"The odometry says {odometry.distance_m:.1f} m in {seconds:.3f} s, beyond `max_speed_mps` "
                f"{self.settings.max_speed_mps:g}: give the frame again without it, or raise the limit."
            )

    def _move(self, odometry: Odometry | None, seconds: float) -> None:
        state, settings, tile_m = self._state, self.settings, self.lattice.tile_m
        if odometry is None:
            # Anywhere in a disc of radius r has the variance r²/4 along each axis.
            reach_m = settings.max_speed_mps * seconds
            self._grid.move(Odometry(0.0, 0.0, np.eye(2) * reach_m**2 / 4))
            self._grid.leak(min(1.0, reach_m / (settings.leak_ground * tile_m)))
            # So far a registration may show new ground: it is what finds a place again that motion has lost.
            state.since_registration = state.since_registration + np.array([reach_m, 0.0])
            return
        self._grid.move(odometry)
        moved = np.array([odometry.east_m, odometry.north_m])
        state.since_leak = state.since_leak + moved
        ground = float(np.hypot(*state.since_leak)) / tile_m
        if ground >= settings.least_ground:
            self._grid.leak(min(1.0, ground / settings.leak_ground))
            state.since_leak = np.zeros(2)
        state.since_ranks = state.since_ranks + moved
        state.since_registration = state.since_registration + moved
        state.from_start = state.from_start + moved

    def _weigh(self, rows: NDArray[np.int32]) -> float:
        """Weigh a frame's ranks by the ground that is new since the last weighed; the weight, 0 for not at all."""
        state, settings = self._state, self.settings
        ground = float(np.hypot(*state.since_ranks)) / self.lattice.tile_m
        weight = min(1.0, ground) if state.weighed else settings.first_weight
        if len(rows) == 0 or (state.weighed and ground < settings.least_ground):
            return 0.0
        if state.weighed:
            state.ground += weight
        self._grid.weigh_matches(rows, weight)
        state.weighed, state.since_ranks = True, np.zeros(2)
        return weight

    def _register(self, registration: RegisteredPoint) -> float:
        """Weigh a registration; one that shares its ground with the last less, and one of the same ground not at all.

        Wrong registrations repeat while the picture stays the same, so they are not independent either.
        """
        state, settings = self._state, self.settings
        ground = float(np.hypot(*state.since_registration)) / self.lattice.tile_m / settings.leak_ground
        weight = min(1.0, ground) if state.registered else 1.0
        if weight == 0:
            return 0.0
        state.registered, state.since_registration = True, np.zeros(2)
        return self._grid.weigh_registration(registration, weight)

    def _reason(self, odometry: Odometry | None, registration: RegisteredPoint | None, first: bool) -> Reason:
        state = self._state
        moved = float(np.hypot(*state.from_start)) / self.lattice.tile_m
        if registration is None:
            still = state.ground == 0 and moved < self.settings.least_ground
            if not first and (odometry is None or still):
                return "no-motion"
            if state.ground < 1:
                return "starting"
        return "off-map" if self._grid.off >= 0.5 else "ambiguous"

    def _fix(
        self, rows: NDArray[np.int32], registration: RegisteredPoint | None, good: float, estimate: Estimate
    ) -> Fix | NoFix:
        lattice, share = self.lattice, self.settings.protection_mass
        if registration is not None:
            place = lattice.metres(registration.point)
            if self._agrees(place, registration.covariance, estimate, self.settings.registration_gate):
                sigma_m = sigma_of(registration.covariance)
                protection_m = self._grid.protection_m(place[0], place[1], share)
                if good > share:  # the Gaussian's own radius, where it alone holds the share
                    protection_m = min(protection_m, sigma_m * math.sqrt(-2 * math.log(1 - share / good)))
                return Fix(registration.point, registration.covariance, sigma_m, "registered", protection_m)
        own = self._own_place(rows, estimate)
        covariance = np.zeros((2, 2)) if own is None else own.covariance * self.settings.fix_factor
        if own is None or not self._agrees((own.east_m, own.north_m), covariance, estimate, self.settings.fix_gate):
            return NoFix("no-match")
        protection_m = self._grid.protection_m(own.east_m, own.north_m, share)
        point = lattice.point(own.east_m, own.north_m)
        return Fix(point, covariance, sigma_of(covariance), "retrieved", protection_m)

    def _agrees(
        self, place: tuple[float, float], covariance: NDArray[np.float64], estimate: Estimate, gate: float
    ) -> bool:
        error = np.array(place) - (estimate.east_m, estimate.north_m)
        both = covariance + estimate.covariance * self.settings.track_factor
        return bool(error @ np.linalg.solve(both, error) <= gate)

    def _own_place(self, rows: NDArray[np.int32], estimate: Estimate) -> Estimate | None:
        """Of the tiles within a tile side of the filter's mean, weighted by this frame's gains alone; None where none
        of its matches lies there.
        """
        lattice = self.lattice
        near = lattice.cells_within(estimate.east_m, estimate.north_m, lattice.tile_m)
        if len(rows) == 0 or len(near) == 0:
            return None
        cells, gain, rest_gain = self._grid.gains(rows)
        _, here, listed = np.intersect1d(near, cells, assume_unique=True, return_indices=True)
        if len(here) == 0:
            return None
        weights = np.full(len(near), rest_gain)
        weights[here] = gain[listed]
        weights /= weights.sum()
        places = np.stack([lattice.east_m[near], lattice.north_m[near]])
        east, north = places @ weights
        error = places - [[east], [north]]
        covariance = (error * weights) @ error.T + np.eye(2) * lattice.stride_m**2 / 12
        return Estimate(float(east), float(north), covariance, 1.0)

    def _track(self, estimate: Estimate | None) -> Track | None:
        if estimate is None or estimate.mass < self.settings.track_mass:
            return None
        covariance = estimate.covariance * self.settings.track_factor
        return Track(self.lattice.point(estimate.east_m, estimate.north_m), covariance, estimate.mass)
