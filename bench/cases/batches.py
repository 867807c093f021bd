"""Throughput by batch size: embedding beside its limit, and everything but decoding."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.machine.roofline import Ceiling, limit_ms
from bench.record import BatchRecord, EmbedLimit
from bench.sampling import StopRule, rounded, sample_whole
from dphr_infer.engines.base import Engine
from dphr_infer.engines.embedder import Embedder
from dphr_infer.errors import DphrError
from dphr_infer.files.bundle import Bundle
from dphr_infer.images.photo import Photo
from dphr_infer.locate.localizer import Localizer
from dphr_infer.measure.memory import peak_bytes, reset_peak
from dphr_infer.measure.stats import percentile, summarise
from dphr_infer.types import Precision
from export.graph.cost import count_cost


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
        photos: at least one, decoded; they repeat where a batch needs more.
        localizer: None where there is no gallery; only embedding is measured then.
        ceiling: None where the engine runs elsewhere than what was measured.
    """

    bundle: Bundle
    engine: Engine
    precision: Precision
    threads: int
    photos: Sequence[Photo]
    localizer: Localizer | None
    ceiling: Ceiling | None

    def measure(self, batch: int, rule: StopRule) -> tuple[BatchRecord, str]:
        """Throughput at one batch size, and why the limit is unknown where it is."""
        chosen = list(itertools.islice(itertools.cycle(self.photos), batch))
        size, path = self.bundle.manifest.preprocess, self.bundle.model_path(self.precision)
        reset_peak()
        embedder = Embedder(size, self.engine, batch)
        views = embedder.prepare([photo.rgb for photo in chosen])
        embed = sample_whole(partial(embedder.embed_prepared, views), rule)
        locate = None
        if (localizer := self.localizer) is not None:
            locate = sample_whole(lambda: list(localizer.locate_each(chosen)), rule)
        limit, reason = None, "the ceilings are measured on the CPU, and the engine runs on a GPU"
        try:
            if self.ceiling is not None:
                limit, reason = embed_limit(path, batch, self.ceiling, embed), ""
        except DphrError as error:
            reason = str(error)
        embed_summary, locate_summary = summarise(embed), None if locate is None else summarise(locate)
        record = BatchRecord(
            batch=batch,
            encoder=self.bundle.manifest.encoder,
            engine=self.engine.name,
            input_width_px=size.width_px,
            input_height_px=size.height_px,
            precision=self.precision,
            threads=self.threads,
            embed=embed_summary,
            embed_images_per_s=1e3 * batch / embed_summary.p50_ms,
            embed_limit=limit,
            embed_samples_ms=rounded(embed),
            locate=locate_summary,
            locate_images_per_s=None if locate_summary is None else 1e3 * batch / locate_summary.p50_ms,
            locate_samples_ms=() if locate is None else rounded(locate),
            peak_memory_bytes=peak_bytes(),
        )
        return record, reason
