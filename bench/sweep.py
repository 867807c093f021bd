"""dphr-bench sweep: one figure over a grid of settings, a line of JSON for each point.

    sweep match               gallery rows x D x dtype x threads x queries x k x prior radius, on generated galleries
    sweep embed BUNDLE...     bundle (encoder, image size) x device x precision x threads x batch

Every line is a whole record of the schema with one entry in `matching` or `batches`, so that `dphr-bench compare` reads
it. Every point is checked in the same run: matching against a plain product, embedding against the bundle's self-test.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from dphr_infer.locate.open_engine import open_engine
from dphr_infer.locate.open_matcher import open_matcher
from numpy.typing import NDArray

from bench.cases import BatchCase, MatchLimits, generate_rows, match_record, rounded
from bench.clock import StopRule, measure_overhead_ns, sample_whole
from bench.generated import CENTRE, generated_gallery
from bench.machine import MachineProfile, read_machine
from bench.memory import reset_peak
from bench.peer_runs import MatchPeers, match_peers, open_match_peers
from bench.program import identity
from bench.record import Accuracy, BatchRecord, BenchRecord, MatchRecord, PeerRecord, Subject
from bench.roofline import Ceiling, measure_ceiling
from bench.run import CONDITIONS, flags_of
from bench.stats import MIN_SAMPLES_P90, summarise
from bench.steps import CPU, say
from bench.validity import check_selftest, invalid_reasons
from dphr_infer.errors import ConfigError
from dphr_infer.files.bundle import PRECISIONS, SELFTEST_IMAGES, Bundle, model_name, open_bundle
from dphr_infer.files.gallery import Gallery
from dphr_infer.images.preprocess import list_images, read_image
from dphr_infer.matchers.base import Matcher

_TOLERANCE = 1e-4
Item = TypeVar("Item")
_CHECKED_ROWS_AT_ONCE = 65536


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """What every point shares; `ceilings` are those of each number of threads, 0 for all cores."""

    machine: MachineProfile
    ceilings: Mapping[int, Ceiling]
    overhead_ns: float
    rule: StopRule

    def record(
        self,
        subject: Subject,
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
            flags=flags_of(self.machine, ()),
            left_out=dict(left_out),
            program=identity(),
            machine=self.machine,
            subject=subject,
            scenarios=(),
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


def open_bench(seconds: float, noise: float, threads: Iterable[int]) -> Bench:
    """Measure the machine's ceilings, for each number of threads; 0 is all cores."""
    identity()  # what is on the disk now, not at the end
    machine = read_machine()
    say("memory bandwidth, matrix products, the bench's own overhead")
    ceilings = {number: measure_ceiling(machine, number) for number in unique(threads)}
    return Bench(machine, ceilings, measure_overhead_ns(), StopRule(seconds, noise, MIN_SAMPLES_P90))


def _best_similarity(
    gallery: Gallery, queries: NDArray[np.float32], ranges: tuple[tuple[int, int], ...] | None
) -> NDArray[np.float32]:
    """The highest similarity of each query, float32 (Q,), by a plain product."""
    best = np.full(len(queries), -2, np.float32)
    for start, stop in ((0, len(gallery)),) if ranges is None else ranges:
        for first in range(start, stop, _CHECKED_ROWS_AT_ONCE):
            rows = gallery.embeddings[first : min(stop, first + _CHECKED_ROWS_AT_ONCE)].astype(np.float32)
            best = np.maximum(best, (queries @ rows.T).max(axis=1))
    return best


@dataclass(frozen=True, slots=True, eq=False)
class MatchCase:
    """An open matcher on a generated gallery.

    Attributes:
        threads: of the matcher; 0 takes all cores.
        peers: others on the same rows; None where none were asked for.
    """

    gallery: Gallery
    matcher: Matcher
    threads: int
    peers: MatchPeers | None


def _match_point(
    bench: Bench,
    case: MatchCase,
    queries: NDArray[np.float32],
    k: int,
    prior_m: float,
    ranges: tuple[tuple[int, int], ...] | None,
) -> BenchRecord:
    """One point; `ranges` are the rows that the prior allows, None all of them."""
    gallery, matcher = case.gallery, case.matcher
    reset_peak()
    filter_ms = None
    if ranges is not None:
        filter_ms = sample_whole(lambda: gallery.allowed_rows(CENTRE, prior_m), bench.rule)
    allowed = len(gallery) if ranges is None else sum(stop - start for start, stop in ranges)
    samples_ms = sample_whole(lambda: matcher.match(queries, k, ranges), bench.rule)
    record = match_record(
        gallery.embeddings,
        len(queries),
        k,
        samples_ms,
        MatchLimits(bench.machine, bench.ceilings[case.threads].bandwidth, case.threads),
        generated=True,
        allowed_rows=None if ranges is None else allowed,
    )
    # The peers' copies of the gallery would count as ours.
    if case.peers is not None:
        record = dataclasses.replace(record, peak_memory_mb=None)
    if filter_ms is not None:
        record = dataclasses.replace(
            record, prior_m=prior_m, filter=summarise(filter_ms), filter_samples_ms=rounded(filter_ms)
        )
    best = matcher.match(queries, k, ranges).similarity[:, 0]
    worst = float(np.abs(best - _best_similarity(gallery, queries, ranges)).max())
    reasons = () if worst <= _TOLERANCE else (f"the best similarity differs by {worst:.2g} from a plain product's",)
    peers: list[PeerRecord] = []
    if case.peers is not None and ranges is None:  # the others know no prior
        words = f", {case.threads} threads" if case.threads else ""
        peers = match_peers(case.peers, matcher, queries, k, bench.rule.seconds, words)
    return bench.record(_match_subject(case, k), matching=(record,), peers=tuple(peers), reasons=reasons)


