"""Photo -> LocationEstimate. The one file that knows all parts.

    prepare   photo -> views at model size (one, or one for each rotation that is tried)     Preprocess
    embed     views -> unit vectors                                                          Engine
    match     unit vectors -> the k most similar gallery rows that the prior allows          Matcher
    estimate  rows -> place, verdict, radius                                                 Gallery

`locate` is these four in a row, or one launch on a GPU; a benchmark that times them one by one times the same code.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from dphr_infer.cuda.topk.plan import MAX_K
from dphr_infer.engines.embedder import Embedder
from dphr_infer.errors import EngineError
from dphr_infer.files.bundle import Bundle
from dphr_infer.files.gallery import Gallery
from dphr_infer.images.frame_format import FrameFormat
from dphr_infer.images.metadata import PhotoMetadata
from dphr_infer.images.photo import Photo, PhotoLike, check_size, to_photo, with_yaw
from dphr_infer.locate.devices import device_of
from dphr_infer.locate.estimate import (
    candidates,
    estimate,
    matches_for_margin,
    matches_for_places,
    not_blank,
    verified,
    with_camera,
)
from dphr_infer.locate.gpu_pipeline import GpuPipeline
from dphr_infer.locate.settings import CameraSettings, DeviceSettings, LocateSettings
from dphr_infer.locate.stream import OnError, located
from dphr_infer.locate.views import Views
from dphr_infer.matchers.base import Matcher
from dphr_infer.register.registrar import Registrar
from dphr_infer.types import LocationEstimate, Matches, Prior, RowRanges

# On a GPU the next frame is copied while one is computed.
_FRAMES_ON_A_GPU = 2


class Localizer:
    """Locates photos on one gallery. A context manager: engine and matcher are opened by `with` and given back there.

    Threads: on a CPU, calls of several threads may run at once. On a GPU they take turns: a call while another thread's
    runs is refused with EngineError. Open one per thread to have them at once.

    Args:
        bundle: whose model made the gallery.
        gallery: refused if another bundle made it.
        settings: what to look for; None takes `LocateSettings()`.
        on: the device, precision and threads; None takes `DeviceSettings()`.
        camera: what is known of the camera, and whether photos are rectified; None takes `CameraSettings()`.
        registrar: lays photos on the map; entered and left with the localizer. With one an estimate is either verified
            or not to be used; None leaves retrieval alone.

    Raises:
        GalleryError: another bundle made the gallery.
        ConfigError: the device is unknown.
    """

    def __init__(
        self,
        bundle: Bundle,
        gallery: Gallery,
        settings: LocateSettings | None = None,
        on: DeviceSettings | None = None,
        camera: CameraSettings | None = None,
        registrar: Registrar | None = None,
    ) -> None:
        gallery.check_bundle(bundle)
        self.bundle, self.gallery = bundle, gallery
        self.settings, self.on = settings or LocateSettings(), on or DeviceSettings()
        self.registrar = registrar
        manifest, tile_m = bundle.manifest, gallery.origin.tile_m
        self.views = Views(
            self.settings, camera or CameraSettings(), manifest.preprocess, tile_m, manifest.trained_rectified
        )
        self._device = device_of(self.on)
        self._stack: ExitStack | None = None
        self._embedder: Embedder | None = None
        self._matcher: Matcher | None = None
        self._pipeline: GpuPipeline | None = None
        self._prior: tuple[Prior, RowRanges] | None = None
        self._waiting: deque[tuple[Photo, RowRanges | None]] = deque()

    def __repr__(self) -> str:
        state = "open" if self._stack is not None else "not open"
        return (
            f"<Localizer {self.gallery.path} ({len(self.gallery)} tiles) by {self.bundle.manifest.encoder} "
            f"{self.on.precision} on {self.on.device}, {state}>"
        )

    def __enter__(self) -> Localizer:
        """Open engine and matcher, or on a GPU the pipeline that is both.

        Raises:
            EngineError, BundleError, MissingPackageError: the device cannot run as asked; there is no fallback.
        """
        if self._stack is not None:
            raise EngineError("This localizer is open already: open a second one.")
        embeddings = self.gallery.embeddings
        max_k = self._k(None)
        with ExitStack() as stack:
            if self.registrar is not None:
                stack.enter_context(self.registrar)
            if self.settings.heading != "search":
                self._pipeline = self._device.open_pipeline(self.bundle, embeddings, self.on, max_k)
            if self._pipeline is not None:
                stack.enter_context(self._pipeline)
            else:
                engine = self._device.open_engine(self.bundle, self.on)
                stack.enter_context(engine)
                self._embedder = Embedder(self.bundle.manifest.preprocess, engine)
                self._matcher = stack.enter_context(self._device.open_matcher(embeddings, self.on, max_k))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stack, self._stack = self._stack, None
        self._embedder = self._matcher = self._pipeline = None
        self._waiting.clear()
        if stack is not None:
            stack.__exit__(kind, error, trace)

    @property
    def in_one_launch(self) -> bool:
        """Whether this device goes from frame to matches in one piece; `prepare`, `embed`, `match` are then refused."""
        return self._pipeline is not None

    @property
    def most_on_the_way(self) -> int:
        """Photos that `start` takes before the first `finish`: 2 on a GPU's pipeline, else 1."""
        return 1 if self._pipeline is None else _FRAMES_ON_A_GPU

    def read(self, photo: PhotoLike) -> Photo:
        """A photo as `to_photo` reads it; a JPEG that is rectified on a CPU no finer than its square and the map need.

        It is then decoded at a half, a quarter or an eighth of its size, in a part of the time. The square's pixels
        differ by some levels, as means of the same pixels in another order.

        Raises:
            ImageError: as of `to_photo`.
        """
        return to_photo(photo, self._coarser if self._pipeline is None else None)

    def _coarser(self, metadata: PhotoMetadata, width_px: int, height_px: int) -> float:
        finest_m = None if self.registrar is None else self.registrar.finest_m
        return self.views.coarser(metadata, width_px, height_px, finest_m)

    def prepare(self, photo: PhotoLike) -> NDArray[np.uint8]:
        """A photo at model size: rectified, or as it is, or once for each rotation.

        Returns:
            uint8 (R, height_px, width_px, 3).

        Raises:
            ImageError: too small, too large, or without the yaw that heading "north" needs.
            EngineError: not open.
        """
        if self._embedder is None:
            raise self._not_open()
        return self._embedder.prepare(self.views.images(self.read(photo)))

    def embed(self, views: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Views at model size, uint8 (n, height_px, width_px, 3) -> float32 (n, D), unit length."""
        if self._embedder is None:
            raise self._not_open()
        return self._embedder.embed_prepared(views)

    def rows_in(self, prior: Prior | None) -> RowRanges | None:
        """The rows that a prior allows, None for all; the last prior's are kept, so that a constant one is free.

        Raises:
            GalleryError: no tile lies there.
        """
        if prior is None:
            return None
        known = self._prior
        if known is None or known[0] != prior:
            self._prior = known = prior, self.gallery.rows_in(prior)
        return known[1]

    def match(self, embeddings: NDArray[np.float32], rows: RowRanges | None = None) -> Matches:
        """The most similar gallery rows of each embedding.

        Args:
            embeddings: float32 (n, D), unit length.
            rows: those that may be matched, as `rows_in` gives them; None allows all.

        Raises:
            EngineError: not open.
        """
        if self._matcher is None:
            raise self._not_open()
        return self._matcher.match(embeddings, self._k(rows), rows)

    def _k(self, rows: RowRanges | None) -> int:
        wanted, calibration = self.settings.top_k, self.bundle.manifest.calibration
        if self.registrar is not None:
            wanted = max(wanted, min(MAX_K, matches_for_places(self.gallery, self.registrar.settings.candidates)))
        elif calibration is not None and calibration.verdict.floor is not None:
            wanted = max(wanted, min(MAX_K, matches_for_margin(self.gallery)))
        return min(wanted, len(self.gallery) if rows is None else rows.count)

    def estimate(self, matches: Matches, photo: Photo | None = None) -> LocationEstimate:
        """Turn the matches of one photo's views, rows (R, k), into an estimate, registered where there is a map.

        Args:
            matches: of its views.
            photo: whose; None where only the matches are known, which are then not registered.
        """
        rotations = (0.0,) * len(matches.rows) if photo is None else self.views.rotations_deg(photo)
        source, calibration = "" if photo is None else photo.source, self.bundle.manifest.calibration
        found = estimate(matches, self.gallery, self.settings, rotations, calibration, source)
        if photo is None:
            return found
        attitude, registration = self.views.attitude(photo), None
        if self.registrar is not None:
            registration = self.registrar.register(photo.rgb, attitude, candidates(matches, self.gallery))
            found = verified(found, registration)
        return with_camera(not_blank(found, photo), attitude, self.views.errors, registration)

    def locate(self, photo: PhotoLike, *, yaw_deg: float | None = None, prior: Prior | None = None) -> LocationEstimate:
        """Where one photo was taken of: prepare, embed, match, estimate.

        Args:
            photo: a path, uint8 (H, W, 3) RGB, a PIL image, or a Photo.
            yaw_deg: compass direction of its top edge, before the metadata's; the setting `yaw_deg` stands before both.
            prior: match only tiles whose centre lies within it.

        Raises:
            ImageError: the photo cannot be read, is of a wrong kind or size, or lacks the yaw that "north" needs.
            GalleryError: no tile lies within the prior.
            EngineError: not open, or the device refused.
        """
        taken = self.read(photo)
        if yaw_deg is not None:
            taken = with_yaw(taken, yaw_deg)
        rows = self.rows_in(prior)
        if self._pipeline is None:
            return self.answer(taken, rows)
        self.start(taken, rows)
        try:
            return self.finish()
        finally:
            self.drop()

    def answer(self, photo: Photo, rows: RowRanges | None) -> LocationEstimate:
        """One photo where the stages are apart; errors as of `locate`."""
        return self.estimate(self.match(self.embed(self.prepare(photo)), rows), photo)

    def start(self, photo: Photo, rows: RowRanges | None = None) -> None:
        """Hand a photo over; `finish`, in the same thread, gives the answers in the same order.

        At most `most_on_the_way` may wait. A CPU works in `finish`.

        Raises:
            ImageError: as of `locate`; the photo is then not on its way.
            EngineError: not open, too many on their way, or the device refused.
        """
        if self._stack is None:
            raise self._not_open()
        if len(self._waiting) == self.most_on_the_way:
            raise EngineError(f"{len(self._waiting)} photos are on their way: call finish before the next start.")
        if self._pipeline is not None:
            check_size(photo)
            self._pipeline.submit(photo.image, self._k(rows), self.views.pose(photo), rows, photo.frame_format)
        self._waiting.append((photo, rows))

    def finish(self) -> LocationEstimate:
        """The estimate of the photo that was started first.

        Raises:
            EngineError: none was started, or as of `locate`.
        """
        if not self._waiting:
            raise EngineError("No photo is on its way: call start before finish.")
        photo, rows = self._waiting.popleft()
        if self._pipeline is None:
            return self.answer(photo, rows)
        return self.estimate(self._pipeline.collect(), photo)

    def drop(self) -> None:
        """Forget the photos that are on their way; after an error they would be the next call's answers."""
        self._waiting.clear()
        if self._pipeline is not None:
            self._pipeline.drop()

    def frame_memory(self, frame: FrameFormat) -> NDArray[np.uint8] | None:
        """Memory that a camera may write its next frame into, which `start` then need not copy; None on a CPU.

        See `GpuPipeline.frame_memory`; pass the array on as `Photo(array, frame_format=frame)`.
        """
        if self._pipeline is None:
            return None
        if self.views.square(Photo(np.empty(0, np.uint8), frame_format=frame)) is not None:
            return self._pipeline.frame_memory(frame, "rectified")
        return self._pipeline.frame_memory(frame, "upright" if self.settings.heading == "as-is" else "turned")

    def locate_each(
        self,
        photos: PhotoLike | Iterable[PhotoLike],
        *,
        prior: Prior | None = None,
        on_error: OnError | None = None,
    ) -> Iterator[LocationEstimate]:
        """Locate photos one after the other; a thread decodes the next one meanwhile.

        Args:
            photos: a folder, a path, or an iterable of paths, arrays uint8 (H, W, 3) RGB, PIL images or Photos.
            prior: of all of them.
            on_error: called with a photo that cannot be read or located, and why; the others go on. None raises.

        Raises:
            ImageError: as of `locate`, without `on_error`; or a folder without pictures.
            GalleryError, EngineError: as of `locate`.
        """
        for _, found in self.locate_photos(photos, prior=prior, on_error=on_error):
            yield found

    def locate_photos(
        self,
        photos: PhotoLike | Iterable[PhotoLike],
        *,
        prior: Prior | None = None,
        on_error: OnError | None = None,
    ) -> Iterator[tuple[Photo, LocationEstimate]]:
        """As `locate_each`, with each photo beside its estimate; no tile within the prior is refused at once."""
        return located(self, photos, self.rows_in(prior), on_error)

    def _not_open(self) -> EngineError:
        if self._pipeline is not None:
            return EngineError("On this device preparing, embedding and matching are one launch: call locate.")
        return EngineError(
            "The localizer is not open: use it inside a with statement: with dphr.open(...) as localizer."
        )
