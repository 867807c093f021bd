"""The scenarios of MLPerf's kind: one photo after the other, batches, and everything as fast as it goes.

Each locates by `rig.Rig`, the code of `dphr-infer locate`. A scenario gives `Raw`; `to_record` leaves out what
was measured while the machine was throttled, and summarises the rest.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.cases.rig import Rig
from bench.machine.power import PowerSample
from bench.record import MULTI_STREAM, OFFLINE, SINGLE_STREAM, ScenarioRecord
from bench.sampling import MIN_CALLS, WARM_UP_CALLS, StopRule, repeat_until, rounded, sample
from dphr_infer.locate.gpu_pipeline import STAGES, GpuPipeline
from dphr_infer.measure.clock import now_ms
from dphr_infer.measure.stats import LatencySummary, half_width_share, summarise

_GPU_RUNS = 50


@dataclass(frozen=True, slots=True, eq=False)
class Raw:
    """What a scenario measured, before anything is left out.

    Attributes:
        start_ms, duration_ms: float64 (n,) of each sample, by `clock.now_ms`.
        stage_ms: {stage: float64 (n,)}.
        photos: located while it ran, for the energy of one; what is not counted as a sample too.
        stopped: "noise", "time", "interrupt", or "whole" where there was no more.
    """

    name: str
    settings: dict[str, Any]
    start_ms: NDArray[np.float64]
    duration_ms: NDArray[np.float64]
    stage_ms: dict[str, NDArray[np.float64]]
    photos: int
    stopped: str
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def span_s(self) -> tuple[float, float]:
        """When the first sample began and the last ended, in seconds of the same clock."""
        return float(self.start_ms[0]) / 1e3, float((self.start_ms + self.duration_ms).max()) / 1e3


def rule_settings(rule: StopRule) -> dict[str, Any]:
    """A rule as settings of a scenario."""
    return {"seconds": rule.seconds, "noise": rule.half_width, "least": rule.least}


def warm_up(rig: Rig) -> None:
    """Locate some photos that are not counted."""
    for path in itertools.islice(itertools.cycle(rig.paths), WARM_UP_CALLS):
        rig.locate(path)


def single_stream(rig: Rig, rule: StopRule) -> Raw:
    """Photos in turn, each once in one piece and once stage by stage; which comes first alternates.

    `extra["answers_differing"]` counts the photos whose best place was not the same every time.
    """
    stage_rows: list[list[float]] = []
    starts, durations = array("d"), array("d")
    first_answer: dict[Path, int] = {}
    differing: set[Path] = set()

    def in_stages(path: Path) -> list[float]:
        estimate, stages = rig.locate_in_stages(path)
        if first_answer.setdefault(path, estimate.places[0].row) != estimate.places[0].row:
            differing.add(path)
        return stages

    def measure() -> None:
        count = len(durations)
        path = rig.paths[count % len(rig.paths)]
        stages_first = count // len(rig.paths) % 2 == 1
        stages = in_stages(path) if stages_first else []
        start_ms = now_ms()
        estimate = rig.locate(path)
        stop_ms = now_ms()
        if not stages_first:
            stages = in_stages(path)
        if first_answer.setdefault(path, estimate.places[0].row) != estimate.places[0].row:
            differing.add(path)
        stage_rows.append(stages)
        starts.append(start_ms)
        durations.append(stop_ms - start_ms)

    warm_up(rig)
    stopped = repeat_until(measure, durations, rule)
    whole = np.array(durations)
    columns = np.array(stage_rows[: len(whole)]).T
    stage_ms = dict(zip(rig.stages, columns, strict=True))
    return Raw(
        SINGLE_STREAM,
        rule_settings(rule),
        np.array(starts)[: len(whole)],
        whole,
        stage_ms,
        2 * len(whole),
        stopped,
        {"answers_differing": len(differing)},
    )


def _batches(name: str, rig: Rig, batch: int, rule: StopRule) -> Raw:
    coming = itertools.cycle(rig.paths)
    found = sample(lambda: rig.locate_batch(list(itertools.islice(coming, batch))), rule, warm_up=2)
    settings = {"batch": batch, **rule_settings(rule)}
    start_ms, duration_ms = found.start_ms, found.duration_ms
    wall_s = float(duration_ms.sum()) / 1e3  # less than a microsecond lies between two of them, unless it gives way
    photos = batch * len(duration_ms)
    extra = {"photos": photos, "wall_s": wall_s, "photos_per_s": photos / wall_s}
    return Raw(name, settings, start_ms, duration_ms, {}, photos, found.stopped, extra)


def multi_stream(rig: Rig, streams: int, rule: StopRule) -> Raw:
    """Batches of `streams` photos, file to positions; a sample is a batch."""
    return _batches(MULTI_STREAM, rig, streams, rule)


def offline(rig: Rig, batch: int, rule: StopRule) -> Raw:
    """All photos again and again, `batch` at a time, for all of the time: photos a second of wall time."""
    return _batches(OFFLINE, rig, batch, replace(rule, half_width=0.0, least=MIN_CALLS))


def throttled_samples(
    start_ms: NDArray[np.float64], duration_ms: NDArray[np.float64], timeline: Sequence[PowerSample]
) -> NDArray[np.bool_]:
    """Which samples overlap a time in which the machine was throttled, bool (n,).

    A reading tells of the time since the one before it.
    """
    hit = np.zeros(len(start_ms), dtype=bool)
    stop_ms = start_ms + duration_ms
    for before, now in itertools.pairwise(timeline):
        if now.throttled:
            hit |= (start_ms < 1e3 * now.t_s) & (stop_ms > 1e3 * before.t_s)
    return hit


def to_record(
    raw: Raw, timeline: Sequence[PowerSample], energy_per_photo_mj: float | None, extra: dict[str, Any] | None = None
) -> ScenarioRecord:
    """Leave out what was measured while throttled, and summarise.

    The difference of whole and parts is the median over photos of the whole minus the sum of its stages.
    """
    kept = ~throttled_samples(raw.start_ms, raw.duration_ms, timeline)
    whole = raw.duration_ms[kept]
    stages = {name: values[kept] for name, values in raw.stage_ms.items()}
    found = {
        **raw.extra,
        **(extra or {}),
        "stopped": raw.stopped,
        "throttled_discarded": int((~kept).sum()),
        "energy_per_photo_mj": energy_per_photo_mj,
    }
    if len(whole):
        found["noise"] = half_width_share(whole)
        if stages:
            found["difference_p50_ms"] = float(np.median(whole - sum(stages.values())))
    return ScenarioRecord(
        name=raw.name,
        settings=raw.settings,
        latency=summarise(whole) if len(whole) else None,
        samples_ms=rounded(whole),
        stages={name: summarise(values) for name, values in stages.items()} if len(whole) else {},
        stage_samples_ms={name: rounded(values) for name, values in stages.items()},
        extra=found,
    )


def stage_summaries(pipeline: GpuPipeline, image: NDArray[np.uint8], k: int) -> dict[str, LatencySummary]:
    """Each stage on the GPU by events, for uint8 (H, W, 3) that is not turned."""
    runs = [pipeline.stage_ms(image, k) for _ in range(_GPU_RUNS)]
    return {stage: summarise(np.array([run[stage] for run in runs])) for stage in STAGES}
