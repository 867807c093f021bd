"""sweep embed: the models of bundles."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from bench.cases.batches import BatchCase
from bench.machine.program import say
from bench.record import BenchRecord, Subject
from bench.request import EmbedGrid
from bench.sweeps.point import Bench, unique
from bench.validity import check_selftest, invalid_reasons
from dphr_infer.errors import ConfigError
from dphr_infer.files.bundle import SELFTEST_IMAGES, Bundle, model_name, open_bundle
from dphr_infer.images.photo import to_photo
from dphr_infer.images.preprocess import list_images
from dphr_infer.locate.devices import open_engine
from dphr_infer.locate.settings import DeviceSettings
from dphr_infer.types import PRECISIONS


def embed_points(grid: EmbedGrid, bench: Bench) -> Iterator[BenchRecord]:
    """Every point of `sweep embed`."""
    bundles = [open_bundle(folder) for folder in grid.bundles]  # all, before any time is spent
    names: dict[str, Path] = {}
    for bundle in bundles:
        size = bundle.manifest.preprocess
        name = f"{bundle.manifest.encoder} at {size.width_px}x{size.height_px} px"
        if name in names:
            raise ConfigError(
                f"{names[name]} and {bundle.folder} are both {name}, and their rows could not be told apart: sweep "
                "each in a run of its own, and compare the reports."
            )
        names[name] = bundle.folder
    for bundle, device in itertools.product(bundles, unique(grid.devices)):
        yield from _bundle_points(grid, bench, bundle, device)


def _bundle_points(grid: EmbedGrid, bench: Bench, bundle: Bundle, device: str) -> Iterator[BenchRecord]:
    manifest, paths = bundle.manifest, list_images(bundle.folder / SELFTEST_IMAGES)
    photos = [to_photo(path) for path in paths]
    image_px = photos[0].rgb.shape[:2]
    precisions = unique(grid.precisions) or [p for p in PRECISIONS if model_name(p) in manifest.files]
    for precision, threads in itertools.product(precisions, unique(grid.threads)):
        with open_engine(bundle, DeviceSettings(device, precision, threads or None)) as engine:
            accuracy = check_selftest(bundle, engine, precision)
            ceiling = bench.ceilings[threads] if device == "cpu" else None
            case = BatchCase(bundle, engine, precision, threads, photos, None, ceiling)
            subject = Subject(
                encoder=manifest.encoder,
                dim=manifest.dim,
                input_px=(manifest.preprocess.height_px, manifest.preprocess.width_px),
                precision=precision,
                engine=engine.name,
                threads=threads,
                bundle_digest=bundle.digest,
                views=1,
                n_images=len(photos),
                image_px=(image_px[0], image_px[1]),
                images_from="the bundle's self-test",
            )
            for batch in unique(grid.batches):
                say(f"{manifest.encoder}, {engine.name}, {threads or 'all'} threads, batch {batch}")
                record, reason = case.measure(batch, bench.rule)
                left_out = {f"share of the embedding's limit, {engine.name}": reason} if reason else {}
                reasons = invalid_reasons(accuracy)
                yield bench.record(subject, batches=(record,), accuracy=accuracy, reasons=reasons, left_out=left_out)
