"""The photos as a flight, by the code of `dphr-infer flight`: each located, its motion seen, both given to the filter.

They are flown again and again until the time is over; a photo that the filter refuses has no sample.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.cases.endurance import MemoryLog
from bench.cases.photo import Raw
from bench.cases.rig import FILTER, FLIGHT_STAGES, ODOMETRY, MeasuredLocalizer, Rig
from bench.record import FLIGHT
from dphr_infer.errors import DphrError
from dphr_infer.flight.flight import Flight
from dphr_infer.flight.run import Motion, SeenMotion, fly
from dphr_infer.flight.settings import calibrated
from dphr_infer.measure.clock import now_ms

INTERVAL_S = 10.0


def flight(rig: Rig, seconds: float) -> Raw:
    """The rig's photos in turn, at least once; a sample is a photo, from the fix before to its own.

    Raises:
        FlightError: no photo was taken.
        GalleryError: the gallery's tiles form no lattice.
    """
    localizer = rig.localizer
    motion = SeenMotion(localizer.views.attitude, localizer.gallery.origin.tile_m)
    begun = Flight(localizer.gallery, calibrated(localizer.bundle.manifest.calibration), rig.prior)
    return fly_for(localizer, begun, rig.paths, motion, INTERVAL_S, seconds, MemoryLog())


def fly_for(
    localizer: MeasuredLocalizer,
    begun: Flight,
    paths: Sequence[Path],
    motion: Motion,
    interval_s: float,
    seconds: float,
    memory: MemoryLog,
) -> Raw:
    """Fly photos again and again for some time, and at least once.

    Args:
        localizer: open.
        begun: the filter over its gallery.
        interval_s: between two photos, as the filter is told.
        memory: gets the resident memory over time.
    """
    clock, times_s = localizer.clock, itertools.count(0.0, interval_s)
    clock.time(begun, "step", FILTER)
    refused: list[DphrError] = []

    def skip(_: object, error: DphrError) -> None:
        refused.append(error)
        if len(refused) > len(paths):  # every photo of a round
            raise error

    starts, durations, spent = list[float](), list[float](), list[dict[str, float]]()
    coming = fly(localizer, begun, itertools.cycle(paths), lambda _: next(times_s), clock.wrap(motion, ODOMETRY), skip)
    clock.take()
    begun_ms = now_ms()
    end_ms, start_ms = begun_ms + 1e3 * seconds, begun_ms
    while start_ms < end_ms or len(starts) < len(paths):
        next(coming)
        stop_ms = now_ms()
        starts.append(start_ms)
        durations.append(stop_ms - start_ms)
        spent.append(clock.take())
        refused.clear()
        memory.note(stop_ms)
        start_ms = now_ms()
    coming.close()  # type: ignore[attr-defined]
    names = {name for one in spent for name in one}
    stages = {name: np.array([one.get(name, 0.0) for one in spent]) for name in FLIGHT_STAGES if name in names}
    settings = {"interval_s": interval_s, "seconds": seconds}
    return Raw(FLIGHT, settings, np.array(starts), np.array(durations), stages, len(starts), "time")
