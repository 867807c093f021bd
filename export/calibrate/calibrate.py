"""A bundle and flights over held-out maps -> the same bundle with a calibration in its manifest."""

from __future__ import annotations

import dataclasses
import datetime
import tempfile
from pathlib import Path

from dphr_infer.files.atomic import atomic_folder
from dphr_infer.files.bundle import MANIFEST_NAME, Bundle, Manifest, open_bundle
from dphr_infer.files.calibration import Calibration
from export.calibrate.promise import calibrate_promise
from export.calibrate.site import open_sites
from export.calibrate.verdict import calibrate_verdict, collect_answers
from export.request import CalibrateRequest


def calibrate(request: CalibrateRequest) -> Manifest:
    """Copy a bundle and store its calibration; every other file keeps its bytes. A signature is not copied.

    The new manifest has a digest of its own, so galleries made by the old bundle have to be indexed again.

    Raises:
        BundleError: the bundle is damaged.
        ExportError: the flights are too few or too short for the alpha that is asked for, or a folder is no flight.
        ConfigError, MapError, ImageError, GalleryError: of the flights' truth, maps and photos.
        StorageError: `out` exists already or cannot be written; nothing is left behind.
    """
    bundle = open_bundle(request.bundle)
    with atomic_folder(request.out) as folder:
        calibration = _measured(bundle, request)
        for name in bundle.manifest.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((request.bundle / name).read_bytes())
        manifest = dataclasses.replace(bundle.manifest, calibration=calibration)
        (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def _measured(bundle: Bundle, request: CalibrateRequest) -> Calibration:
    with tempfile.TemporaryDirectory() as work:
        sites = open_sites(bundle, request, Path(work))
        promise = calibrate_promise(sites, request.alpha, request.seed)
        verdict = calibrate_verdict(collect_answers(sites), request.alpha)
    return Calibration(
        tile_m=request.tile_m,
        stride_m=request.stride_m,
        date=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        maps=tuple(site.name for site in sites),
        verdict=verdict,
        promise=promise,
    )
