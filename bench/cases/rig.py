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

from dphr_infer.files.bundle import Bundle
from dphr_infer.files.gallery import Gallery
from dphr_infer.images.photo import to_photo
from dphr_infer.locate.localizer import Localizer
from dphr_infer.locate.settings import DeviceSettings, LocateSettings
from dphr_infer.measure.clock import now_ms
from dphr_infer.types import LocationEstimate, Prior

DECODE, PREPARE, EMBED, FILTER, MATCH, ESTIMATE = "decode", "prepare", "embed", "filter", "match", "estimate"
STAGES = (DECODE, PREPARE, EMBED, MATCH, ESTIMATE)
STAGES_WITH_PRIOR = (DECODE, PREPARE, EMBED, FILTER, MATCH, ESTIMATE)


@dataclass(frozen=True, slots=True, eq=False)
class Rig:
    """An open localizer, the photos to locate, and the prior if there is one.

    Attributes:
        apart: the same localizer, or on a device that has all in one launch one that keeps its parts apart.
    """

    localizer: Localizer
    apart: Localizer
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
        photo = to_photo(path)
        times_ms.append(now_ms())
        views = apart.prepare(photo.rgb, photo.metadata.yaw_deg)
        times_ms.append(now_ms())
        embeddings = apart.embed(views)
        times_ms.append(now_ms())
        rows = None
        if self.prior is not None:
            rows = apart.rows_in(self.prior)
            times_ms.append(now_ms())
        matches = apart.match(embeddings, rows)
        times_ms.append(now_ms())
        estimate = apart.estimate(matches, photo.metadata.yaw_deg, photo.source)
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
    with Localizer(bundle, gallery, settings, on) as localizer:
        if not localizer.in_one_launch:
            yield Rig(localizer, localizer, tuple(paths), prior)
            return
        with Localizer(bundle, gallery, settings, on, apart=True) as apart:
            yield Rig(localizer, apart, tuple(paths), prior)
