"""The cases beside the scenarios: throughput by batch size, and matching alone, each beside its limit."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from dphr_infer.locate.open_matcher import open_matcher
from numpy.typing import NDArray

from bench.clock import StopRule, sample_whole
from bench.machine import MachineProfile, available_memory_bytes
from bench.memory import peak_mb, reset_peak
from bench.record import BatchRecord, EmbedLimit, MatchRecord
from bench.roofline import Ceiling, limit_ms
from bench.stats import percentile, summarise
from dphr_infer.engines.base import Engine
from dphr_infer.errors import ConfigError, DphrError
from dphr_infer.images.preprocess import Preprocess
from dphr_infer.locate.embedder import Embedder
from dphr_infer.locate.localizer import Localizer
from export.graph.cost import count_cost

MATCH_QUERIES = (1, 8)
MATCH_DTYPES = ("float32", "float16")
_ROWS_AT_ONCE = 16384


def rounded(samples_ms: NDArray[np.float64]) -> tuple[float, ...]:
    """Samples for a record, to 0.1 microseconds."""
    return tuple(np.round(samples_ms, 4).tolist())


def embed_limit(model_path: Path, batch: int, ceiling: Ceiling, embed_ms: NDArray[np.float64]) -> EmbedLimit:
    """What the graph costs at this batch size, as a time by the machine's ceilings and a share of the measured p50.

    Raises:
        ExportError: the graph cannot be counted.
        MissingPackageError: onnx is not installed.
    """
    cost = count_cost(model_path, batch)
    arithmetic_ms = 1e3 * cost.flops / ceiling.flops_per_s
    bandwidth_ms = limit_ms(cost.least_bytes, ceiling.bandwidth)
    floor_ms = max(arithmetic_ms, bandwidth_ms)
    return EmbedLimit(
        flops=cost.flops,
        least_bytes=cost.least_bytes,
        most_bytes=cost.most_bytes,
        arithmetic_ms=arithmetic_ms,
        bandwidth_ms=bandwidth_ms,
        floor_ms=floor_ms,
        bound="arithmetic" if arithmetic_ms >= bandwidth_ms else "bandwidth",
        share=floor_ms / percentile(embed_ms, 50),
    )


@dataclass(frozen=True, slots=True, eq=False)
class BatchCase:
    """One model on one engine, whatever the batch.

    Attributes:
        images: at least one photo, decoded; they repeat where a batch needs more.
        localizer: None where there is no gallery; only embedding is measured then.
        ceiling: None where the engine runs elsewhere than what was measured.
    """

    encoder: str
    preprocess: Preprocess
    engine: Engine
    model_path: Path
    precision: str
    threads: int
    images: Sequence[NDArray[np.uint8]]
    yaws_deg: Sequence[float | None]
    localizer: Localizer | None
    ceiling: Ceiling | None

    def measure(self, batch: int, rule: StopRule) -> tuple[BatchRecord, str]:
        """Throughput at one batch size, and why the limit is unknown where it is."""
        chosen = list(itertools.islice(itertools.cycle(self.images), batch))
        yaws = list(itertools.islice(itertools.cycle(self.yaws_deg), batch))
        reset_peak()
        embedder = Embedder(self.preprocess, self.engine, batch)
        views = embedder.prepare(chosen)
        embed = sample_whole(partial(embedder.embed_prepared, views), rule)
        locate = None
        if self.localizer is not None:
            locate = sample_whole(partial(self.localizer.locate_many, chosen, yaws), rule)
        limit, reason = None, "the ceilings are measured on the CPU, and the engine runs on a GPU"
        try:
            if self.ceiling is not None:
                limit, reason = embed_limit(self.model_path, batch, self.ceiling, embed), ""
        except DphrError as error:
            reason = str(error)
        embed_summary, locate_summary = summarise(embed), None if locate is None else summarise(locate)
        record = BatchRecord(
            batch=batch,
            encoder=self.encoder,
            engine=self.engine.name,
            input_width_px=self.preprocess.width_px,
            input_height_px=self.preprocess.height_px,
            precision=self.precision,
            threads=self.threads,
            embed=embed_summary,
            embed_images_per_s=1e3 * batch / embed_summary.p50_ms,
            embed_limit=limit,
            embed_samples_ms=rounded(embed),
            locate=locate_summary,
            locate_images_per_s=None if locate_summary is None else 1e3 * batch / locate_summary.p50_ms,
            locate_samples_ms=() if locate is None else rounded(locate),
            peak_memory_mb=peak_mb(),
        )
        return record, reason


def generate_rows(rows: int, dim: int, dtype: str, seed: int) -> NDArray[Any]:
    """Random directions, float32 or float16 (rows, dim), unit length.

    Raises:
        ConfigError: they would take more than half of the free memory.
    """
    size, free = rows * dim * np.dtype(dtype).itemsize, available_memory_bytes()
    if free and size > free / 2:
        raise ConfigError(
            f"A generated gallery of {rows} rows of {dim} {dtype} values takes {size / 1e9:.1f} GB, and "
            f"{free / 1e9:.1f} GB are free; half of that may be used. Ask for fewer --match-rows."
        )
    generator = np.random.default_rng(seed)
    gallery = np.empty((rows, dim), dtype=dtype)
    for start in range(0, rows, _ROWS_AT_ONCE):
        part = generator.standard_normal((min(_ROWS_AT_ONCE, rows - start), dim), dtype=np.float32)
        gallery[start : start + len(part)] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return gallery


@dataclass(frozen=True, slots=True)
class MatchLimits:
    """What a search is held against: the bandwidth of the matcher's threads, of which 0 are all cores."""

    machine: MachineProfile
    bandwidth: float
    threads: int = 0


def time_matching(
    gallery: NDArray[Any],
    queries: NDArray[np.float32],
    k: int,
    rule: StopRule,
    against: MatchLimits,
    generated: bool,
) -> MatchRecord:
    """Match all queries at once, again and again, against the whole gallery."""
    reset_peak()
    with open_matcher(gallery, threads=against.threads or None) as matcher:
        samples_ms = sample_whole(partial(matcher.match, queries, k), rule)
    return match_record(gallery, len(queries), k, samples_ms, against, generated)


def match_record(
    gallery: NDArray[Any],
    n_queries: int,
    k: int,
    samples_ms: NDArray[np.float64],
    against: MatchLimits,
    generated: bool,
    allowed_rows: int | None = None,
) -> MatchRecord:
    """The record of a measured search, with its limit; `allowed_rows` of the gallery are read, None reads all."""
    rows = len(gallery) if allowed_rows is None else allowed_rows
    read_bytes = rows * gallery.shape[1] * gallery.dtype.itemsize
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
        peak_memory_mb=peak_mb(),
        threads=against.threads,
        allowed_rows=allowed_rows,
    )


def time_generated_matching(
    rows: int, dim: int, k: int, rule: StopRule, against: MatchLimits
) -> tuple[MatchRecord, ...]:
    """Matching against random galleries of both stored types, for each count in MATCH_QUERIES.

    Raises:
        ConfigError: k is above `rows`, or the gallery does not fit in memory.
    """
    if k > rows:
        raise ConfigError(f"--match-rows is {rows}, but {k} matches are asked for: give at least {k} rows.")
    records = []
    for dtype in MATCH_DTYPES:
        gallery = generate_rows(rows, dim, dtype, seed=0)
        for count in MATCH_QUERIES:
            queries = generate_rows(count, dim, "float32", seed=1)
            records.append(time_matching(gallery, queries, k, rule, against, generated=True))
    return tuple(records)
