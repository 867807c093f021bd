"""What the commands of dphr-export do, once their arguments are read. Torch is loaded only where a command needs it."""

from __future__ import annotations

import dataclasses
import json
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dphr_infer.atomic import atomic_file
from dphr_infer.bundle import PRECISIONS, Precision, model_name, open_bundle
from dphr_infer.errors import ExportError
from dphr_infer.terminal import format_duration, printable
from dphr_train.config import DatasetName

if TYPE_CHECKING:
    from export.to_tensorrt import EngineReport

_ENGINE_HEAD = ("precision", "library", "for", "build", "plan", "peak memory", "layers")


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint, or a timm network by its name."""

    checkpoint: Path | None = None
    encoder: str = ""
    weights: str | None = None
    image_px: int = 0
    pooling: Literal["average", "gem"] = "average"


@dataclass(frozen=True, slots=True)
class Judging:
    """On what a bundle is proven and where it goes; see `ExportRequest` for each."""

    data: Path
    dataset: DatasetName
    out: Path
    max_images: int
    calibration_images: int
    int8_weights: Literal["int8", "float"]


@contextmanager
def _stated_cost() -> Iterator[None]:
    """Say at the end what the command took."""
    start = time.monotonic()
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << (0 if sys.platform == "darwin" else 10)
    took = format_duration(time.monotonic() - start)
    print(f"took {took}, at most {peak / 1e6:.0f} MB of memory", file=sys.stderr)


def export(
    source: Source, judging: Judging, precisions: tuple[Precision, ...], optional: tuple[Precision, ...], opset: int
) -> None:
    """Export a checkpoint or a timm network as a bundle."""
    from export.build_bundle import ExportRequest, TimmSource, build_bundle
    from export.int8_model import Int8Options

    if source.checkpoint is not None:
        origin: Path | TimmSource = source.checkpoint
    else:
        named = source.weights in (None, "embedded", "random")
        weights = source.weights if named else Path(str(source.weights))
        origin = TimmSource(source.encoder, source.image_px, weights, source.pooling)  # type: ignore[arg-type]
    request = ExportRequest(
        origin,
        judging.data,
        judging.out,
        precisions,
        optional,
        judging.max_images,
        judging.dataset,
        Int8Options(judging.calibration_images, judging.int8_weights),
        opset,
    )
    with _stated_cost():
        manifest = build_bundle(request)
    print(f"{judging.out}: {manifest.encoder}, {manifest.dim} dimensions, {', '.join(manifest.parity)}")


def add_int8(bundle: Path, judging: Judging) -> None:
    """Copy a bundle and give it an int8 model."""
    from export.add_int8 import add_int8 as add
    from export.build_bundle import ExportRequest
    from export.int8_model import Int8Options

    options = Int8Options(judging.calibration_images, judging.int8_weights)
    request = ExportRequest(
        bundle, judging.data, judging.out, max_images=judging.max_images, dataset=judging.dataset, int8=options
    )
    with _stated_cost():
        manifest = add(request)
    print(f"{judging.out}: {manifest.encoder}, {manifest.dim} dimensions, {', '.join(manifest.parity)}")


def build(
    bundle: Path,
    precisions: Sequence[Precision] | None,
    *,
    max_batch: int,
    best_batch: int,
    workspace_mb: int,
    dla: int | None,
    cache: Path | None,
    json_file: Path | None,
) -> None:
    """Build a bundle's engines and print what that took."""
    from dphr_infer.engines.engine_cache import EngineCache
    from dphr_infer.engines.tensorrt_build import BuildOptions
    from export.report_page import markdown_table
    from export.to_tensorrt import build_engines

    opened = open_bundle(bundle)
    chosen = precisions or [p for p in PRECISIONS if model_name(p) in opened.manifest.files]
    options = BuildOptions(max_batch, best_batch, workspace_mb << 20, dla)
    engines = EngineCache(cache)
    reports = build_engines(opened, chosen, options, engines)
    print(markdown_table(_ENGINE_HEAD, [_engine_row(report) for report in reports]))
    print(f"engines lie in {printable(str(engines.folder))}")
    if json_file is not None:
        with atomic_file(json_file) as temporary:
            temporary.write_text(json.dumps([dataclasses.asdict(report) for report in reports], indent=1) + "\n")


def _engine_row(report: EngineReport) -> tuple[str, ...]:
    layers = ", ".join(f"{count} {precision}" for precision, count in report.layers.items())
    seconds = "in the cache" if report.seconds is None else f"{report.seconds:.1f} s"
    peak = "-" if report.peak_bytes is None else f"{report.peak_bytes / 1e6:.0f} MB"
    library = f"{report.flavour} {report.version}"
    return (report.precision, library, report.gpu, seconds, f"{report.plan_bytes / 1e6:.1f} MB", peak, layers)


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


def import_weights(
    weights: Path, encoder: str, image_px: int, out: Path, dataset: DatasetName, ground_px: tuple[int, int] | None
) -> None:
    """Convert Sample4Geo's weights to a checkpoint."""
    from export.import_sample4geo import import_sample4geo

    written = import_sample4geo(weights, encoder, image_px, out, dataset, ground_px)
    print(f"{printable(str(written))}: dphr-train evaluate and dphr-export read it.")


def report(bundle: Path, out: Path, engines: Path | None, seconds: float, threads: int) -> None:
    """Write a bundle's report, and the picture of what its int8 layers cost."""
    from export.int8.sensitivity import TABLE_JSON, LayerSensitivity
    from export.report import measure_bundle, write_report
    from export.to_tensorrt import EngineReport

    built = ()
    if engines is not None:
        try:
            built = tuple(EngineReport(**entry) for entry in json.loads(engines.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise ExportError(f"{engines} is not what dphr-export build --json writes ({error}).") from error
    write_report(measure_bundle(bundle, None, built, seconds=seconds, threads=threads), out)
    manifest = open_bundle(bundle).manifest
    table = bundle / "int8" / TABLE_JSON
    if manifest.quantisation is not None and table.is_file():
        from export.plots import plot_sensitivity

        rows = [LayerSensitivity(**row) for row in json.loads(table.read_text(encoding="utf-8"))]
        plot_sensitivity(rows, out / "sensitivity.png", manifest.encoder, manifest.quantisation.float_layers)
    print(f"{printable(str(out))}: report.html, report.md, report.json")


def compare(bundles: Sequence[Path], seconds: float, threads: int) -> None:
    """Measure bundles one after another, and print them beside each other."""
    from export.report import compare_bundles, measure_bundle

    print(compare_bundles([measure_bundle(bundle, seconds=seconds, threads=threads) for bundle in bundles]), end="")
