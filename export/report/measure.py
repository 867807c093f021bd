"""What a bundle is worth in figures: its size, what its gate measured, and the latency of ONNX Runtime here.

Latency is taken in rounds: each round runs every precision once (A B C A B C), so that whatever else the machine does
hits all alike, and a ratio is taken within a round. The models push each other out of the caches, which a model that
flies alone does not suffer. Percentiles are nearest-rank: each was really measured.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dphr_infer.engines.onnxruntime import onnxruntime_version
from dphr_infer.errors import ExportError
from dphr_infer.files.bundle import PRECISIONS, Bundle, Parity, Precision, Quantisation, model_name, open_bundle
from dphr_infer.locate.devices import open_engine
from dphr_infer.locate.settings import DeviceSettings
from dphr_infer.measure.clock import collection_off, now_ms, now_s
from dphr_infer.measure.machine import read_machine
from dphr_infer.measure.progress import Progress
from dphr_infer.measure.stats import percentile
from export.to_tensorrt import EngineReport

BATCHES = (1, 4, 16)
WARM_UP_ROUNDS = 3
MIN_ROUNDS = 15


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, 10th and 90th percentile of what was measured."""

    median: float
    p10: float
    p90: float


@dataclass(frozen=True, slots=True)
class Latency:
    """One precision at one batch size.

    Attributes:
        n: rounds that were counted.
        ms: a whole batch, in milliseconds.
        ratio_to_fp32: duration as a share of fp32's in the same round; None where the bundle has no fp32.
    """

    batch: int
    n: int
    ms: Spread
    ratio_to_fp32: Spread | None


@dataclass(frozen=True, slots=True)
class PrecisionReport:
    """One model of the bundle.

    Attributes:
        size_share: of the size of fp32; None where the bundle has no fp32.
        parity: from the manifest; None where it names none.
        latency: one entry a batch size.
    """

    precision: Precision
    size_bytes: int
    size_share: float | None
    parity: Parity | None
    latency: tuple[Latency, ...]

    def at(self, batch: int) -> Latency:
        """What was measured at one of BATCHES."""
        return next(latency for latency in self.latency if latency.batch == batch)


@dataclass(frozen=True, slots=True)
class BundleName:
    """Which bundle it is: name of its folder, sha256 of its manifest, backbone, embedding length and input size."""

    name: str
    digest: str
    encoder: str
    dim: int
    height_px: int
    width_px: int


@dataclass(frozen=True, slots=True)
class Machine:
    """Where the latency was measured. `threads` are ONNX Runtime's; 0 is one for every core."""

    cpu: str
    cores: int
    system: str
    onnxruntime: str
    threads: int


@dataclass(frozen=True, slots=True)
class BundleReport:
    """All of it. `quantisation` and `origin` are the manifest's."""

    bundle: BundleName
    precisions: tuple[PrecisionReport, ...]
    engines: tuple[EngineReport, ...]
    quantisation: Quantisation | None
    origin: dict[str, str]
    machine: Machine


def spread(samples: NDArray[np.float64]) -> Spread:
    """Summarise float64 (n,), n >= 1, in any order."""
    return Spread(*(percentile(samples, percent) for percent in (50, 10, 90)))


def time_in_turn(calls: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, NDArray[np.float64]]:
    """Duration of calls that take turns: A B C A B C.

    WARM_UP_ROUNDS are not counted; then at least MIN_ROUNDS, and until `seconds` have passed. Garbage is collected
    before, not in between.

    Returns:
        {name: float64 (n,) milliseconds, in the order of the rounds}; n is the same for all.
    """
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(WARM_UP_ROUNDS):
        for call in calls.values():
            call()
    with collection_off():
        end_s, rounds = now_s() + seconds, 0
        while rounds < MIN_ROUNDS or now_s() < end_s:
            for name, call in calls.items():
                start_ms = now_ms()
                call()
                samples[name].append(now_ms() - start_ms)
            rounds += 1
    return {name: np.array(values) for name, values in samples.items()}


def summarise(batch: int, samples_ms: Mapping[str, NDArray[np.float64]]) -> dict[str, Latency]:
    """What `time_in_turn` took, by precision."""
    fp32 = samples_ms.get("fp32")
    return {
        name: Latency(batch, len(values), spread(values), None if fp32 is None else spread(values / fp32))
        for name, values in samples_ms.items()
    }


def _time_models(
    bundle: Bundle, precisions: Sequence[Precision], images: NDArray[np.uint8], seconds: float, threads: int
) -> dict[str, list[Latency]]:
    found: dict[str, list[Latency]] = {precision: [] for precision in precisions}
    with contextlib.ExitStack() as stack, Progress("latency", len(BATCHES), "batch sizes") as progress:
        engines = {
            p: stack.enter_context(open_engine(bundle, DeviceSettings("cpu", p, threads or None))) for p in precisions
        }
        for batch in BATCHES:
            pixels = np.ascontiguousarray(images[np.arange(batch) % len(images)])
            calls: dict[str, Callable[[], object]] = {p: partial(e.embed, pixels) for p, e in engines.items()}
            for precision, latency in summarise(batch, time_in_turn(calls, seconds)).items():
                found[precision].append(latency)
            progress.advance()
    return found


def _read_machine(threads: int) -> Machine:
    machine = read_machine()
    system = f"{machine.system}, Python {machine.python}"
    return Machine(machine.cpu, machine.cores, system, onnxruntime_version()[0], threads)


def measure_bundle(
    folder: Path,
    images: NDArray[np.uint8] | None = None,
    engine_reports: Sequence[EngineReport] = (),
    *,
    seconds: float,
    threads: int,
) -> BundleReport:
    """Check a bundle, read what its manifest says and measure its models with ONNX Runtime on this CPU.

    Args:
        folder: of the bundle.
        images: uint8 (n, height_px, width_px, 3), RGB at model size, n >= 1, repeated where a batch needs more; None
            takes the self-test's.
        engine_reports: engine builds to list, as `to_tensorrt.build_engines` gives them.
        seconds: to measure each batch size for, all precisions together; at least 15 rounds are run.
        threads: of ONNX Runtime; 0 takes all cores.

    Raises:
        BundleError: the bundle or its manifest is damaged.
        EngineError: a model cannot run, the images are of another size, or so many threads are refused.
        ExportError: there is no image.
        MissingPackageError: ONNX Runtime is not installed.
    """
    bundle = open_bundle(folder)
    manifest, size = bundle.manifest, bundle.manifest.preprocess
    precisions = [precision for precision in PRECISIONS if model_name(precision) in manifest.files]
    if images is None:
        images = bundle.read_selftest()[0]
    if not len(images):
        raise ExportError("There is no image to measure latency on; give at least one.")
    latencies = _time_models(bundle, precisions, images, seconds, threads)
    sizes = {precision: bundle.model_path(precision).stat().st_size for precision in precisions}
    return BundleReport(
        bundle=BundleName(
            folder.resolve().name, bundle.digest, manifest.encoder, manifest.dim, size.height_px, size.width_px
        ),
        precisions=tuple(
            PrecisionReport(
                precision=precision,
                size_bytes=sizes[precision],
                size_share=sizes[precision] / sizes["fp32"] if "fp32" in sizes else None,
                parity=manifest.parity.get(precision),
                latency=tuple(latencies[precision]),
            )
            for precision in precisions
        ),
        engines=tuple(engine_reports),
        quantisation=manifest.quantisation,
        origin=dict(manifest.origin),
        machine=_read_machine(threads),
    )
