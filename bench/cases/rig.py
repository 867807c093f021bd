"""What `dphr-infer locate` has open while it works, and its way of one photo: in one piece, and in stages.

Every scenario runs `Localizer`, as the device's row of the one table opens it; nothing of it is rebuilt here. On a
device that goes from frame to matches in one launch, a second localizer that keeps engine and matcher apart is opened
for the stages. The rows that a prior allows are resolved once a run, as in `locate`: the stage "filter" is what each
photo pays for them after that.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dphr_infer.engines.base import Engine
from dphr_infer.files.bundle import Bundle
from dphr_infer.files.gallery import Gallery
from dphr_infer.images.photo import read_photo
from dphr_infer.locate.devices import Device, Rows
from dphr_infer.locate.gpu_pipeline import GpuPipeline
from dphr_infer.locate.localizer import Localizer
from dphr_infer.locate.settings import DeviceSettings, LocateSettings
from dphr_infer.matchers.base import Matcher
from dphr_infer.measure.clock import now_ms
from dphr_infer.types import LocationEstimate, Prior

DECODE, PREPARE, EMBED, FILTER, MATCH, ESTIMATE = "decode", "prepare", "embed", "filter", "match", "estimate"
STAGES = (DECODE, PREPARE, EMBED, MATCH, ESTIMATE)
STAGES_WITH_PRIOR = (DECODE, PREPARE, EMBED, FILTER, MATCH, ESTIMATE)


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
    """A localizer that tells what its device opened; with `apart`, engine and matcher and never one launch."""

    def __init__(
        self, bundle: Bundle, gallery: Gallery, settings: LocateSettings, on: DeviceSettings, *, apart: bool = False
    ) -> None:
        super().__init__(bundle, gallery, settings, on)
        self._device = self.opened = _NotedRow(self._device, apart)

    @property
    def parts(self) -> tuple[Engine, Matcher]:
        """Engine and matcher; only of one that has them apart."""
        if self.opened.engine is None or self.opened.matcher is None:
            raise ValueError(f"{self} has no engine and matcher of its own")
        return self.opened.engine, self.opened.matcher


@dataclass(frozen=True, slots=True, eq=False)
class Rig:
    """An open localizer, the photos to locate, and the prior if there is one.

    Attributes:
        apart: the same localizer, or on a device that has all in one launch one that keeps its parts apart.
    """

    localizer: MeasuredLocalizer
    apart: MeasuredLocalizer
    paths: tuple[Path, ...]
    prior: Prior | None

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages, in order."""
        return STAGES if self.prior is None else STAGES_WITH_PRIOR

    def locate(self, path: Path) -> LocationEstimate:
        """One photo from file to position, in one piece: what `dphr-infer locate` does with each."""
        return self.localizer.locate(path, prior=self.prior)

    def locate_in_stages(self, path: Path) -> tuple[LocationEstimate, list[float]]:
        """The same photo by the same calls one by one, and the milliseconds of each of `stages`."""
        apart, times_ms = self.apart, [now_ms()]
        photo = read_photo(path)
        times_ms.append(now_ms())
        views = apart.prepare(photo)
        times_ms.append(now_ms())
        embeddings = apart.embed(views)
        times_ms.append(now_ms())
        rows = None
        if self.prior is not None:
            rows = apart.rows_in(self.prior)
            times_ms.append(now_ms())
        matches = apart.match(embeddings, rows)
        times_ms.append(now_ms())
        estimate = apart.estimate(matches, photo)
        times_ms.append(now_ms())
        return estimate, [later - before for before, later in itertools.pairwise(times_ms)]

    def locate_batch(self, paths: Sequence[Path]) -> list[LocationEstimate]:
        """Several photos from files to positions, the next one decoded meanwhile, as `dphr-infer locate` does."""
        return list(self.localizer.locate_each(paths, prior=self.prior))


@contextmanager
def open_rig(
    bundle: Bundle,
    gallery: Gallery,
    settings: LocateSettings,
    on: DeviceSettings,
    paths: Sequence[Path],
    prior: Prior | None = None,
) -> Iterator[Rig]:
    """Open what `dphr-infer locate` opens; errors as of `Localizer`."""
    localizer = MeasuredLocalizer(bundle, gallery, settings, on)
    with localizer:
        if not localizer.in_one_launch:
            yield Rig(localizer, localizer, tuple(paths), prior)
            return
        apart = MeasuredLocalizer(bundle, gallery, settings, on, apart=True)
        with apart:
            yield Rig(localizer, apart, tuple(paths), prior)
