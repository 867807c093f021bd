"""dphr-bench sweep: one figure over a grid of settings, a record for each point.

    sweep match               generated galleries: rows x D x dtype x scan x threads x queries x k x prior radius
    sweep embed BUNDLE...     bundle (encoder, image size) x device x precision x threads x batch

Every record has one entry in `matching` or `batches`, so that `dphr-bench compare` reads it. Every point is checked in
the same run: matching against a plain product, embedding against the bundle's self-test.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from bench.cases.batches import BatchCase
from bench.cases.galleries import CENTRE, default_cache, generate_rows, generated_gallery
from bench.cases.matching import MatchLimits, time_search
from bench.machine.program import identity, say
from bench.machine.roofline import Ceiling, measure_ceiling
from bench.machine.state import MachineState, read_state
from bench.peers.runs import match_peers, open_match_peers
from bench.record import (
    CONDITIONS,
    Accuracy,
    BatchRecord,
    BenchRecord,
    MatchRecord,
    PeerRecord,
    ScenarioRecord,
    Subject,
)
from bench.request import EmbedGrid, Grid, MatchGrid
from bench.sampling import StopRule, measure_overhead_ns
from bench.validity import check_selftest, invalid_reasons
from dphr_infer.errors import ConfigError, DphrError
from dphr_infer.files.bundle import SELFTEST_IMAGES, Bundle, model_name, open_bundle
from dphr_infer.files.gallery import Gallery
from dphr_infer.images.photo import to_photo
from dphr_infer.images.preprocess import list_images
from dphr_infer.locate.devices import open_engine, open_matcher
from dphr_infer.locate.settings import DeviceSettings, Scan
from dphr_infer.measure.machine import Machine, read_machine
from dphr_infer.measure.stats import MIN_SAMPLES_P90
from dphr_infer.types import PRECISIONS, Prior

_TOLERANCE = 1e-4
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """What every point shares; `ceilings` are those of each number of threads, 0 for all cores."""

    machine: Machine
    state: MachineState
    ceilings: Mapping[int, Ceiling]
    overhead_ns: float
    rule: StopRule

    def record(
        self,
        subject: Subject,
        *,
        scenarios: tuple[ScenarioRecord, ...] = (),
        matching: tuple[MatchRecord, ...] = (),
        batches: tuple[BatchRecord, ...] = (),
        peers: tuple[PeerRecord, ...] = (),
        accuracy: Accuracy | None = None,
        reasons: tuple[str, ...] = (),
        left_out: Mapping[str, str] = MappingProxyType({}),
    ) -> BenchRecord:
        """A record of one point; its ceilings are those of the subject's threads."""
        ceiling = self.ceilings[subject.threads or 0]
        return BenchRecord(
            date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            conditions=CONDITIONS,
            valid=not reasons,
            invalid_reasons=reasons,
            interrupted=False,
            failure="",
            flags=self.state.warnings(self.machine),
            left_out=dict(left_out),
            program=identity(),
            machine=self.machine,
            state=self.state,
            subject=subject,
            scenarios=scenarios,
            matching=matching,
            batches=batches,
            peers=peers,
            accuracy=accuracy,
            cold_first_ms=None,
            power=None,
            timeline=(),
            startup_ms=None,
            peak_memory_bytes=None,
            bandwidth_bytes_per_s=ceiling.bandwidth,
            matmul_flops_per_s=ceiling.flops_per_s,
            overhead_ns=self.overhead_ns,
        )


def open_bench(grid: Grid) -> Bench:
    """Measure the machine's ceilings, for each number of threads; 0 is all cores."""
    identity()  # what is on the disk now, not at the end
    machine, state = read_machine(), read_state()
    say("memory bandwidth, matrix products, the bench's own overhead")
    ceilings = {number: measure_ceiling(machine, number) for number in unique(grid.threads)}
    return Bench(machine, state, ceilings, measure_overhead_ns(), StopRule(grid.seconds, grid.noise, MIN_SAMPLES_P90))


