"""What the verbs of dphr-export do, once their options are read. Torch is loaded only where a command needs it."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dphr_infer.errors import ConfigError, printable
from dphr_infer.files.atomic import atomic_file, atomic_folder, check_target
from dphr_infer.files.bundle import PRECISIONS, Manifest, Precision, model_name, open_bundle
from dphr_infer.files.calibration import calibration_lines
from dphr_infer.measure.clock import now_s
from dphr_infer.measure.memory import peak_bytes
from dphr_infer.measure.progress import format_duration

if TYPE_CHECKING:
    from export.request import CalibrateRequest, ExportRequest
    from export.to_tensorrt import EngineReport

_MOST_SECONDS = 3600
_ENGINE_HEAD = ("precision", "batches", "library", "for", "build", "plan", "peak memory", "layers")


@dataclass(frozen=True, slots=True)
class Engines:
    """Which engines to build.

    Without `max_batch` these are the two that `dphr-infer` looks for: batches of 1, to locate a photo in one launch,
    and all that the gate ran, to index a map. On a DLA core, which takes one batch size, it is the latter alone.
    """

    precisions: tuple[Precision, ...] | None = None
    """Models to build; None takes all of the bundle."""
    max_batch: int | None = None
    """Largest batch; None goes as far as the gate ran."""
    best_batch: int = 1
    """Batch to tune for."""
    workspace_mb: int = 1024
    """Most memory for a kernel."""
    dla: int | None = None
    """DLA core to use, of a board that has one."""
    cache: Path | None = None
    """Folder of the plans instead of the user's own cache."""


@contextmanager
def _stated_cost() -> Iterator[None]:
    """Say at the end what the command took."""
    start = now_s()
    yield
    print(f"took {format_duration(now_s() - start)}, at most {_megabytes(peak_bytes())} of memory", file=sys.stderr)


def bundle(request: ExportRequest) -> None:
    """Export a checkpoint or a timm network as a bundle."""
    from export.build_bundle import build_bundle

    with _stated_cost():
        manifest = build_bundle(request)
    _say_bundle(request.out, manifest)


def add_int8(request: ExportRequest) -> None:
    """Copy a bundle and give it an int8 model."""
    from export.add_int8 import add_int8 as add

    with _stated_cost():
        manifest = add(request)
    _say_bundle(request.out, manifest)


def calibrate(request: CalibrateRequest) -> None:
    """Copy a bundle, calibrated on flights, and say what came out."""
    from export.calibrate.calibrate import calibrate as measure

    with _stated_cost():
        manifest = measure(request)
    for line in calibration_lines(manifest.calibration):
        print(printable(line))
    print(printable(f"{request.out}: index the maps again with this bundle; galleries know it by its manifest."))


def _megabytes(peak: int | None) -> str:
    return "-" if peak is None else f"{peak / 1e6:.0f} MB"


def _say_bundle(out: Path, manifest: Manifest) -> None:
    words = f"{out}: {manifest.encoder}, {manifest.dim} dimensions, {', '.join(manifest.parity)}"
    print(printable(words))


