"""sweep match: searches of generated galleries."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

from bench.cases.galleries import CENTRE, default_cache, generate_rows, generated_gallery
from bench.cases.matching import MatchLimits, time_search
from bench.machine.program import say
from bench.peers.runs import match_peers, open_match_peers
from bench.record import BenchRecord, PeerRecord
from bench.request import MatchGrid
from bench.sweeps.point import Bench, match_subject, unique
from dphr_infer.files.gallery import Gallery
from dphr_infer.locate.devices import open_matcher
from dphr_infer.locate.settings import DeviceSettings, Scan
from dphr_infer.types import Prior

_TOLERANCE = 1e-4


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