def match_points(grid: MatchGrid, bench: Bench) -> Iterator[BenchRecord]:
    """Every point of `sweep match`, smallest galleries first."""
    cache = grid.cache or default_cache()
    for rows, dim, stored in itertools.product(sorted(set(grid.rows)), unique(grid.dim), unique(grid.dtype)):
        gallery = generated_gallery(cache, rows, dim, stored)
        for scan, threads in itertools.product(unique(grid.scan), unique(grid.threads)):
            yield from _searches(grid, bench, gallery, scan, threads)


def _searches(grid: MatchGrid, bench: Bench, gallery: Gallery, scan: Scan, threads: int) -> Iterator[BenchRecord]:
    """Every search by one open matcher on one gallery; the peers know no prior."""
    rows, cores = gallery.embeddings, threads or bench.machine.cores
    against = MatchLimits(bench.machine, bench.ceilings[threads].bandwidth, threads)
    several = len(set(grid.scan)) > 1
    with open_matcher(rows, DeviceSettings(threads=threads or None, scan=scan)) as matcher:
        peers = open_match_peers(rows, cores) if grid.peers else None
        for count, prior_m in itertools.product(unique(grid.queries), unique(grid.prior_m)):
            queries = generate_rows(count, gallery.dim, "float32", seed=1)
            allowed = len(gallery)
            if prior_m:
                allowed = gallery.rows_in(Prior(CENTRE.latitude_deg, CENTRE.longitude_deg, prior_m)).count
            for k in unique([min(k, allowed) for k in grid.k]):
                prior = f", prior {prior_m:g} m" if prior_m else ""
                words = f"{scan}, {threads or 'all'} threads, {count} queries, k {k}{prior}"
                say(f"{len(gallery)} x {gallery.dim} {rows.dtype}, {words}")
                record, worst = time_search(gallery, matcher, queries, k, bench.rule, against, prior_m)
                record = replace(record, matcher=matcher.name if several else "")
                beside: list[PeerRecord] = []
                if peers is not None:
                    record = replace(record, peak_memory_bytes=None)  # the peers' copies would count as ours
                if peers is not None and not prior_m:
                    kind = f"{f', {scan}' if several else ''}{f', {threads} threads' if threads else ''}"
                    beside = match_peers(peers, matcher, queries, k, grid.seconds, kind)
                reasons = (
                    () if worst <= _TOLERANCE else (f"the best similarity differs by {worst:.2g} from a product's",)
                )
                subject = match_subject(gallery.dim, len(gallery), str(rows.dtype), matcher.name, threads, k)
                yield bench.record(subject, matching=(record,), peers=tuple(beside), reasons=reasons)


def match_subject(dim: int, rows: int, dtype: str, matcher: str, threads: int, k: int) -> Subject:
    """What a search on generated rows is of."""
    return Subject(
        encoder=None,
        dim=dim,
        input_px=None,
        precision=None,
        engine=None,
        matcher=matcher,
        threads=threads,
        bundle_digest=None,
        gallery_rows=rows,
        gallery_dtype=dtype,
        top_k=k,
        heading=None,
        views=0,
        n_images=0,
        image_px=None,
        images_from=None,
    )


def embed_points(grid: EmbedGrid, bench: Bench) -> Iterator[BenchRecord]:
    """Every point of `sweep embed`."""
    bundles = [open_bundle(folder) for folder in grid.bundles]  # all, before any time is spent
    names: dict[str, Path] = {}
    for bundle in bundles:
        size = bundle.manifest.preprocess
        name = f"{bundle.manifest.encoder} at {size.width_px}x{size.height_px} px"
        if name in names:
            raise ConfigError(
                f"{names[name]} and {bundle.folder} are both {name}, and their rows could not be told apart: sweep "
                "each in a run of its own, and compare the reports."
            )
        names[name] = bundle.folder
    for bundle, device in itertools.product(bundles, unique(grid.devices)):
        yield from _bundle_points(grid, bench, bundle, device)