def build(bundle: Path, engines: Engines, json_file: Path | None) -> None:
    """Build a bundle's engines and print what that took; with `json_file` write it there too."""
    from dphr_infer.engines.tensorrt.build import BuildOptions
    from dphr_infer.engines.tensorrt.cache import EngineCache
    from export.report.table import Table, to_markdown
    from export.to_tensorrt import build_engines

    opened = open_bundle(bundle)
    judged = opened.manifest.max_batch
    largest = judged if engines.max_batch is None else engines.max_batch
    if largest > judged:
        raise ConfigError(
            f"--max-batch is {largest}, but the gate of {bundle} ran batches up to {judged}: what larger ones give was "
            f"never measured. Give at most {judged}."
        )
    if json_file is not None:
        check_target(json_file)
    chosen = engines.precisions or [p for p in PRECISIONS if model_name(p) in opened.manifest.files]
    batches = (1, judged) if engines.max_batch is None and engines.dla is None else (largest,)
    options = [
        BuildOptions(batch, engines.best_batch if batch == largest else 1, engines.workspace_mb << 20, engines.dla)
        for batch in dict.fromkeys(batches)
    ]
    cache = EngineCache(engines.cache)
    reports = build_engines(opened, chosen, options, cache)
    print(
        to_markdown(
            Table("Engines", _ENGINE_HEAD, tuple(map(_engine_row, reports)), words=("library", "for", "layers"))
        )
    )
    print(f"engines lie in {printable(str(cache.folder))}")
    if json_file is not None:
        with atomic_file(json_file) as temporary:
            temporary.write_text(json.dumps([dataclasses.asdict(report) for report in reports], indent=1) + "\n")


def _engine_row(report: EngineReport) -> tuple[str, ...]:
    layers = ", ".join(f"{count} {precision}" for precision, count in report.layers.items())
    seconds = "in the cache" if report.seconds is None else f"{report.seconds:.1f} s"
    library = f"{report.flavour} {report.version}"
    batches = "1" if report.max_batch == 1 else f"to {report.max_batch}"
    return (
        report.precision,
        batches,
        library,
        report.gpu,
        seconds,
        f"{report.plan_bytes / 1e6:.1f} MB",
        _megabytes(report.peak_bytes),
        layers,
    )


def make_key(key: Path) -> None:
    """Make a key pair."""
    from export.signing import make_key as make

    public = make(key)
    print(f"{printable(str(key))} is private: keep it. {printable(str(public))} goes to those who verify.")


def sign(bundle: Path, key: Path) -> None:
    """Sign a bundle."""
    from export.signing import sign_bundle

    sign_bundle(bundle, key)
    print(f"{printable(str(bundle))} is signed. Verify it: dphr-infer doctor BUNDLE --require-signature PUBLIC.pem")


def say_checkpoint(written: Path) -> None:
    """Say what reads imported weights."""
    print(f"{printable(str(written))}: dphr-train evaluate and dphr-export bundle read it.")


def report(bundle: Path, out: Path, engines: Path | None, seconds: float, threads: int) -> None:
    """Write a bundle's report, and the picture of what its int8 layers cost."""
    from export.report.bundle import draw_layers, write_report
    from export.report.inputs import read_engine_reports, read_sensitivity
    from export.report.measure import measure_bundle

    require_seconds(seconds)
    opened = open_bundle(bundle)
    layers = read_sensitivity(opened)
    built = () if engines is None else read_engine_reports(engines)
    with atomic_folder(out) as folder:  # before the measuring: what cannot be written is not worth it
        pictures = draw_layers(opened.manifest, folder, layers)
        measured = measure_bundle(bundle, None, built, seconds=seconds, threads=threads)
        names = write_report(measured, folder, pictures)
    print(f"{printable(str(out))}: {', '.join(names)}")


def compare(bundles: Sequence[Path], seconds: float, threads: int) -> None:
    """Measure bundles one after another, and print them beside each other."""
    from export.report.compare import compare_bundles, require_same_images
    from export.report.measure import measure_bundle

    require_seconds(seconds)
    require_same_images([(folder.resolve().name, open_bundle(folder).manifest.origin) for folder in bundles])
    print(compare_bundles([measure_bundle(bundle, seconds=seconds, threads=threads) for bundle in bundles]), end="")


def require_seconds(seconds: float) -> None:
    """Refuse a duration that measures nothing or never ends.

    Raises:
        ConfigError: not within 0..3600, 0 excluded; not a number is not either.
    """
    if not 0 < seconds <= _MOST_SECONDS:
        raise ConfigError(
            f"--seconds is {seconds:g}; each batch size is measured for more than 0 and at most {_MOST_SECONDS} "
            "seconds. 5 are usual."
        )
