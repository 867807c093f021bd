"""From frame to matches on a GPU: wall time of one launch against the sum of its stages; one script, one JSON file.

    python -m bench.gpu.pipeline BUNDLE     measure on this machine's GPU

The wall time is that of `GpuPipeline.match`, with the copy of the frame into pinned memory; stages are timed by events
on frames of their own, started one by one. The first call of a process, which builds or loads the plan, is reported
apart.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.gpu.matching import make_gallery
from bench.sampling import time_calls
from dphr_infer.cli.terminal import run_command
from dphr_infer.cuda.driver import open_cuda
from dphr_infer.engines.tensorrt.api import open_tensorrt
from dphr_infer.files.atomic import atomic_file
from dphr_infer.files.bundle import PRECISIONS, open_bundle
from dphr_infer.locate.gpu_pipeline import STAGES, GpuPipeline
from dphr_infer.measure.clock import now_ms
from dphr_infer.measure.stats import LatencySummary, format_ms, summarise

FRAMES = {"1080p": (1080, 1920), "12 MP": (3000, 4000)}
_TOP_K = 5
_STAGE_RUNS = 50


@dataclass(frozen=True, slots=True)
class Case:
    """One frame size and precision.

    Attributes:
        wall: of `match`, frame in host memory to matches in host memory.
        stage_ms: medians by stage, on the GPU.
        wall_to_stages: median wall time over the sum of the stages.
        first_ms: opening the pipeline and the first frame; the plan may have been in the cache.
    """

    frame: str
    precision: str
    rows: int
    wall: LatencySummary
    stage_ms: dict[str, float]
    wall_to_stages: float
    first_ms: float


def measure(bundle_folder: Path, precision: Any, frame: str, rows: int, seconds: float) -> Case:
    """Measure one frame size.

    Raises:
        DphrError: no GPU, no TensorRT, or the bundle lacks the precision.
    """
    bundle = open_bundle(bundle_folder)
    image = np.random.default_rng(0).integers(0, 256, (*FRAMES[frame], 3), np.uint8)
    gallery = make_gallery(rows, bundle.manifest.dim)
    start_ms = now_ms()
    with GpuPipeline(bundle, gallery, precision) as pipeline:
        pipeline.match(image, _TOP_K)
        first_ms = now_ms() - start_ms
        wall = summarise(time_calls(lambda: pipeline.match(image, _TOP_K), seconds))
        runs = [pipeline.stage_ms(image, _TOP_K) for _ in range(_STAGE_RUNS)]
    stages = {stage: float(np.median([run[stage] for run in runs])) for stage in STAGES}
    return Case(frame, precision, rows, wall, stages, wall.p50_ms / sum(stages.values()), first_ms)


def run(request: argparse.Namespace) -> None:
    """Measure every case, print a line each, and write the JSON file, which names GPU and TensorRT.

    Raises:
        DphrError: as `measure`.
    """
    with open_cuda() as cuda:
        properties = cuda.properties
    engine = open_tensorrt().name
    cases = []
    for precision in request.precisions:
        for frame in FRAMES:
            case = measure(request.bundle, precision, frame, request.rows, request.seconds)
            cases.append(case)
            stages = ", ".join(f"{stage} {format_ms(value)}" for stage, value in case.stage_ms.items())
            print(
                f"{properties.name}, {engine}: {frame} {precision}, {case.rows} rows: p50 "
                f"{format_ms(case.wall.p50_ms)} ms, n {case.wall.n}; on the GPU {stages}; wall is "
                f"{case.wall_to_stages:.2f} of their sum; first {format_ms(case.first_ms)} ms",
                flush=True,
            )
    report = {
        "device": dataclasses.asdict(properties),
        "engine": engine,
        "cases": [dataclasses.asdict(case) for case in cases],
    }
    with atomic_file(request.json) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"written: {request.json}")


def main(arguments: Sequence[str] | None = None) -> int:
    """What `make gpu-bench` runs beside the matcher's."""
    parser = argparse.ArgumentParser(prog="bench.gpu.pipeline", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=("fp16", "int8"))
    parser.add_argument("--rows", type=int, default=100_000, metavar="N", help="gallery rows (%(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="for each case (%(default)s)")
    parser.add_argument("--json", type=Path, default=Path("bench/reports/gpu_pipeline.json"), metavar="FILE")
    request = parser.parse_args(arguments)
    return run_command("bench.gpu.pipeline", lambda: run(request))


if __name__ == "__main__":
    sys.exit(main())
