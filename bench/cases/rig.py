"""What `dphr-infer locate` has open while it works, and its way of one photo: in one piece, in stages, and in batches.

Every scenario runs this, and this runs `dphr_infer.locate.localizer.Localizer`; nothing of it is rebuilt here. With a
position prior the search for the rows that it allows is a stage of its own, "filter": it happens inside
`Localizer.match`, so the gallery is opened as one that notes how long it took.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.request import BenchRequest
from dphr_infer.files.gallery import Gallery
from dphr_infer.images.metadata import read_photo_metadata
from dphr_infer.images.preprocess import read_image
from dphr_infer.locate.localizer import Localizer
from dphr_infer.locate.search_options import Prior, prior_of
from dphr_infer.measure.clock import now_ms
from dphr_infer.types import GeoPoint, LocationEstimate

DECODE, PREPARE, EMBED, FILTER, MATCH, ESTIMATE = "decode", "prepare", "embed", "filter", "match", "estimate"
STAGES = (DECODE, PREPARE, EMBED, MATCH, ESTIMATE)
STAGES_WITH_PRIOR = (DECODE, PREPARE, EMBED, FILTER, MATCH, ESTIMATE)


@dataclass(frozen=True, slots=True, eq=False)
class TimedGallery(Gallery):
    """A gallery that notes how long each search for the rows of a prior took, in `filter_ms`."""

    filter_ms: list[float] = field(default_factory=list)

    def allowed_rows(self, near: GeoPoint, within_m: float) -> tuple[tuple[int, int], ...]:
        """See `Gallery.allowed_rows`."""
        start_ms = now_ms()
        try:
            return Gallery.allowed_rows(self, near, within_m)
        finally:
            self.filter_ms.append(now_ms() - start_ms)


def prior_of_request(request: BenchRequest) -> Prior | None:
    """The prior of a run.

    Raises:
        ConfigError: a place without a radius, or the reverse.
    """
    return prior_of(None if request.near is None else GeoPoint(*request.near), request.within)


def with_filter_timed(gallery: Gallery) -> TimedGallery:
    """The same gallery, timing its filter."""
    return TimedGallery(gallery.embeddings, gallery.latitude_deg, gallery.longitude_deg, gallery.origin, gallery.path)


@dataclass(frozen=True, slots=True, eq=False)
class Rig:
    """A localizer on its gallery, the photos to locate, and the prior if there is one."""

    localizer: Localizer
    gallery: TimedGallery
    paths: tuple[Path, ...]
    prior: Prior | None

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages, in order."""
        return STAGES if self.prior is None else STAGES_WITH_PRIOR

    @property
    def near(self) -> GeoPoint | None:
        """Middle of the prior."""
        return None if self.prior is None else self.prior.near

    @property
    def within_m(self) -> float | None:
        """Radius of the prior."""
        return None if self.prior is None else self.prior.within_m

    def locate(self, path: Path) -> LocationEstimate:
        """One photo from file to position, in one piece: what `dphr-infer locate` does with each."""
        yaw_deg = read_photo_metadata(path).yaw_deg
        return self.locate_image(read_image(path), yaw_deg)

    def locate_image(self, image: NDArray[np.uint8], yaw_deg: float | None) -> LocationEstimate:
        """One decoded photo, uint8 (H, W, 3), to its position: what `dphr-infer watch` does with each frame."""
        return self.localizer.locate(image, yaw_deg, self.near, self.within_m)

    def locate_in_stages(self, path: Path) -> tuple[LocationEstimate, list[float]]:
        """The same photo by the same calls one by one, and the milliseconds of each of `stages`."""
        self.gallery.filter_ms.clear()
        start_ms = now_ms()
        yaw_deg = read_photo_metadata(path).yaw_deg
        image = read_image(path)
        decoded_ms = now_ms()
        views = self.localizer.prepare(image, yaw_deg)
        prepared_ms = now_ms()
        embeddings = self.localizer.embed(views)
        embedded_ms = now_ms()
        matches = self.localizer.match(embeddings, self.near, self.within_m)
        matched_ms = now_ms()
        estimate = self.localizer.estimate(matches, yaw_deg)
        stop_ms = now_ms()
        durations = [decoded_ms - start_ms, prepared_ms - decoded_ms, embedded_ms - prepared_ms]
        filter_ms = sum(self.gallery.filter_ms)
        if self.prior is not None:
            durations.append(filter_ms)
        return estimate, [*durations, matched_ms - embedded_ms - filter_ms, stop_ms - matched_ms]

    def read(self, paths: Sequence[Path]) -> tuple[list[NDArray[np.uint8]], list[float | None]]:
        """Decoded photos, and their yaws."""
        yaws_deg = [read_photo_metadata(path).yaw_deg for path in paths]
        return [read_image(path) for path in paths], yaws_deg

    def locate_batch(self, paths: Sequence[Path]) -> list[LocationEstimate]:
        """Several photos from files to positions, as one batch of engine and matcher."""
        images, yaws_deg = self.read(paths)
        return self.localizer.locate_many(images, yaws_deg, self.near, self.within_m)