def _match_subject(case: MatchCase, k: int) -> Subject:
    gallery, matcher = case.gallery, case.matcher
    return Subject(
        encoder=None,
        dim=gallery.dim,
        input_px=None,
        precision=None,
        engine=None,
        matcher=matcher.name,
        threads=case.threads,
        bundle_digest=None,
        gallery_rows=len(gallery),
        gallery_dtype=str(gallery.embeddings.dtype),
        top_k=k,
        heading=None,
        views=0,
        n_images=0,
        image_px=None,
        images_from=None,
    )


def match_points(arguments: argparse.Namespace, bench: Bench) -> Iterator[BenchRecord]:
    """Every point of `sweep match`, smallest galleries first."""
    galleries = itertools.product(sorted(set(arguments.rows)), unique(arguments.dim), unique(arguments.dtype))
    for (rows, dim, stored), threads in itertools.product(galleries, unique(arguments.threads)):
        gallery = generated_gallery(arguments.cache, rows, dim, stored)
        with open_matcher(gallery.embeddings, scan=arguments.scan, threads=threads or None) as matcher:
            peers = open_match_peers(gallery.embeddings, threads or bench.machine.cores) if arguments.peers else None
            case = MatchCase(gallery, matcher, threads, peers)
            for count, prior_m in itertools.product(unique(arguments.queries), unique(arguments.prior_m)):
                queries = generate_rows(count, dim, "float32", seed=1)
                ranges = gallery.allowed_rows(CENTRE, prior_m) if prior_m else None
                allowed = rows if ranges is None else sum(stop - start for start, stop in ranges)
                for k in unique([min(k, allowed) for k in arguments.k]):
                    prior = f", prior {prior_m:g} m" if prior_m else ""
                    say(f"{rows} x {dim} {stored}, {threads or 'all'} threads, {count} queries, k {k}{prior}")
                    yield _match_point(bench, case, queries, k, prior_m, ranges)
            case = peers = None  # the next gallery needs their memory


def embed_points(arguments: argparse.Namespace, bench: Bench) -> Iterator[BenchRecord]:
    """Every point of `sweep embed`."""
    bundles = [open_bundle(folder) for folder in arguments.bundles]  # all, before any time is spent
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
    for bundle, device in itertools.product(bundles, unique(arguments.devices)):
        yield from _bundle_points(arguments, bench, bundle, device)


def _bundle_points(arguments: argparse.Namespace, bench: Bench, bundle: Bundle, device: str) -> Iterator[BenchRecord]:
    manifest, paths = bundle.manifest, list_images(bundle.folder / SELFTEST_IMAGES)
    images = [read_image(path) for path in paths]
    precisions = unique(arguments.precisions or []) or [p for p in PRECISIONS if model_name(p) in manifest.files]
    for precision, threads in itertools.product(precisions, unique(arguments.threads)):
        with open_engine(bundle, precision, device, threads or None) as engine:
            accuracy = check_selftest(bundle, engine, precision)
            case = BatchCase(
                manifest.encoder,
                manifest.preprocess,
                engine,
                bundle.model_path(precision),
                precision,
                threads,
                images,
                [None] * len(images),
                None,
                bench.ceilings[threads] if device == CPU else None,
            )
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
                n_images=len(images),
                image_px=images[0].shape[:2],
                images_from="the bundle's self-test",
            )
            for batch in unique(arguments.batches):
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
    return dataclasses.replace(subjects[0], **differing)


def merge(records: list[BenchRecord]) -> BenchRecord:
    """All points in one record, for tables and pictures; it is valid where all are, and as near as the least near."""
    reasons = tuple(dict.fromkeys(reason for record in records for reason in record.invalid_reasons))
    return dataclasses.replace(
        records[0],
        valid=not reasons,
        invalid_reasons=reasons,
        interrupted=any(record.interrupted for record in records),
        failure=records[-1].failure,
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
