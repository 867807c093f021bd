"""What `locate` and `watch` are asked alike: the gallery, the model and its device, what makes a place accepted."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import ConfigError
from dphr_infer.files.bundle import Bundle, Precision, open_bundle
from dphr_infer.files.gallery import Gallery, open_gallery
from dphr_infer.locate.localizer import AcceptRule, Heading, Localizer
from dphr_infer.locate.open_localizer import open_localizer
from dphr_infer.types import GeoPoint, LocationEstimate


@dataclass(frozen=True, slots=True)
class Prior:
    """Where the drone is known to be: within a radius of a place."""

    near: GeoPoint
    within_m: float

    def __post_init__(self) -> None:
        if not 0 < self.within_m < math.inf:
            raise ConfigError(f"--within is {self.within_m:g} m; a radius above 0 and finite is needed.")


def prior_of(near: GeoPoint | None, within_m: float | None) -> Prior | None:
    """The prior of `--near` and `--within`.

    Raises:
        ConfigError: one without the other, or no radius.
    """
    if near is not None and within_m is not None:
        return Prior(near, within_m)
    if near is not None or within_m is not None:
        raise ConfigError("--near and --within belong together: a place, and the radius around it in metres.")
    return None


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """See `Localizer` and `open_localizer` for the meaning of their parts; `signer` is as of `open_bundle`."""

    bundle: Path
    gallery: Path
    top_k: int
    heading: Heading
    rotations: int
    prior: Prior | None
    accept: AcceptRule
    refine: bool
    precision: Precision
    threads: int | None
    device: str = "cpu"
    signer: Path | None = None

    def open_files(self) -> tuple[Bundle, Gallery]:
        """Bundle and gallery.

        Raises:
            BundleError, GalleryError: one of them is damaged, or no tile lies within the prior.
        """
        bundle, gallery = open_bundle(self.bundle, self.signer), open_gallery(self.gallery)
        if self.prior is not None:
            gallery.allowed_rows(self.prior.near, self.prior.within_m)  # refused here, before the model is opened
        return bundle, gallery

    def open(self, bundle: Bundle, gallery: Gallery) -> AbstractContextManager[Localizer]:
        """The localizer; errors as of `open_localizer`."""
        return open_localizer(
            bundle,
            gallery,
            self.precision,
            self.device,
            self.threads,
            top_k=self.top_k,
            heading=self.heading,
            rotations=self.rotations,
            accept=self.accept,
            refine=self.refine,
        )

    def locate(self, localizer: Localizer, image: NDArray[np.uint8], yaw_deg: float | None) -> LocationEstimate:
        """One image within the prior; arguments and errors as of `Localizer.locate`."""
        if self.prior is None:
            return localizer.locate(image, yaw_deg)
        return localizer.locate(image, yaw_deg, self.prior.near, self.prior.within_m)
