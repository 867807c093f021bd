"""What is trained on: the data set, how its images are read, and how they are augmented."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dphr_infer.images.preprocess import Interpolation, Preprocess
from dphr_train.config_checks import bounded, chosen, require

SuesName = Literal["sues200-150", "sues200-200", "sues200-250", "sues200-300"]
GroundName = Literal["cvusa", "cvact-val", "cvact-test", "vigor-same", "vigor-cross"]
DatasetName = Literal["university1652", SuesName, GroundName]
Rectify = Literal["off", "auto", "all"]

DEFAULT_DATASET: DatasetName = "university1652"
"""Where none is named: the layout that dphr-train cities writes."""


@dataclass(frozen=True, slots=True)
class DataConfig:
    """What is trained on.

    Attributes:
        dataset: the benchmark, with its height, split or area where it has several.
        root: its folder, in the official layout.
        image_px: side of the square model input.
        ground_px: (height, width) of the ground panorama's model input; None takes the square of image_px.
        interpolation: the antialiased resize.
        cache: keep decoded images at model size in memory (uint8) after their first use.
        workers: processes that decode and augment; 0 does it in the main process.
        rectify: bring drone photos to a view from straight above, north up, by the attitude in their metadata, as
            `dphr-infer` does. "off" takes them as they are; "auto" rectifies those whose attitude is known and logs how
            many are left as they are; "all" refuses a data set with a photo whose attitude is not known.
        tile_m: side of the square of ground around its middle that a rectified photo becomes: what a satellite image
            shows; 160 for generated cities.
    """

    dataset: DatasetName = DEFAULT_DATASET
    root: Path = Path("data")
    image_px: int = 128
    ground_px: tuple[int, int] | None = None
    interpolation: Interpolation = "bilinear"
    cache: bool = True
    workers: int = 0
    rectify: Rectify = "off"
    tile_m: float = 0.0

    def preprocess(self, view: Literal["drone", "satellite", "ground"] = "satellite") -> Preprocess:
        """How an image of a view becomes model input, in training, validation and flight alike."""
        if view == "ground" and self.ground_px is not None:
            return Preprocess(*self.ground_px, self.interpolation, fit="stretch")
        return Preprocess(self.image_px, self.image_px, self.interpolation)

    def __post_init__(self) -> None:
        self.preprocess()
        self.preprocess("ground")
        chosen("data.", self, dataset=DatasetName, rectify=Rectify)
        bounded("data.", self, "[0, inf)", "workers")
        require(
            self.ground_px is None or not self.dataset.startswith(("university", "sues")),
            f"data.ground-px is {self.ground_px}, but {self.dataset} has no ground panoramas: leave it out.",
        )
        require(
            self.rectify == "off" or self.dataset.startswith(("university", "sues")),
            f"data.rectify is {self.rectify}, but {self.dataset} has no drone photos: leave it off.",
        )
        require(
            self.rectify == "off" or 0 < self.tile_m < math.inf,
            f"data.tile-m is {self.tile_m:g}, but data.rectify is {self.rectify}: give the side of the ground that a "
            "satellite image shows, in metres.",
        )


@dataclass(frozen=True, slots=True)
class Rectification:
    """Whether drone photos are rectified; None takes what the model was trained with, off where that is not known."""

    rectify: Rectify | None = None
    """"off" takes drone photos as they are; "auto" rectifies those whose metadata tells their attitude and leaves the
    others as they are; "all" refuses a data set that has others."""
    tile_m: float | None = None
    """Side of the square of ground that a rectified photo becomes: what a satellite image shows."""


@dataclass(frozen=True, slots=True)
class AugmentConfig:
    """Sample4Geo's augmentation (Deuser et al., ICCV 2023), each with its probability.

    Attributes:
        jpeg: re-encode at quality 90-100.
        colour_jitter: brightness, contrast, saturation and hue; `colour_strength` is the range.
        blur_or_sharpen: one of the two.
        dropout: one of grid dropout and coarse dropout.
        flip: mirror both views of a pair together.
        rotate_satellite: turn the satellite view by a random multiple of 90 degrees (drones fly at any heading); a
            rectified photo, whose top is north, turns with it.
        rotate_pair: turn the satellite view by 90, 180 or 270 degrees and roll the panorama by as many quarters of its
            width, so that both still face the same way; for ground panoramas only.
        zoom: take a random centred part of at least 1 - zoom of the side, each view on its own.
            Ours, not Sample4Geo's: the drone's height is not known exactly.
        pitch_sigma_deg, roll_sigma_deg, yaw_sigma_deg, height_sigma: standard deviations by which the attitude of a
            rectified photo is changed before it is rectified, the height's as a share of it. Ours: a drone's attitude
            is not known exactly either. Any of them above 0 decodes photos each time, whatever data.cache says.
    """

    jpeg: float = 0.0
    colour_jitter: float = 0.5
    colour_strength: float = 0.15
    blur_or_sharpen: float = 0.3
    dropout: float = 0.3
    flip: float = 0.5
    rotate_satellite: bool = True
    rotate_pair: float = 0.0
    zoom: float = 0.0
    pitch_sigma_deg: float = 0.0
    roll_sigma_deg: float = 0.0
    yaw_sigma_deg: float = 0.0
    height_sigma: float = 0.0

    @property
    def jitters_attitude(self) -> bool:
        """Whether a photo is rectified by another attitude each time."""
        return any((self.pitch_sigma_deg, self.roll_sigma_deg, self.yaw_sigma_deg, self.height_sigma))

    def __post_init__(self) -> None:
        probabilities = ("jpeg", "colour_jitter", "blur_or_sharpen", "dropout", "flip", "rotate_pair")
        bounded("augment.", self, "[0, 1]", *probabilities, "colour_strength")
        bounded("augment.", self, "[0, 0.9)", "zoom")
        bounded("augment.", self, "[0, 30]", "pitch_sigma_deg", "roll_sigma_deg", "yaw_sigma_deg")
        bounded("augment.", self, "[0, 0.5]", "height_sigma")
