"""Photo -> LocationEstimate. The one file that knows all parts.

    prepare   photo -> views at model size (one, or one for each rotation that is tried)     Preprocess
    embed     views -> unit vectors                                                          Engine
    match     unit vectors -> the k most similar gallery rows that the prior allows          Matcher
    estimate  rows -> place, accepted or not, radius                                         Gallery

`locate` is these four in a row; a benchmark that times them one by one times the same code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from dphr_infer.engines.base import Engine
from dphr_infer.errors import ConfigError, ImageError
from dphr_infer.files.bundle import Bundle
from dphr_infer.files.gallery import Gallery
from dphr_infer.geo import distance_m, offset
from dphr_infer.geo import east_north_m as to_east_north_m
from dphr_infer.images.preprocess import check_image_size
from dphr_infer.images.rotation import rotate_square
from dphr_infer.locate.embedder import Embedder
from dphr_infer.matchers.base import Matcher
from dphr_infer.types import GeoPoint, LocationEstimate, Matches, Place

Heading = Literal["as-is", "north", "search"]
HEADINGS: tuple[Heading, ...] = ("as-is", "north", "search")

DEFAULT_TOP_K = 5
DEFAULT_ROTATIONS = 8
MAX_ROTATIONS = 360
# Places of a grid lie a whole stride apart only up to rounding; "within half a tile" must not depend on that.
_ROUNDING = 1.01


@dataclass(frozen=True, slots=True)
class AcceptRule:
    """When to believe an estimate, so that a lost drone stays silent.

    A match agrees with the best one if its tile centre lies at most one tile side from the best match's. An estimate is
    accepted if, among the top k, at least `agreeing` matches agree, the best one included, and the best similarity is
    at least `min_similarity`. Matches of one place lie side by side; matches of no place scatter over the map.

    What the rule cannot notice: a photo of ground that the map lacks, if one single place on the map resembles it.
    And where the stride is much smaller than the tile, neighbours share most of their ground and agree easily: ask for
    more.

    Attributes:
        agreeing: matches that must agree, the best one included; 1 accepts always.
        min_similarity: in [-1, 1]; -1 asks for none. It depends on the model: read it off a set of known photos.
    """

    agreeing: int = 3
    min_similarity: float = -1.0

    def __post_init__(self) -> None:
        if self.agreeing < 1 or not -1 <= self.min_similarity <= 1:
            raise ConfigError(
                f"The rule asks for {self.agreeing} agreeing matches and a similarity of {self.min_similarity}; the "
                "first must be at least 1, the second lie in [-1, 1]."
            )


class FramePipeline(Protocol):
    """Prepare, embed and match in one piece, where a device can; see gpu_pipeline.py."""

    def submit(
        self,
        image: NDArray[np.uint8],
        k: int,
        clockwise_deg: float | None = None,
        row_ranges: Sequence[tuple[int, int]] | None = None,
    ) -> None: ...

    def collect(self) -> Matches: ...

    def drop(self) -> None: ...


class Localizer:
    """Locates photos on one gallery. It takes what the caller entered; `open_localizer` opens all of it on a device.

    Threads: on a CPU, calls of several threads may run at once. On a GPU they take turns: a call while another thread's
    runs is refused with EngineError. Open one a thread to have them at once.

    Args:
        bundle: whose model made the gallery.
        gallery: refused when it is another bundle's.
        engine, matcher: of that bundle and that gallery, entered by the caller.
        top_k: matches looked at for each photo; fewer where gallery or prior hold fewer tiles.
        heading: "as-is" takes the photo as it is. "north" turns it by its yaw, so that north is up as on the map.
            "search" tries `rotations` headings and keeps the one with the highest similarity, the first of equals.
        rotations: how many, evenly spaced, from 0.
        accept: when to believe an estimate; one that asks for more agreeing matches than top_k is refused. None takes
            `AcceptRule()`, by which no estimate is accepted where fewer than its 3 matches are looked at.
        refine: False gives the best match's place. True gives the mean of the places of those among the top k that
            lie at most half a tile side from the best match, weighted by their similarity where that is above 0.
        pipeline: entered by the caller; `locate` takes it instead of engine and matcher, which then need not be
            entered, but for heading "search", which embeds many views at once.
    """

    def __init__(
        self,
        bundle: Bundle,
        gallery: Gallery,
        engine: Engine,
        matcher: Matcher,
        *,
        top_k: int = DEFAULT_TOP_K,
        heading: Heading = "as-is",
        rotations: int = DEFAULT_ROTATIONS,
        accept: AcceptRule | None = None,
        refine: bool = False,
        pipeline: FramePipeline | None = None,
    ) -> None:
        gallery.check_bundle(bundle)
        if heading not in HEADINGS:
            raise ConfigError(f"Heading {heading!r} is unknown; choose one of {', '.join(HEADINGS)}.")
        if top_k < 1:
            raise ConfigError(f"top_k is {top_k}; it must be at least 1.")
        if not 1 <= rotations <= MAX_ROTATIONS:
            raise ConfigError(f"rotations is {rotations}; it must lie in 1 to {MAX_ROTATIONS}, one a degree.")
        self._bundle, self._gallery, self._matcher = bundle, gallery, matcher
        self._embedder = Embedder(bundle.manifest.preprocess, engine)
        self._top_k, self._heading, self._rotations = top_k, heading, rotations
        self._accept = accept if accept is not None else AcceptRule()
        self._refine = refine
        self._pipeline = pipeline if heading != "search" else None
        if accept is not None and accept.agreeing > top_k:
            raise ConfigError(
                f"The rule asks for {accept.agreeing} agreeing matches, but only {top_k} are looked at: no photo "
                "could be accepted. Raise --top-k, or ask for fewer with --agreeing."
            )

    def rotations_deg(self, yaw_deg: float | None = None) -> tuple[float, ...]:
        """The clockwise rotations that a photo is embedded under.

        Raises:
            ImageError: heading is "north" and the photo has no yaw.
        """
        if self._heading == "as-is":
            return (0.0,)
        if self._heading == "search":
            return tuple(360.0 * i / self._rotations for i in range(self._rotations))
        if yaw_deg is None:
            raise ImageError(
                'The photo tells no yaw, which heading "north" turns it by. Use heading "search", or photos with '
                "GimbalYawDegree (DJI XMP) or GPSImgDirection (EXIF)."
            )
        return (yaw_deg % 360.0,)

    def prepare(self, image: NDArray[np.uint8], yaw_deg: float | None = None) -> NDArray[np.uint8]:
        """A photo at model size, once for each rotation.

        Args:
            image: uint8 (H, W, 3), RGB.
            yaw_deg: compass direction of its top edge; used by heading "north" alone.

        Returns:
            uint8 (R, height_px, width_px, 3).

        Raises:
            ImageError: too small, too large, or without the yaw that heading "north" needs.
        """
        rotations = self.rotations_deg(yaw_deg)
        if self._heading == "as-is":
            return self._embedder.prepare([image])
        size = self._bundle.manifest.preprocess
        side_px = max(size.height_px, size.width_px)
        return self._embedder.prepare([rotate_square(image, degrees, side_px) for degrees in rotations])

    def embed(self, views: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Views at model size, uint8 (n, height_px, width_px, 3) -> float32 (n, D), unit length."""
        return self._embedder.embed_prepared(views)

    def match(
        self, embeddings: NDArray[np.float32], near: GeoPoint | None = None, within_m: float | None = None
    ) -> Matches:
        """The most similar gallery rows of each embedding.

        Args:
            embeddings: float32 (n, D), unit length.
            near, within_m: where the photo must have been taken of: only tiles whose centre lies at most `within_m`
                from `near` are matched. Both or neither.

        Raises:
            GalleryError: no tile lies there.
            ConfigError: one of the two is missing, or the radius is not above 0.
        """
        return self._matcher.match(embeddings, *self._scope(near, within_m))

    def _scope(self, near: GeoPoint | None, within_m: float | None) -> tuple[int, Sequence[tuple[int, int]] | None]:
        """How many matches to look for, and in which rows."""
        if near is None and within_m is None:
            return min(self._top_k, len(self._gallery)), None
        if near is None or within_m is None or not within_m > 0:
            raise ConfigError(f"A prior needs a point and a radius above 0 m; one is missing, or {within_m} is none.")
        ranges = self._gallery.allowed_rows(near, within_m)
        return min(self._top_k, sum(stop - start for start, stop in ranges)), ranges

    def estimate(self, matches: Matches, yaw_deg: float | None = None) -> LocationEstimate:
        """Turn the matches of one photo's views, rows (R, k), into an estimate; see `Localizer` and `AcceptRule`.

        The radius is the largest distance of an agreeing match from the estimated point, and at least half the stride,
        which is how far a place between the grid's points may be from the nearest along an axis.
        """
        view = int(np.argmax(matches.similarity[:, 0]))
        rows, similarity = matches.rows[view], matches.similarity[view]
        places = tuple(
            Place(int(row), self._gallery.point(int(row)), float(value))
            for row, value in zip(rows, similarity, strict=True)
        )
        origin = self._gallery.origin
        agreeing = [p for p in places if distance_m(p.point, places[0].point) <= origin.tile_m * _ROUNDING]
        point = self._refined(places) if self._refine else places[0].point
        return LocationEstimate(
            point=point,
            similarity=places[0].similarity,
            accepted=len(agreeing) >= self._accept.agreeing and places[0].similarity >= self._accept.min_similarity,
            radius_m=max(origin.stride_m / 2, *(distance_m(p.point, point) for p in agreeing)),
            places=places,
            rotation_deg=self.rotations_deg(yaw_deg)[view],
        )

    def _refined(self, places: Sequence[Place]) -> GeoPoint:
        best = places[0]
        reach_m = self._gallery.origin.tile_m / 2 * _ROUNDING
        near = [p for p in places if distance_m(p.point, best.point) <= reach_m and p.similarity > 0]
        if not near:
            return best.point
        east_m, north_m = to_east_north_m(
            best.point,
            np.array([p.point.latitude_deg for p in near]),
            np.array([p.point.longitude_deg for p in near]),
        )
        weights = np.array([p.similarity for p in near])
        return offset(
            best.point, float(np.average(east_m, weights=weights)), float(np.average(north_m, weights=weights))
        )

    def locate(
        self,
        image: NDArray[np.uint8],
        yaw_deg: float | None = None,
        near: GeoPoint | None = None,
        within_m: float | None = None,
    ) -> LocationEstimate:
        """Where a photo, uint8 (H, W, 3), was taken of: prepare, embed, match, estimate.

        Raises:
            ImageError, GalleryError, EngineError, ConfigError: as the four stages.
        """
        if self._pipeline is not None:
            return self._locate_in_one_piece(self._pipeline, [image], [yaw_deg], near, within_m)[0]
        return self.estimate(self.match(self.embed(self.prepare(image, yaw_deg)), near, within_m), yaw_deg)

    def _locate_in_one_piece(
        self,
        pipeline: FramePipeline,
        images: Sequence[NDArray[np.uint8]],
        yaws_deg: Sequence[float | None],
        near: GeoPoint | None,
        within_m: float | None,
    ) -> list[LocationEstimate]:
        """Two photos are on their way at a time, so that one is copied while the other is computed."""
        k, ranges = self._scope(near, within_m)
        found = []
        try:
            for number, (image, yaw_deg) in enumerate(zip(images, yaws_deg, strict=True)):
                check_image_size(image.shape[1], image.shape[0], "The image")
                (degrees,) = self.rotations_deg(yaw_deg)
                pipeline.submit(image, k, None if self._heading == "as-is" else degrees, ranges)
                if number:
                    found.append(pipeline.collect())
            found.append(pipeline.collect())
        finally:
            pipeline.drop()  # after an error one may still be on its way, and would be the next call's answer
        return [self.estimate(matches, yaw_deg) for matches, yaw_deg in zip(found, yaws_deg, strict=True)]

    def locate_many(
        self,
        images: Sequence[NDArray[np.uint8]],
        yaws_deg: Sequence[float | None] | None = None,
        near: GeoPoint | None = None,
        within_m: float | None = None,
    ) -> list[LocationEstimate]:
        """Several photos at once, under one prior; the engine and the matcher see them as one batch.

        Raises:
            ImageError, GalleryError, EngineError, ConfigError: as `locate`, for the first photo that is at fault.
        """
        if not images:
            return []
        yaws = [None] * len(images) if yaws_deg is None else list(yaws_deg)
        if self._pipeline is not None:
            return self._locate_in_one_piece(self._pipeline, images, yaws, near, within_m)
        views = np.concatenate([self.prepare(image, yaw) for image, yaw in zip(images, yaws, strict=True)])
        found = self.match(self.embed(views), near, within_m)
        each = len(views) // len(images)
        parts = [slice(i * each, (i + 1) * each) for i in range(len(images))]
        return [
            self.estimate(Matches(found.rows[part], found.similarity[part]), yaw)
            for part, yaw in zip(parts, yaws, strict=True)
        ]
