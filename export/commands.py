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
from typing import TYPE_CHECKING, Any, Literal

from dphr_infer.errors import ConfigError, printable
from dphr_infer.files.atomic import atomic_file, atomic_folder, check_target
from dphr_infer.files.bundle import PRECISIONS, Manifest, Precision, model_name, open_bundle
from dphr_infer.measure.progress import format_duration
from dphr_train.config import DatasetName

if TYPE_CHECKING:
    from export.build_bundle import ExportRequest, TimmSource
    from export.to_tensorrt import EngineReport

_MOST_SECONDS = 3600
_MIN_IMAGE_PX, _MAX_IMAGE_PX = 16, 2048
_ENGINE_HEAD = ("precision", "batches", "library", "for", "build", "plan", "peak memory", "layers")


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

    def request(self, source: Path | TimmSource, **choices: Any) -> ExportRequest:
        """What `build_bundle` and `add_int8` take."""
        from export.build_bundle import ExportRequest
        from export.int8.model import Int8Options

        return ExportRequest(
            source,
            self.data,
            self.out,
            max_images=self.max_images,
            dataset=self.dataset,
            int8=Int8Options(self.calibration_images, self.int8_weights),
            **choices,
        )


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
    from export.build_bundle import TimmSource, build_bundle

    if source.checkpoint is not None:
        origin: Path | TimmSource = source.checkpoint
    else:
        require_image_px(source.image_px)
        named = source.weights in (None, "embedded", "random")
        weights = source.weights if named else Path(str(source.weights))
        origin = TimmSource(source.encoder, source.image_px, weights, source.pooling)  # type: ignore[arg-type]
    request = judging.request(origin, precisions=precisions, optional=optional, opset=opset)
    with _stated_cost():
        manifest = build_bundle(request)
    _say_bundle(judging.out, manifest)


def add_int8(bundle: Path, judging: Judging) -> None:
    """Copy a bundle and give it an int8 model."""
    from export.add_int8 import add_int8 as add

    with _stated_cost():
        manifest = add(judging.request(bundle))
    _say_bundle(judging.out, manifest)


def _say_bundle(out: Path, manifest: Manifest) -> None:
    words = f"{out}: {manifest.encoder}, {manifest.dim} dimensions, {', '.join(manifest.parity)}"
    print(printable(words))


def require_image_px(image_px: int) -> None:
    """Refuse a side that no network here takes, before one is made for it.

    Raises:
        ConfigError: not within 16..2048 px.
    """
    if not _MIN_IMAGE_PX <= image_px <= _MAX_IMAGE_PX:
        raise ConfigError(
            f"--image-px is {image_px}; the square input of a network has a side of {_MIN_IMAGE_PX} to "
            f"{_MAX_IMAGE_PX} px. 224 and 384 are usual."
        )


def build(
    bundle: Path,
    precisions: Sequence[Precision] | None,
    *,
    max_batch: int | None,
    best_batch: int,
    workspace_mb: int,
    dla: int | None,
    cache: Path | None,
    json_file: Path | None,
) -> None:
    """Build a bundle's engines and print what that took.

    Without `max_batch` these are the two that `dphr-infer` looks for: batches of 1, to locate a photo in one launch,
    and all that the gate ran, to index a map. On a DLA core, which takes one batch size, it is the latter alone.
    """
    from dphr_infer.engines.tensorrt.build import BuildOptions
    from dphr_infer.engines.tensorrt.cache import EngineCache
    from export.report.table import Table, to_markdown
    from export.to_tensorrt import build_engines

    opened = open_bundle(bundle)
    judged = opened.manifest.max_batch
    largest = judged if max_batch is None else max_batch
    if largest > judged:
        raise ConfigError(
            f"--max-batch is {largest}, but the gate of {bundle} ran batches up to {judged}: what larger ones give was "
            f"never measured. Give at most {judged}."
        )
    if json_file is not None:
        check_target(json_file)
    chosen = precisions or [p for p in PRECISIONS if model_name(p) in opened.manifest.files]
    batches = (1, judged) if max_batch is None and dla is None else (largest,)
    options = [
        BuildOptions(batch, best_batch if batch == largest else 1, workspace_mb << 20, dla)
        for batch in dict.fromkeys(batches)
    ]
    engines = EngineCache(cache)
    reports = build_engines(opened, chosen, options, engines)
    print(
        to_markdown(
            Table("Engines", _ENGINE_HEAD, tuple(map(_engine_row, reports)), words=("library", "for", "layers"))
        )
    )
    print(f"engines lie in {printable(str(engines.folder))}")
    if json_file is not None:
        with atomic_file(json_file) as temporary:
            temporary.write_text(json.dumps([dataclasses.asdict(report) for report in reports], indent=1) + "\n")


def _engine_row(report: EngineReport) -> tuple[str, ...]:
    layers = ", ".join(f"{count} {precision}" for precision, count in report.layers.items())
    seconds = "in the cache" if report.seconds is None else f"{report.seconds:.1f} s"
    peak = "-" if report.peak_bytes is None else f"{report.peak_bytes / 1e6:.0f} MB"
    library = f"{report.flavour} {report.version}"
    batches = "1" if report.max_batch == 1 else f"to {report.max_batch}"
    return (report.precision, batches, library, report.gpu, seconds, f"{report.plan_bytes / 1e6:.1f} MB", peak, layers)


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
    from export.sources.sample4geo import import_sample4geo

    require_image_px(image_px)
    written = import_sample4geo(weights, encoder, image_px, out, dataset, ground_px)
    print(f"{printable(str(written))}: dphr-train evaluate and dphr-export read it.")


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
