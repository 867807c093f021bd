"""What `dphr-infer locate` has open while it works, and its way of one photo: in one piece, and in stages.

Every scenario runs `Localizer` with all that the search asks: camera, map, registration, prior. Nothing of it is
rebuilt here: the methods of what is open are timed where they are called. On a device that goes from frame to matches
in one launch, a second localizer that keeps engine and matcher apart is opened for the stages. The rows that a prior
allows are resolved once a run, as in `locate`: the stage "prior" is what each photo pays for them after that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dphr_infer.cli.locate import registrar_of
from dphr_infer.cli.requests import Search
from dphr_infer.engines.base import Engine
from dphr_infer.files.bundle import Bundle
from dphr_infer.files.gallery import Gallery
from dphr_infer.locate.devices import Device, Rows
from dphr_infer.locate.gpu_pipeline import GpuPipeline
from dphr_infer.locate.localizer import Localizer
from dphr_infer.locate.settings import DeviceSettings
from dphr_infer.matchers.base import Matcher
from dphr_infer.measure.clock import now_ms
from dphr_infer.register.features import SiftFeatures
from dphr_infer.register.registrar import Registrar
from dphr_infer.types import LocationEstimate, Prior

DECODE, PRIOR, RECTIFY, PREPARE, EMBED, MATCH = "decode", "prior", "rectify", "prepare", "embed", "match"
ESTIMATE, FEATURES, VOTE = "estimate", "features", "vote"
ODOMETRY, FILTER = "odometry", "filter"
STAGES = (DECODE, PREPARE, EMBED, MATCH, ESTIMATE)
# Of a flight, whose photos are decoded by another thread.
FLIGHT_STAGES = (RECTIFY, PREPARE, EMBED, MATCH, ESTIMATE, FEATURES, VOTE, ODOMETRY, FILTER)

Result = TypeVar("Result")


class StageClock:
    """Milliseconds by stage, each without those of the stages that ran within it. For one thread."""

    def __init__(self) -> None:
        self.spent_ms: dict[str, float] = {}
        self._within = [0.0]

    def wrap(self, call: Callable[..., Result], stage: str) -> Callable[..., Result]:
        """The same call, timed."""

        def timed(*arguments: object, **named: object) -> Result:
            self._within.append(0.0)
            begun_ms = now_ms()
            try:
                return call(*arguments, **named)
            finally:
                taken_ms = now_ms() - begun_ms
                own_ms = taken_ms - self._within.pop()
                self.spent_ms[stage] = self.spent_ms.get(stage, 0.0) + own_ms
                self._within[-1] += taken_ms

        return timed

    def time(self, owner: object, method: str, stage: str) -> None:
        """Time every call of a method of one object from now on."""
        setattr(owner, method, self.wrap(lambda *a, **k: getattr(type(owner), method)(owner, *a, **k), stage))

    def take(self) -> dict[str, float]:
        """What was spent since it was last taken."""
        taken, self.spent_ms = self.spent_ms, {}
        return taken


class _NotedRow(Device):
    """A row of the table of devices that notes what it opens; without the pipeline where `apart`."""

    def __init__(self, row: Device, apart: bool) -> None:
        self.name, self._row, self._apart = row.name, row, apart
        self.engine: Engine | None = None
        self.matcher: Matcher | None = None
        self.pipeline: GpuPipeline | None = None

    def is_present(self) -> bool:
        return self._row.is_present()

    def open_engine(self, bundle: Bundle, on: DeviceSettings) -> Engine:
        self.engine = self._row.open_engine(bundle, on)
        return self.engine

    def open_matcher(self, embeddings: Rows, on: DeviceSettings, max_k: int) -> Matcher:
        self.matcher = self._row.open_matcher(embeddings, on, max_k)
        return self.matcher

    def open_pipeline(self, bundle: Bundle, embeddings: Rows, on: DeviceSettings, max_k: int) -> GpuPipeline | None:
        if not self._apart:
            self.pipeline = self._row.open_pipeline(bundle, embeddings, on, max_k)
        return self.pipeline


class MeasuredLocalizer(Localizer):
    """A localizer that times its stages and tells what its device opened.

    Args:
        registrar, extractor: None leaves retrieval alone.
        apart: engine and matcher, and never one launch.
    """

    def __init__(
        self,
        search: Search,
        bundle: Bundle,
        gallery: Gallery,
        registrar: Registrar | None,
        extractor: SiftFeatures | None,
        *,
        apart: bool = False,
    ) -> None:
        super().__init__(bundle, gallery, search.settings, search.on, search.camera, registrar)
        self._device = self.opened = _NotedRow(self._device, apart)
        self.clock = StageClock()
        for stage in (PREPARE, EMBED, MATCH, ESTIMATE):
            self.clock.time(self, stage, stage)
        if registrar is not None:
            self.clock.time(registrar, "register", VOTE)
            self.clock.time(extractor, "extract", FEATURES)

    @property
    def parts(self) -> tuple[Engine, Matcher]:
        """Engine and matcher; only of one that has them apart."""
        if self.opened.engine is None or self.opened.matcher is None:
            raise ValueError(f"{self} has no engine and matcher of its own")
        return self.opened.engine, self.opened.matcher

    def tell_rectifying(self, path: Path) -> bool:
        """Whether a photo is rectified; making its picture is then a stage of its own, else a part of preparing."""
        rectified = self.views.square(self.read(path)) is not None
        if rectified:
            self.clock.time(self.views, "images", RECTIFY)
        return rectified


@dataclass(frozen=True, slots=True, eq=False)
class Rig:
    """An open localizer, the photos to locate, and the prior if there is one.

    Attributes:
        apart: the same localizer, or on a device that has all in one launch one that keeps its parts apart.
        stages: names of the stages, in order.
    """

    localizer: MeasuredLocalizer
    apart: MeasuredLocalizer
    paths: tuple[Path, ...]
    prior: Prior | None
    stages: tuple[str, ...]

    def locate(self, path: Path) -> LocationEstimate:
        """One photo from file to position, in one piece: what `dphr-infer locate` does with each."""
        return self.localizer.locate(path, prior=self.prior)

    def locate_in_stages(self, path: Path) -> tuple[LocationEstimate, list[float]]:
        """The same photo by the same calls, and the milliseconds of each of `stages`."""
        begun_ms = now_ms()
        photo = self.apart.read(path)
        decoded_ms = now_ms()
        rows = self.apart.rows_in(self.prior)
        allowed_ms = now_ms()
        self.apart.clock.take()
        estimate = self.apart.answer(photo, rows)
        spent_ms = {DECODE: decoded_ms - begun_ms, PRIOR: allowed_ms - decoded_ms, **self.apart.clock.take()}
        return estimate, [spent_ms.get(stage, 0.0) for stage in self.stages]

    def locate_batch(self, paths: Sequence[Path]) -> list[LocationEstimate]:
        """Several photos from files to positions, the next one decoded meanwhile, as `dphr-infer locate` does."""
        return list(self.localizer.locate_each(paths, prior=self.prior))


def measured(search: Search, bundle: Bundle, gallery: Gallery, *, apart: bool = False) -> MeasuredLocalizer:
    """What `dphr-infer locate` opens for a search, not yet entered; errors as of `Localizer` and `registrar_of`."""
    extractor = SiftFeatures() if search.map is not None and search.verify else None
    return MeasuredLocalizer(search, bundle, gallery, registrar_of(search, gallery, extractor), extractor, apart=apart)


@contextmanager
def open_rig(bundle: Bundle, gallery: Gallery, search: Search, paths: Sequence[Path]) -> Iterator[Rig]:
    """Open what `dphr-infer locate` opens; errors as of `measured`."""
    localizer = measured(search, bundle, gallery)
    with localizer:
        if not localizer.in_one_launch:
            yield _rig(localizer, localizer, paths, search)
            return
        apart = measured(search, bundle, gallery, apart=True)
        with apart:
            yield _rig(localizer, apart, paths, search)


def _rig(localizer: MeasuredLocalizer, apart: MeasuredLocalizer, paths: Sequence[Path], search: Search) -> Rig:
    prior = search.prior
    stages = [DECODE, *((PRIOR,) if prior is not None else ())]
    stages += [*((RECTIFY,) if apart.tell_rectifying(paths[0]) else ()), PREPARE, EMBED, MATCH, ESTIMATE]
    stages += (FEATURES, VOTE) if apart.registrar is not None else ()
    return Rig(localizer, apart, tuple(paths), prior, tuple(stages))
