"""What one run of the benchmark measured, as plain values."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from bench.machine import MachineProfile
from bench.stats import LatencySummary

SCHEMA = "dphr-bench"
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Subject:
    """What was measured. Sizes of images are of the first; `views` are embedded for each photo."""

    encoder: str
    dim: int
    input_px: tuple[int, int]
    precision: str
    engine: str
    matcher: str
    threads: int
    bundle_digest: str
    gallery_rows: int
    gallery_dtype: str
    top_k: int
    heading: str
    views: int
    n_images: int
    image_px: tuple[int, int]
    images_from: str


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """Throughput of one batch size.

    Attributes:
        embed: of one batch of images at model size through the engine.
        locate: of `locate_many` on as many decoded photos: prepare, embed, match, estimate.
    """

    batch: int
    embed: LatencySummary
    embed_images_per_s: float
    locate: LatencySummary
    locate_images_per_s: float


@dataclass(frozen=True, slots=True)
class MatchRecord:
    """Matching alone.

    Attributes:
        read_bytes: size of the gallery's embeddings, each read once.
        limit_ms: read_bytes / measured bandwidth.
        bandwidth_share: limit_ms / p50.
        in_cache: the gallery fits in the last-level cache, so that the limit does not bind.
    """

    rows: int
    dim: int
    dtype: str
    queries: int
    k: int
    generated: bool
    latency: LatencySummary
    read_bytes: int
    limit_ms: float
    bandwidth_share: float
    in_cache: bool


@dataclass(frozen=True, slots=True)
class BenchRecord:
    """One run.

    Attributes:
        conditions: how the figures were taken, in words.
        stages: {stage: summary}, in order.
        end_to_end: file to estimate, in one piece.
        difference_p50_ms: median over photos of end to end minus the sum of its stages.
        samples_ms: {stage or "end to end": every sample}, in the order of the calls.
        bandwidth_bytes_per_s: read bandwidth as measured.
    """

    date: str
    conditions: str
    machine: MachineProfile
    subject: Subject
    stages: dict[str, LatencySummary]
    end_to_end: LatencySummary
    difference_p50_ms: float
    batches: tuple[BatchRecord, ...]
    matching: tuple[MatchRecord, ...]
    bandwidth_bytes_per_s: float
    samples_ms: dict[str, tuple[float, ...]]

    def to_json(self) -> dict[str, Any]:
        """As JSON values, with the name and version of the schema."""
        return {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, **dataclasses.asdict(self)}
