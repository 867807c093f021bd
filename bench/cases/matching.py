"""Matching alone beside its limit: one read of the rows at the measured bandwidth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.cases.galleries import CENTRE
from bench.machine.roofline import limit_ms
from bench.record import MatchRecord
from bench.sampling import StopRule, rounded, sample_whole
from dphr_infer.files.gallery import Gallery
from dphr_infer.locate.devices import open_matcher
from dphr_infer.locate.settings import DeviceSettings
from dphr_infer.matchers.base import Matcher
from dphr_infer.measure.machine import Machine
from dphr_infer.measure.memory import peak_bytes, reset_peak
from dphr_infer.measure.stats import summarise
from dphr_infer.types import Prior, RowRanges

MATCH_QUERIES = (1, 8)
_CHECKED_ROWS_AT_ONCE = 65536


@dataclass(frozen=True, slots=True)
class MatchLimits:
    """What a search is held against: the bandwidth of the matcher's threads, of which 0 are all cores."""

    machine: Machine
    bandwidth: float
    threads: int = 0


def match_record(
    gallery: NDArray[Any],
    n_queries: int,
    k: int,
    samples_ms: NDArray[np.float64],
    against: MatchLimits,
    generated: bool,
    ranges: RowRanges | None = None,
) -> MatchRecord:
    """The record of a measured search, with its limit; `ranges` of the gallery are read, None reads all."""
    allowed = None if ranges is None else ranges.count
    read_bytes = (len(gallery) if allowed is None else allowed) * gallery.shape[1] * gallery.dtype.itemsize
    latency, least_ms = summarise(samples_ms), limit_ms(read_bytes, against.bandwidth)
    return MatchRecord(
        rows=len(gallery),
        dim=gallery.shape[1],
        dtype=str(gallery.dtype),
        queries=n_queries,
        k=k,
        generated=generated,
        latency=latency,
        read_bytes=read_bytes,
        limit_ms=least_ms,
        bandwidth_share=least_ms / latency.p50_ms,
        in_cache=read_bytes < against.machine.last_level_cache_bytes,
        samples_ms=rounded(samples_ms),
        peak_memory_bytes=peak_bytes(),
        threads=against.threads,
        allowed_rows=allowed,
    )


def time_matching(
    gallery: NDArray[Any],
    queries: NDArray[np.float32],
    k: int,
    rule: StopRule,
    against: MatchLimits,
) -> MatchRecord:
    """Match all queries at once, again and again, against the whole gallery."""
    reset_peak()
    with open_matcher(gallery, DeviceSettings(threads=against.threads or None)) as matcher:
        samples_ms = sample_whole(partial(matcher.match, queries, k), rule)
    return match_record(gallery, len(queries), k, samples_ms, against, generated=False)


def time_search(
    gallery: Gallery,
    matcher: Matcher,
    queries: NDArray[np.float32],
    k: int,
    rule: StopRule,
    against: MatchLimits,
    prior_m: float = 0.0,
) -> tuple[MatchRecord, float]:
    """An open matcher on a generated gallery, within `prior_m` of its centre; 0 is no prior.

    Returns:
        the record, and the largest difference of a best similarity from that of a plain product.
    """
    reset_peak()
    filter_ms: NDArray[np.float64] | None = None
    ranges: RowRanges | None = None
    if prior_m:
        prior = Prior(CENTRE.latitude_deg, CENTRE.longitude_deg, prior_m)
        ranges = gallery.rows_in(prior)
        filter_ms = sample_whole(partial(gallery.rows_in, prior), rule)
    samples_ms = sample_whole(partial(matcher.match, queries, k, ranges), rule)
    record = match_record(gallery.embeddings, len(queries), k, samples_ms, against, True, ranges)
    if filter_ms is not None:
        summary, samples = summarise(filter_ms), rounded(filter_ms)
        record = replace(record, prior_m=prior_m, filter=summary, filter_samples_ms=samples)
    best = matcher.match(queries, k, ranges).similarity[:, 0]
    return record, float(np.abs(best - _best_similarity(gallery, queries, ranges)).max())


def _best_similarity(gallery: Gallery, queries: NDArray[np.float32], ranges: RowRanges | None) -> NDArray[np.float32]:
    """The highest similarity of each query, float32 (Q,), by a plain product."""
    best = np.full(len(queries), -2, np.float32)
    for start, stop in ((0, len(gallery)),) if ranges is None else ranges.ranges:
        for first in range(start, stop, _CHECKED_ROWS_AT_ONCE):
            rows = gallery.embeddings[first : min(stop, first + _CHECKED_ROWS_AT_ONCE)].astype(np.float32)
            best = np.maximum(best, (queries @ rows.T).max(axis=1))
    return best
