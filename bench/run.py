"""One run: open what `dphr-infer locate` opens, check that it is right, measure, fill the record.

An interrupt ends the run early; the record then holds what was measured until then, and says so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from bench.cases.rig import open_rig
from bench.machine.power import PowerReader, PowerSample, Recorder, open_power
from bench.machine.program import identity, say
from bench.machine.roofline import measure_ceiling
from bench.machine.state import read_state
from bench.record import ENDURANCE, BenchRecord, Subject, now
from bench.request import BenchRequest
from bench.sampling import GiveWay, measure_overhead_ns
from bench.steps import Parts, Setup, measure
from bench.validity import invalid_reasons
from dphr_infer.evaluate.truth import check_truths, read_truth
from dphr_infer.files.bundle import SELFTEST_IMAGES, Bundle, open_bundle
from dphr_infer.files.gallery import Gallery, open_gallery
from dphr_infer.images.preprocess import list_images, read_image
from dphr_infer.locate.devices import open_engine
from dphr_infer.measure.machine import read_machine
from dphr_infer.measure.memory import reset_peak

_PERIOD_S = 1.0
_ENDURANCE_PERIOD_S = 5.0


def _subject(setup: Setup) -> Subject:
    request, manifest, gallery = setup.request, setup.bundle.manifest, setup.gallery
    image = read_image(setup.paths[0])
    prior, settings = request.search.prior, request.search.settings
    return Subject(
        encoder=manifest.encoder,
        dim=manifest.dim,
        input_px=(manifest.preprocess.height_px, manifest.preprocess.width_px),
        precision=request.search.on.precision,
        engine=setup.engine.name,
        matcher=None if setup.matcher is None else setup.matcher.name,
        threads=request.threads,
        bundle_digest=setup.bundle.digest,
        gallery_rows=None if gallery is None else len(gallery),
        gallery_dtype=None if gallery is None else str(gallery.embeddings.dtype),
        top_k=settings.top_k,
        heading=settings.heading,
        views=settings.rotations if settings.heading == "search" else 1,
        n_images=len(setup.paths),
        image_px=(image.shape[0], image.shape[1]),
        images_from="the bundle's self-test" if request.images is None else str(request.images),
        prior=None if prior is None else f"{prior.latitude_deg},{prior.longitude_deg} ± {prior.radius_m:g} m",
        rectify=request.search.camera.rectify,
        map=None if setup.rig is None or setup.rig.localizer.registrar is None else str(request.search.map),
    )


def _flags(setup: Setup, parts: Parts) -> tuple[str, ...]:
    """What of the machine's state makes the figures worse than they need to be."""
    found = list(setup.state.warnings(setup.machine))
    discarded = sum(scenario.extra.get("throttled_discarded", 0) for scenario in parts.scenarios)
    if discarded:
        found.append(f"{discarded} samples were taken while the machine was throttled, and discarded.")
    return tuple(found)


def _timeline_json(timeline: Sequence[PowerSample]) -> tuple[dict[str, Any], ...]:
    """The readings as JSON values, in seconds since the first."""
    return tuple(
        {
            "t_s": round(sample.t_s - timeline[0].t_s, 3),
            "temperature_c": sample.temperature_c,
            "clock_mhz": sample.clock_mhz,
            "power_w": sample.power_w,
            "throttled": sample.throttled,
        }
        for sample in timeline
    )


def _power_json(reader: PowerReader, recorder: Recorder, alone: bool) -> dict[str, Any]:
    """What was read; beside another run, whose power is in it too, without the mean."""
    first_s, last_s = recorder.timeline[0].t_s, recorder.timeline[-1].t_s
    joules = recorder.energy_j(first_s, last_s)
    mean_w = joules / (last_s - first_s) if alone and joules is not None and last_s > first_s else None
    return {
        "sources": list(reader.sources()),
        "missing": list(reader.missing()),
        "total_rails": list(reader.total_rails),
        "mean_w": mean_w,
    }


def _open_gallery(request: BenchRequest, bundle: Bundle, paths: list[Path]) -> Gallery | None:
    """The gallery, with whatever does not fit it refused before any time is spent.

    Raises:
        GalleryError: damaged, another bundle's, or the prior allows none of its tiles.
        ConfigError: the truth is not of these photos and this map.
    """
    if request.gallery is None:
        return None
    gallery = open_gallery(request.gallery)
    gallery.check_bundle(bundle)
    if request.search.prior is not None:
        gallery.rows_in(request.search.prior)
    if request.truth is not None:
        truths = read_truth(request.truth)
        check_truths(truths, request.truth, paths, gallery)
    return gallery


def run_bench(request: BenchRequest, give_way: GiveWay | None = None) -> BenchRecord:
    """Measure.

    Args:
        give_way: lets another run measure for a while; called between samples, see `clock.StopRule`.

    Raises:
        BundleError, GalleryError, EngineError, ImageError, ConfigError: as `dphr-infer locate`.
        KeyboardInterrupt: before anything was measured; later it ends the run and the record says so.
    """
    search = request.search
    identity()  # what is on the disk now, not at the end
    bundle = open_bundle(request.bundle, search.signer)
    paths = list_images(request.images if request.images is not None else request.bundle / SELFTEST_IMAGES)
    gallery = _open_gallery(request, bundle, paths)
    machine, state = read_machine(), read_state()
    with contextlib.ExitStack() as stack:
        rig = None
        if gallery is None:
            engine = stack.enter_context(open_engine(bundle, search.on))
        else:
            rig = stack.enter_context(open_rig(bundle, gallery, search, paths))
            engine, _ = rig.apart.parts
        say("memory bandwidth, matrix products, the bench's own overhead")
        ceiling = measure_ceiling(machine, request.threads)
        overhead_ns = measure_overhead_ns()
        reset_peak()
        reader = open_power()
        # Beside another run seldom: a reading falls into its time too.
        seldom = ENDURANCE in request.scenarios or give_way is not None
        period_s = _ENDURANCE_PERIOD_S if seldom else _PERIOD_S
        recorder = stack.enter_context(Recorder(reader, period_s))
        setup = Setup(request, bundle, engine, rig, paths, machine, state, ceiling, recorder, give_way)
        parts = measure(setup)
        return _to_record(setup, parts, reader, overhead_ns)


def _to_record(setup: Setup, parts: Parts, reader: PowerReader, overhead_ns: float) -> BenchRecord:
    if parts.accuracy is None:
        reasons: tuple[str, ...] = ("the run ended before engine and gallery were checked",)
    else:
        reasons = invalid_reasons(parts.accuracy)
    return BenchRecord(
        date=now(),
        valid=not reasons,
        invalid_reasons=reasons,
        flags=_flags(setup, parts),
        program=identity(),
        machine=setup.machine,
        state=setup.state,
        subject=_subject(setup),
        power=_power_json(reader, setup.recorder, alone=setup.give_way is None),
        timeline=_timeline_json(setup.recorder.timeline),
        bandwidth_bytes_per_s=setup.ceiling.bandwidth,
        matmul_flops_per_s=setup.ceiling.flops_per_s,
        overhead_ns=overhead_ns,
        **{part.name: getattr(parts, part.name) for part in fields(parts)},
    )
