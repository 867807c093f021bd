"""What to export, from where, and how it is judged: every default of an export, once. Reads no file, loads no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dphr_infer.errors import ExportError
from dphr_infer.locate.settings import Heading
from dphr_infer.types import Precision
from dphr_train.config import DatasetName, Pooling
from dphr_train.config_data import DEFAULT_DATASET

Weights = Literal["int8", "float"]
OPSET = 18
MIN_CALIBRATION_IMAGES = 16


@dataclass(frozen=True, slots=True)
class TimmSource:
    """A timm network instead of a checkpoint; see `from_timm` of sources."""

    name: str
    image_px: int
    weights: Path | Literal["embedded", "random"] | None
    pooling: Pooling = "average"


@dataclass(frozen=True, slots=True)
class Int8Options:
    """How to make an int8 model.

    Attributes:
        n_calibration_images: training images that ranges are measured on, half of them of each view.
        weights: "int8" stores them so; "float" stores halves behind Q/DQ pairs, for TensorRT before 10.
    """

    n_calibration_images: int = 256
    weights: Weights = "int8"

    def __post_init__(self) -> None:
        if self.n_calibration_images < MIN_CALIBRATION_IMAGES:
            raise ExportError(
                f"{self.n_calibration_images} calibration images were asked for; at least {MIN_CALIBRATION_IMAGES} are "
                "needed, or the ranges of int8 do not hold on other images. Ask for 100 or more."
            )


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What to export, and on which images it is judged.

    Attributes:
        source: checkpoint of a training run, its folder, or a timm network; a bundle for `add_int8`.
        data: the data set whose test split the gate and the self-test take images from, and, for int8, whose training
            split calibrates.
        out: the bundle folder; it must not exist.
        precisions: the models to make, each at most once.
        optional: those of them that the bundle may do without: one that fails the gate is left out, and said to be.
        max_images: of the evaluation set; cut evenly over its places.
        dataset: the benchmark in `data`.
        int8: how to make that model, where it is among the precisions.
        opset: of the ONNX files.
    """

    source: Path | TimmSource
    data: Path
    out: Path
    precisions: tuple[Precision, ...] = ("fp32", "fp16")
    optional: tuple[Precision, ...] = ()
    max_images: int = 2000
    dataset: DatasetName = DEFAULT_DATASET
    int8: Int8Options = field(default_factory=Int8Options)
    opset: int = OPSET

    def __post_init__(self) -> None:
        if not self.precisions or len(set(self.precisions)) != len(self.precisions):
            raise ExportError(f"Precisions are {self.precisions}; name at least one, and each at most once.")
        for precision in self.optional:
            if precision not in self.precisions:
                raise ExportError(
                    f"{precision} is optional, but the precisions are {' '.join(self.precisions)}: name it among "
                    "them, or leave it out of the optional ones."
                )


@dataclass(frozen=True, slots=True)
class CalibrateRequest:
    """What to calibrate, and on which flights.

    Attributes:
        bundle: its folder.
        flights: folders as `dphr-train cities flight` writes them, each over a map that training never saw.
        out: the bundle folder; it must not exist.
        tile_m, stride_m: of the galleries, as for `dphr-infer index`.
        alpha: the most that may be wrong among what is accepted, in (0, 0.5].
        heading: "as-is", or "north" where photos that cannot be rectified are to be turned by their yaw.
        precision: which of the bundle's models embeds.
        seed: of the simulated odometry's errors.
        threads: of the engine; None takes every core.
    """

    bundle: Path
    flights: tuple[Path, ...]
    out: Path
    tile_m: float
    stride_m: float
    alpha: float = 0.05
    heading: Heading = "as-is"
    precision: Precision = "fp32"
    seed: int = 0
    threads: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 0.5:
            raise ExportError(f"`alpha` is {self.alpha:g}; expected a share above 0 and at most 0.5.")
        if self.heading == "search":
            raise ExportError('`heading` is "search"; a flight is calibrated with one view per photo: as-is or north.')
        if not self.flights:
            raise ExportError("No flight was named. Name folders with a map, photos/ and truth.csv: --flights DIR…")