def _bundle_points(grid: EmbedGrid, bench: Bench, bundle: Bundle, device: str) -> Iterator[BenchRecord]:
    manifest, paths = bundle.manifest, list_images(bundle.folder / SELFTEST_IMAGES)
    photos = [to_photo(path) for path in paths]
    image_px = photos[0].rgb.shape[:2]
    precisions = unique(grid.precisions) or [p for p in PRECISIONS if model_name(p) in manifest.files]
    for precision, threads in itertools.product(precisions, unique(grid.threads)):
        with open_engine(bundle, DeviceSettings(device, precision, threads or None)) as engine:
            accuracy = check_selftest(bundle, engine, precision)
            ceiling = bench.ceilings[threads] if device == "cpu" else None
            case = BatchCase(bundle, engine, precision, threads, photos, None, ceiling)
            subject = Subject(
                encoder=manifest.encoder,
                dim=manifest.dim,
                input_px=(manifest.preprocess.height_px, manifest.preprocess.width_px),
                precision=precision,
                engine=engine.name,
                matcher=None,
                threads=threads,
                bundle_digest=bundle.digest,
                gallery_rows=None,
                gallery_dtype=None,
                top_k=0,
                heading=None,
                views=1,
                n_images=len(photos),
                image_px=(image_px[0], image_px[1]),
                images_from="the bundle's self-test",
            )
            for batch in unique(grid.batches):
                say(f"{manifest.encoder}, {engine.name}, {threads or 'all'} threads, batch {batch}")
                record, reason = case.measure(batch, bench.rule)
                left_out = {f"share of the embedding's limit, {engine.name}": reason} if reason else {}
                reasons = invalid_reasons(accuracy)
                yield bench.record(subject, batches=(record,), accuracy=accuracy, reasons=reasons, left_out=left_out)


def unique(values: Iterable[Item]) -> list[Item]:
    """Each value once, in order: a point measured twice could not be told from itself."""
    return list(dict.fromkeys(values))


def _common(subjects: list[Subject]) -> Subject:
    """What is the same for all; None where they differ."""
    first, *others = (dataclasses.asdict(subject) for subject in subjects)
    differing = {name: None for name, value in first.items() if any(other[name] != value for other in others)}
    return replace(subjects[0], **differing)


def collect(points: Iterable[BenchRecord]) -> list[BenchRecord]:
    """All points; an interrupt or an error keeps those before it, and is raised where there are none."""
    records: list[BenchRecord] = []
    try:
        for record in points:
            records.append(record)
    except (KeyboardInterrupt, DphrError) as end:
        if not records:
            raise
        if isinstance(end, DphrError):
            records[-1] = replace(records[-1], failure=str(end))
        else:
            records[-1] = replace(records[-1], interrupted=True)
            say(f"interrupted: {len(records)} points are kept")
    return records


def merge(records: list[BenchRecord]) -> BenchRecord:
    """All points in one record, for tables and pictures; it is valid where all are, and as near as the least near."""
    reasons = tuple(dict.fromkeys(reason for record in records for reason in record.invalid_reasons))
    return replace(
        records[0],
        valid=not reasons,
        invalid_reasons=reasons,
        interrupted=any(record.interrupted for record in records),
        failure=records[-1].failure,
        scenarios=tuple(scenario for record in records for scenario in record.scenarios),
        matching=tuple(match for record in records for match in record.matching),
        subject=_common([record.subject for record in records]),
        accuracy=min(
            (record.accuracy for record in records if record.accuracy is not None),
            key=lambda accuracy: accuracy.selftest_min_cosine - accuracy.selftest_least_cosine,
            default=None,
        ),
        left_out={name: why for record in records for name, why in record.left_out.items()},
        batches=tuple(batch for record in records for batch in record.batches),
        bandwidth_bytes_per_s=max(record.bandwidth_bytes_per_s for record in records),
        matmul_flops_per_s=max(record.matmul_flops_per_s for record in records),
        peers=tuple(peer for record in records for peer in record.peers),
    )
