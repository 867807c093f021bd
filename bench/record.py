"""What one run of the benchmark measured, as plain values: version 3 of the schema "dphr-bench".

All durations are milliseconds unless a name says otherwise. `BenchRecord.to_json` is the whole format; a sweep writes
one such object a line, each with one point of the sweep in `matching` or `batches`.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
from dataclasses import dataclass, field
from typing import Any

from bench.machine.state import MachineState
from bench.sampling import MIN_CALLS, WARM_UP_CALLS
from dphr_infer.measure.clock import CLOCK
from dphr_infer.measure.machine import Machine
from dphr_infer.measure.stats import LatencySummary

SCHEMA = "dphr-bench"
SCHEMA_VERSION = 3
SINGLE_STREAM, MULTI_STREAM, OFFLINE = "single-stream", "multi-stream", "offline"
CAMERA, ENDURANCE = "camera", "endurance"
# Not of a run: a frame in one launch of the GPU, by dphr-bench gpu pipeline; a step of the flight's filter, by sweep
# filter; frames of flights, by dphr-bench flight.
GPU_FRAME, FILTER_STEP, FLIGHT = "gpu-frame", "filter-step", "flight"
CONDITIONS = (
    f"{WARM_UP_CALLS} warm-up calls before each case are not counted (2 of batches of photos); at least {MIN_CALLS} "
    f"calls; garbage collection is off while timing; clock {CLOCK}; percentiles are nearest-rank, p90 from 64 samples "
    "on, p99 from 662 and p99.9 from 6636. Warm: engine, matcher and files have been used before, except where a "
    "figure is called cold. Samples of scenarios taken while the machine was throttled are discarded and counted."
)


@dataclass(frozen=True, slots=True)
class Subject:
    """What was measured. Sizes of images are of the first; `views` are embedded for each photo.

    What is None was not there: a gallery, or, in a sweep over generated galleries, a bundle; or it differs between the
    points of a sweep that are shown together.
    """

    encoder: str | None = None
    dim: int | None = None
    input_px: tuple[int, int] | None = None
    precision: str | None = None
    engine: str | None = None
    matcher: str | None = None
    threads: int | None = None
    bundle_digest: str | None = None
    gallery_rows: int | None = None
    gallery_dtype: str | None = None
    top_k: int | None = None
    heading: str | None = None
    views: int | None = None
    n_images: int | None = None
    image_px: tuple[int, int] | None = None
    images_from: str | None = None
    prior: str | None = None
    rectify: str | None = None
    map: str | None = None


@dataclass(frozen=True, slots=True)
class ScenarioRecord:
    """One scenario.

    Attributes:
        name: one of those above.
        settings: what it was asked for.
        latency: of `samples_ms`; None where nothing was left.
        samples_ms: in the order of the calls. single-stream, endurance: a photo from file to position; multi-stream,
            offline: a batch; camera: the age of each answer, from the moment when its frame was due.
        stages, stage_samples_ms: of the same photos, in order; empty where the scenario has none.
        extra: what else it found; see bench/README.md.
    """

    name: str
    settings: dict[str, Any]
    latency: LatencySummary | None
    samples_ms: tuple[float, ...]
    stages: dict[str, LatencySummary] = field(default_factory=dict)
    stage_samples_ms: dict[str, tuple[float, ...]] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EmbedLimit:
    """The least time of one batch through the model, by the measured ceilings of this machine.

    Attributes:
        flops: of the batch: two for each multiplication and addition of Conv, MatMul and Gemm.
        least_bytes: weights, input and output, each once.
        most_bytes: and every tensor between two operators written and read once, which fused operators avoid.
        arithmetic_ms, bandwidth_ms: flops and least_bytes over the measured rates.
        floor_ms, bound: the later of the two, and which that is.
        share: floor_ms over the measured p50.
    """

    flops: int
    least_bytes: int
    most_bytes: int
    arithmetic_ms: float
    bandwidth_ms: float
    floor_ms: float
    bound: str
    share: float


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """Throughput of one batch size.

    Attributes:
        encoder, engine, input_width_px, input_height_px: what embeds, and the size that it takes.
        embed: of one batch of images at model size through the engine.
        embed_limit: of that; None where the graph could not be counted.
        locate: of `locate_each` on as many decoded photos: prepare, embed, match, estimate; None without a gallery.
        peak_memory_bytes: of the process while this was measured; None where it is not told.
    """

    batch: int
    encoder: str
    engine: str
    input_width_px: int
    input_height_px: int
    precision: str
    threads: int
    embed: LatencySummary
    embed_images_per_s: float
    embed_limit: EmbedLimit | None
    embed_samples_ms: tuple[float, ...]
    locate: LatencySummary | None
    locate_images_per_s: float | None
    locate_samples_ms: tuple[float, ...]
    peak_memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class MatchRecord:
    """Matching alone.

    Attributes:
        read_bytes: size of the embeddings that may be matched, each read once.
        limit_ms: read_bytes / measured bandwidth.
        bandwidth_share: limit_ms / p50.
        in_cache: what is read fits in the last-level cache, so that the limit does not bind.
        peak_memory_bytes: of the process while this was measured; None where it is not told.
        threads: of the matcher; 0 takes all cores.
        matcher: its name, where a record holds several.
        gpu_ms: median of the GPU's own time by its events, copies included; None on a CPU.
        widened, rescanned: of int8 scans, in all calls: see the matchers.
        prior_m: radius of the position prior; None without.
        allowed_rows: that the prior leaves.
        filter: of the search for these rows; None without a prior.
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
    samples_ms: tuple[float, ...]
    peak_memory_bytes: int | None
    threads: int = 0
    matcher: str = ""
    gpu_ms: float | None = None
    widened: int = 0
    rescanned: int = 0
    prior_m: float | None = None
    allowed_rows: int | None = None
    filter: LatencySummary | None = None
    filter_samples_ms: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Whether the measured engine and gallery still answer rightly.

    Attributes:
        selftest_min_cosine, selftest_least_cosine: of the bundle's pictures to its own embeddings, and the gate.
        selftest_images: how many.
        recall: share of the photos with truth whose estimate lies within `within_m`; None without a truth.
        least_recall: the gate for it.
        photos_with_truth: how many.
        median_error_m: of them.
        answers_differing: timed photos whose best place was not the same every time, in one piece and stage by stage.
    """

    selftest_min_cosine: float
    selftest_least_cosine: float
    selftest_images: int
    recall: float | None = None
    least_recall: float | None = None
    within_m: float | None = None
    photos_with_truth: int = 0
    median_error_m: float | None = None
    answers_differing: int = 0


@dataclass(frozen=True, slots=True)
class PeerRecord:
    """Another way to do the same, in the same run, call by call in turns with ours.

    Attributes:
        task: "matching" or "embedding", with its sizes.
        name, version: of the peer; ours has the version of dphr.
        latency: None where it failed.
        times_ours: median over that of ours, and its quartiles over the pairs of calls.
        recall: share of our answers that it gave; None for embedding.
        failure: why there are no figures; empty where there are.
    """

    task: str
    name: str
    version: str
    latency: LatencySummary | None
    times_ours: float | None
    times_ours_quartiles: tuple[float, float] | None
    recall: float | None
    failure: str = ""


@dataclass(frozen=True, slots=True)
class BenchRecord:
    """One run.

    Attributes:
        conditions: how the figures were taken, in words.
        valid, invalid_reasons: whether the figures may be believed, and why not.
        interrupted: the run was ended early; it holds what was measured until then.
        failure: the error that ended it early, in words; empty where none did.
        machine, state: what was measured on, and what it was busy with as the run began.
        flags: what a reader must know of the machine's state, such as a battery or throttling.
        left_out: {what was asked for: why it was not measured}.
        program: version and digest of the code that ran, by `program.identity`.
        accuracy: None where the bundle was not checked (a sweep without one).
        cold_first_ms: the first photo after engine and matcher were opened; None where none was located.
        power: {"sources", "missing", "total_rails", "mean_w"}; None where nothing was recorded.
        timeline: [{"t_s", "temperature_c", "clock_mhz", "power_w", "throttled"}], seconds since the recording began.
        startup_ms: {"cold", "warm": summary, "samples_ms", "exit_p50", "peak_memory_bytes"} of `dphr-infer locate`.
        peak_memory_bytes: of this process in the checks and scenarios; None where the system does not tell.
        bandwidth_bytes_per_s, matmul_flops_per_s: read bandwidth and float32 products as measured, by all cores; in a
            sweep by the threads of its point.
        overhead_ns: what the bench itself spends on a sample.
    """

    date: str
    valid: bool
    invalid_reasons: tuple[str, ...]
    flags: tuple[str, ...]
    program: str
    machine: Machine
    state: MachineState
    subject: Subject
    bandwidth_bytes_per_s: float
    matmul_flops_per_s: float
    overhead_ns: float
    conditions: str = CONDITIONS
    interrupted: bool = False
    failure: str = ""
    left_out: dict[str, str] = field(default_factory=dict)
    scenarios: tuple[ScenarioRecord, ...] = ()
    matching: tuple[MatchRecord, ...] = ()
    batches: tuple[BatchRecord, ...] = ()
    peers: tuple[PeerRecord, ...] = ()
    accuracy: Accuracy | None = None
    cold_first_ms: float | None = None
    power: dict[str, Any] | None = None
    timeline: tuple[dict[str, Any], ...] = ()
    startup_ms: dict[str, Any] | None = None
    peak_memory_bytes: int | None = None

    def scenario(self, name: str) -> ScenarioRecord | None:
        """The scenario of that name, if it was measured."""
        return next((found for found in self.scenarios if found.name == name), None)

    def to_json(self) -> dict[str, Any]:
        """As JSON values, with the name and version of the schema; what is not finite is null."""
        content: dict[str, Any] = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, **dataclasses.asdict(self)}
        finite: dict[str, Any] = _finite(content)
        return finite

    def to_line(self) -> str:
        """As one line of JSON."""
        return json.dumps(self.to_json(), allow_nan=False) + "\n"


def now() -> str:
    """The date of a record, UTC."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
