"""From frame to matches on a GPU: wall time of one launch beside the sum of its stages.

The wall time is that of `GpuPipeline.match`, with the copy of the frame into pinned memory; stages are timed by events
on frames of their own, started one by one. The first call of a process, which builds or loads the plan, is reported
apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from bench.cases.photo import stage_summaries
from bench.gpu.matching import make_gallery
from bench.machine.program import say
from bench.record import GPU_FRAME, BenchRecord, ScenarioRecord, Subject
from bench.sampling import StopRule, rounded, sample
from bench.sweeps.point import Bench
from dphr_infer.files.bundle import Bundle, open_bundle
from dphr_infer.locate.gpu_pipeline import GpuPipeline
from dphr_infer.measure.clock import now_ms
from dphr_infer.measure.stats import half_width_share, summarise
from dphr_infer.types import Precision

FRAMES = {"1080p": (1080, 1920), "12 MP": (3000, 4000)}
_TOP_K = 5


def _measure(bundle: Bundle, precision: Precision, frame: str, rows: int, rule: StopRule) -> ScenarioRecord:
    image = np.random.default_rng(0).integers(0, 256, (*FRAMES[frame], 3), np.uint8)
    gallery = make_gallery(rows, bundle.manifest.dim)
    start_ms = now_ms()
    with GpuPipeline(bundle, gallery, precision) as pipeline:
        pipeline.match(image, _TOP_K)
        first_ms = now_ms() - start_ms
        found = sample(partial(pipeline.match, image, _TOP_K), rule)
        stages = stage_summaries(pipeline, image, _TOP_K)
    if found.stopped == "interrupt":
        raise KeyboardInterrupt
    wall = summarise(found.duration_ms)
    extra = {
        "first_ms": first_ms,
        "wall_to_stages": wall.p50_ms / sum(stage.p50_ms for stage in stages.values()),
        "stopped": found.stopped,
        "noise": half_width_share(found.duration_ms),
    }
    settings = {"frame": frame, "precision": precision, "rows": rows}
    return ScenarioRecord(GPU_FRAME, settings, wall, rounded(found.duration_ms), stages, {}, extra)


def measure_points(bench: Bench, folder: Path, precisions: Sequence[Precision], rows: int) -> Iterator[BenchRecord]:
    """Every precision and frame size.

    Raises:
        DphrError: no GPU, no TensorRT, or the bundle lacks a precision.
    """
    bundle = open_bundle(folder)
    manifest, size = bundle.manifest, bundle.manifest.preprocess
    for precision in precisions:
        for frame in FRAMES:
            say(f"{frame}, {precision}, {rows} rows")
            scenario = _measure(bundle, precision, frame, rows, bench.rule)
            subject = Subject(
                encoder=manifest.encoder,
                dim=manifest.dim,
                input_px=(size.height_px, size.width_px),
                precision=precision,
                engine="TensorRT, one launch",
                matcher="cuda fp16",
                threads=0,
                bundle_digest=bundle.digest,
                gallery_rows=rows,
                gallery_dtype="float16",
                top_k=_TOP_K,
                heading="as-is",
                views=1,
                n_images=1,
                image_px=FRAMES[frame],
                images_from="random pixels",
            )
            yield bench.record(subject, scenarios=(scenario,))
