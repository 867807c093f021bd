"""One run: open what `dphr-infer locate` opens, run the cases, fill the record."""

from __future__ import annotations

import contextlib
import datetime
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from bench.cases import (
    END_TO_END,
    MATCH_QUERIES,
    STAGES,
    difference_ms,
    time_batches,
    time_generated_matching,
    time_matching,
    time_stages,
)
from bench.clock import CLOCK, MIN_CALLS, WARM_UP_CALLS
from bench.machine import MachineProfile, read_machine
from bench.record import BatchRecord, BenchRecord, MatchRecord, Subject
from bench.roofline import measure_read_bandwidth
from bench.stats import summarise
from dphr_infer.bundle import SELFTEST_IMAGES, Bundle, Precision, open_bundle
from dphr_infer.embedder import Embedder
from dphr_infer.engines.base import Engine
from dphr_infer.engines.open import open_engine
from dphr_infer.errors import ConfigError
from dphr_infer.gallery import Gallery, open_gallery
from dphr_infer.localizer import DEFAULT_ROTATIONS, DEFAULT_TOP_K, Heading, Localizer
from dphr_infer.matchers.base import Matcher
from dphr_infer.matchers.open import open_matcher
from dphr_infer.photo import read_photo_metadata
from dphr_infer.preprocess import list_images, read_image

DEFAULT_BATCHES = (1, 2, 4, 8, 16)
MAX_BATCH = 1024
DEFAULT_SECONDS = 3.0
DEFAULT_MATCH_ROWS = 100_000
STAGE_SHARE = 4
MATCH_TOP_K = 10
_PHOTOS_IN_MEMORY = 32
CONDITIONS = (
    f"{WARM_UP_CALLS} warm-up calls before each case are not counted; at least {MIN_CALLS} calls; garbage collection "
    f"is off while timing; clock {CLOCK}; percentiles are nearest-rank, p90 from 64 samples on and p99 from 662 on."
)


@dataclass(frozen=True, slots=True)
class BenchRequest:
    """What to measure.

    Attributes:
        images: folder of photos; None takes the bundle's self-test images.
        seconds: time for each case; the stage-by-stage case gets four times as much, for its p99.
        match_rows: rows of the generated galleries; none leaves matching at the gallery's own size.
        threads: of the engine; 0 takes all cores.
    """

    bundle: Path
    gallery: Path
    images: Path | None = None
    precision: Precision = "fp32"
    batches: tuple[int, ...] = DEFAULT_BATCHES
    seconds: float = DEFAULT_SECONDS
    match_rows: tuple[int, ...] = (DEFAULT_MATCH_ROWS,)
    threads: int = 0
    top_k: int = DEFAULT_TOP_K
    heading: Heading = "as-is"

    def __post_init__(self) -> None:
        if not self.batches or min(self.batches) < 1 or max(self.batches) > MAX_BATCH:
            raise ConfigError(f"Batches are {self.batches}: give sizes in 1..{MAX_BATCH}.")
        if not 0 < self.seconds < math.inf:
            raise ConfigError(f"Seconds are {self.seconds}: give a finite time above 0.")
        if any(rows < 1 for rows in self.match_rows):
            raise ConfigError(f"Generated galleries of {self.match_rows} rows: each needs at least 1.")
        if self.heading not in get_args(Heading):
            raise ConfigError(f"Heading {self.heading!r} is unknown; choose one of {', '.join(get_args(Heading))}.")


