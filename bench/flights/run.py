"""dphr-bench flight: every flight over every kind of map, one record."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from bench.cases.endurance import MemoryLog, endurance_raw, find_drift
from bench.cases.flight import fly_for
from bench.cases.galleries import default_cache
from bench.cases.photo import Raw, to_record
from bench.cases.rig import FLIGHT_STAGES, MeasuredLocalizer
from bench.flights.figures import find_figures, is_false
from bench.flights.fly import KINDS, Flown, Kept, fly_over, motion_of
from bench.flights.folders import HALVES, FlightFolder, localizer_over, open_folder
from bench.machine.program import say
from bench.record import FLIGHT, BenchRecord, ScenarioRecord, Subject
from bench.request import FlightRequest
from bench.sampling import StopRule
from bench.sweeps.point import open_bench
from bench.validity import check_selftest, invalid_reasons
from dphr_infer.cli.flight import enough_matches
from dphr_infer.errors import DphrError
from dphr_infer.files.bundle import Bundle, open_bundle
from dphr_infer.flight.flight import Flight
from dphr_infer.flight.settings import calibrated
from dphr_infer.images.photo import read_photo
from dphr_infer.locate.devices import open_engine
from dphr_infer.measure.memory import peak_bytes, reset_peak
from export.calibrate.flights import Kind


class Flights:
    """What was asked for, opened; and what was flown so far."""

    def __init__(self, request: FlightRequest, bundle: Bundle, folders: Sequence[FlightFolder]) -> None:
        self.request, self.bundle, self.folders = request, bundle, folders
        self.search = enough_matches(request.search, folders[0].gallery)
        self.flown: list[Flown] = []

    @contextmanager
    def _over(
        self, folder: FlightFolder, over: FlightFolder, half: tuple[float, float] | None = None
    ) -> Iterator[MeasuredLocalizer]:
        localizer = localizer_over(over, self.bundle, self.search, half)
        localizer.tell_rectifying(folder.paths[0])
        with localizer:
            yield localizer
        del localizer
        gc.collect()  # what times a method refers to its object, and the other way round

    def fly(self, number: int) -> None:
        """Fly a flight over all kinds of maps."""
        folder, kinds = self.folders[number], self.request.kinds
        if "right" in kinds or "kidnapped" in kinds:
            with self._over(folder, folder) as localizer:
                kept = Kept(localizer)
                right = self._flown(folder, localizer, "right", folder.name, number, keep=kept)
                self.flown += [right] if "right" in kinds else []
                if "kidnapped" in kinds:
                    self.flown.append(self._flown(folder, localizer, "kidnapped", folder.name, number, again=kept))
        if "half" in kinds:
            with self._over(folder, folder, HALVES[number % len(HALVES)]) as localizer:
                self.flown.append(self._flown(folder, localizer, "half", folder.name, number))
        others = range(1, 1 + self.request.wrong_maps if "wrong" in kinds else 1)
        for over in (self.folders[(number + step) % len(self.folders)] for step in others):
            with self._over(folder, over) as localizer:
                self.flown.append(self._flown(folder, localizer, "wrong", over.name, number))

    def _flown(
        self,
        folder: FlightFolder,
        localizer: MeasuredLocalizer,
        kind: Kind,
        over: str,
        seed: int,
        keep: Kept | None = None,
        again: Kept | None = None,
    ) -> Flown:
        say(f"flight {folder.name}, {kind}, over the map of {over}")
        return fly_over(
            folder,
            localizer if again is None else again,
            localizer.gallery,
            _begin(localizer),
            motion_of(self.request.motion, folder, localizer, seed),
            localizer.clock,
            kind=kind,
            over=over,
            interval_s=self.request.interval_s,
            keep=keep,
        )

    def fly_on(self, minutes: float) -> ScenarioRecord:
        """The first flight again and again over its own map: latency and memory over time."""
        folder = self.folders[0]
        say(f"flight {folder.name} again and again for {minutes:g} minutes")
        with self._over(folder, folder) as localizer:
            motion, memory = motion_of(self.request.motion, folder, localizer, 0), MemoryLog()
            begun, interval_s = _begin(localizer), self.request.interval_s
            flown = fly_for(localizer, begun, folder.paths, motion, interval_s, 60 * minutes, memory)
        raw = endurance_raw(flown.start_ms, flown.duration_ms, minutes, "time", memory)
        return to_record(raw, [], None, find_drift(raw, []))


def _begin(localizer: MeasuredLocalizer) -> Flight:
    """The filter, as `dphr-infer flight` begins it."""
    return Flight(localizer.gallery, calibrated(localizer.bundle.manifest.calibration))


def run_flights(request: FlightRequest) -> BenchRecord:
    """Fly.

    Raises:
        ConfigError, BundleError, GalleryError, MapError, EngineError: as of `open_folder` and `localizer_over`.
        KeyboardInterrupt: before the first flight was over; later it ends the run and the record says so.
    """
    bundle, cache = open_bundle(request.bundle, request.search.signer), request.cache or default_cache() / "flights"
    folders = [open_folder(path, bundle, request.tile_m, request.stride_m, cache) for path in request.folders]
    bench = open_bench(StopRule(1.0), (request.search.on.threads or 0,))
    on = request.search.on
    with open_engine(bundle, on) as engine:
        accuracy = check_selftest(bundle, engine, on.precision)
    flights, ended = Flights(request, bundle, folders), dict[str, Any]()
    reset_peak()
    long: tuple[ScenarioRecord, ...] = ()
    try:
        for number in range(len(folders)):
            flights.fly(number)
        if request.minutes:
            long = (flights.fly_on(request.minutes),)
    except (KeyboardInterrupt, DphrError) as end:
        if not flights.flown:
            raise
        ended = {"failure": str(end)} if isinstance(end, DphrError) else {"interrupted": True}
    return bench.record(
        replace(_subject(flights), engine=engine.name),
        reasons=invalid_reasons(accuracy),
        scenarios=(*_scenarios(flights), *long),
        accuracy=accuracy,
        peak_memory_bytes=peak_bytes(),
        left_out={
            f"{one.flight}, {one.kind}: {photo}": why for one in flights.flown for photo, why in one.skipped.items()
        },
        **ended,
    )


def _subject(flights: Flights) -> Subject:
    search, manifest, first = flights.search, flights.bundle.manifest, flights.folders[0]
    height_px, width_px = read_photo(first.paths[0]).size_px
    return Subject(
        encoder=manifest.encoder,
        dim=manifest.dim,
        input_px=(manifest.preprocess.height_px, manifest.preprocess.width_px),
        precision=search.on.precision,
        threads=search.on.threads or 0,
        bundle_digest=flights.bundle.digest,
        gallery_rows=len(first.gallery),
        gallery_dtype=str(first.gallery.embeddings.dtype),
        matcher="that of the device",
        top_k=search.settings.top_k,
        heading=search.settings.heading,
        views=1,
        n_images=sum(len(folder.paths) for folder in flights.folders),
        image_px=(height_px, width_px),
        images_from=f"{len(flights.folders)} flights",
        rectify=search.camera.rectify,
        map="map packs of each flight" if search.verify else None,
    )


def _scenarios(flights: Flights) -> list[ScenarioRecord]:
    """A scenario for each kind."""
    request, found = flights.request, []
    for kind in KINDS:
        own = [one for one in flights.flown if one.kind == kind and one.frames]
        if not own:
            continue
        settings = {
            "kind": kind,
            "flights": len(own),
            "motion": request.motion,
            "interval_s": request.interval_s,
            "tile_m": request.tile_m,
            "stride_m": request.stride_m,
            "verify": flights.search.verify,
        }
        duration_ms = np.concatenate([one.frame_ms for one in own])
        names = [name for name in FLIGHT_STAGES if any(name in one.stage_ms for one in own)]
        stages = {name: np.concatenate([one.stage_ms.get(name, one.frame_ms * 0) for one in own]) for name in names}
        extra = {"figures": find_figures(own), "flights": [_flight_json(one) for one in own]}
        start_ms = np.cumsum(duration_ms) - duration_ms
        raw = Raw(FLIGHT, settings, start_ms, duration_ms, stages, len(duration_ms), "whole", extra)
        record = to_record(raw, [], None)
        record.extra.pop("difference_p50_ms", None)
        found.append(record)
    return found


def _flight_json(one: Flown) -> dict[str, Any]:
    frames = {**one.frames, "false": is_false(one).tolist()}
    return {"flight": one.flight, "over": one.over, "jump": one.jump, "frames": frames}