@dataclass(frozen=True, slots=True, eq=False)
class Setup:
    """Everything opened, and the machine's ceiling."""

    request: BenchRequest
    bundle: Bundle
    gallery: Gallery
    engine: Engine
    matcher: Matcher
    localizer: Localizer
    paths: list[Path]
    machine: MachineProfile
    bandwidth: float


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def _subject(setup: Setup) -> Subject:
    request, manifest = setup.request, setup.bundle.manifest
    image = read_image(setup.paths[0])
    return Subject(
        encoder=manifest.encoder,
        dim=manifest.dim,
        input_px=(manifest.preprocess.height_px, manifest.preprocess.width_px),
        precision=request.precision,
        engine=setup.engine.name,
        matcher=setup.matcher.name,
        threads=request.threads,
        bundle_digest=setup.bundle.digest,
        gallery_rows=len(setup.gallery),
        gallery_dtype=str(setup.gallery.embeddings.dtype),
        top_k=request.top_k,
        heading=request.heading,
        views=DEFAULT_ROTATIONS if request.heading == "search" else 1,
        n_images=len(setup.paths),
        image_px=(image.shape[0], image.shape[1]),
        images_from="the bundle's self-test" if request.images is None else str(request.images),
    )


def _batches(setup: Setup) -> tuple[BatchRecord, ...]:
    request = setup.request
    paths = setup.paths[: min(_PHOTOS_IN_MEMORY, max(request.batches))]
    return time_batches(
        setup.localizer,
        lambda batch: Embedder(setup.bundle.manifest.preprocess, setup.engine, batch),
        [read_image(path) for path in paths],
        [read_photo_metadata(path).yaw_deg for path in paths],
        request.batches,
        request.seconds,
    )


def _queries(setup: Setup, count: int) -> NDArray[np.float32]:
    paths: Sequence[Path] = (setup.paths * count)[:count]
    views = [setup.localizer.prepare(read_image(path), read_photo_metadata(path).yaw_deg)[:1] for path in paths]
    return setup.localizer.embed(np.concatenate(views))


def _matching(setup: Setup) -> tuple[MatchRecord, ...]:
    request, records = setup.request, []
    for count in MATCH_QUERIES:
        records.append(
            time_matching(
                setup.gallery.embeddings,
                _queries(setup, count),
                min(MATCH_TOP_K, len(setup.gallery)),
                request.seconds,
                setup.machine,
                setup.bandwidth,
                generated=False,
            )
        )
    for rows in request.match_rows:
        _say(f"matching {rows} generated rows")
        records += time_generated_matching(
            rows, setup.gallery.dim, MATCH_TOP_K, request.seconds, setup.machine, setup.bandwidth
        )
    return tuple(records)


def _measure(setup: Setup) -> BenchRecord:
    _say(f"{len(setup.paths)} photos, stage by stage and in one piece")
    samples = time_stages(setup.localizer, setup.paths, STAGE_SHARE * setup.request.seconds)
    _say(f"batches of {', '.join(map(str, setup.request.batches))}")
    batches = _batches(setup)
    _say(f"matching the gallery's {len(setup.gallery)} rows")
    return BenchRecord(
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        conditions=CONDITIONS,
        machine=setup.machine,
        subject=_subject(setup),
        stages={stage: summarise(samples[stage]) for stage in STAGES},
        end_to_end=summarise(samples[END_TO_END]),
        difference_p50_ms=difference_ms(samples),
        batches=batches,
        matching=_matching(setup),
        bandwidth_bytes_per_s=setup.bandwidth,
        samples_ms={name: tuple(np.round(values, 4).tolist()) for name, values in samples.items()},
    )


def run_bench(request: BenchRequest) -> BenchRecord:
    """Measure.

    Raises:
        BundleError, GalleryError, EngineError, ImageError, ConfigError: as `dphr-infer locate`.
    """
    bundle, gallery = open_bundle(request.bundle), open_gallery(request.gallery)
    paths = list_images(request.images if request.images is not None else request.bundle / SELFTEST_IMAGES)
    machine = read_machine()
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(open_engine(bundle, request.precision, threads=request.threads))
        matcher = stack.enter_context(open_matcher(gallery.embeddings))
        localizer = Localizer(bundle, gallery, engine, matcher, top_k=request.top_k, heading=request.heading)
        _say("memory bandwidth")
        bandwidth = measure_read_bandwidth(machine)
        return _measure(Setup(request, bundle, gallery, engine, matcher, localizer, paths, machine, bandwidth))
