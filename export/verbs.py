"""The verbs of dphr-export with their options, and which options do not go together. commands.py does the work."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from dphr_infer.errors import ConfigError
from dphr_infer.types import Precision
from dphr_train.config import DatasetName, Pooling
from dphr_train.config_data import DEFAULT_DATASET
from export import commands
from export.request import CalibrateRequest, ExportRequest, Int8Options, TimmSource, Weights

_REQUEST: dict[str, Any] = {name: each.default for name, each in ExportRequest.__dataclass_fields__.items()}
_CALIBRATE: dict[str, Any] = {name: each.default for name, each in CalibrateRequest.__dataclass_fields__.items()}
_INT8 = Int8Options()
_NAMED_WEIGHTS: dict[str, Literal["embedded", "random"]] = {"embedded": "embedded", "random": "random"}
_Number = Annotated[int | None, tyro.conf.arg(metavar="N")]
_MIN_IMAGE_PX, _MAX_IMAGE_PX = 16, 2048


@dataclass(frozen=True)
class Judging:
    """On which images a bundle is judged, and where it goes."""

    out: Annotated[Path, tyro.conf.arg(metavar="BUNDLE")]
    """Folder to make; it must not exist."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Data set whose test split the gate runs on; needed."""
    dataset: DatasetName = _REQUEST["dataset"]
    """Its layout; dphr-train cities writes university1652."""
    max_images: int = _REQUEST["max_images"]
    """Images that the gate compares, spread over the places."""
    calibration_images: Annotated[
        int | None,
        tyro.conf.arg(
            metavar="N",
            help=f"Training images that int8 ranges are measured on; None is {_INT8.n_calibration_images}.",
        ),
    ] = None
    int8_weights: Weights | None = None
    """How the int8 model stores weights: int8 (None too), or float for a runtime that takes no int8 constants."""

    def request(self, source: Path | TimmSource, data: Path, **choices: Any) -> ExportRequest:
        """What `build_bundle` and `add_int8` take."""
        count = _INT8.n_calibration_images if self.calibration_images is None else self.calibration_images
        int8 = Int8Options(count, self.int8_weights or _INT8.weights)
        return ExportRequest(
            source, data, self.out, max_images=self.max_images, dataset=self.dataset, int8=int8, **choices
        )

    def require_int8(self, precisions: tuple[Precision, ...]) -> None:
        """Refuse options of int8 where no int8 model is made.

        Raises:
            ConfigError: one was given.
        """
        for option, value in (
            ("--calibration-images", self.calibration_images),
            ("--int8-weights", self.int8_weights),
        ):
            if "int8" not in precisions and value is not None:
                raise ConfigError(
                    f"{option} is about int8, but the precisions are {' '.join(precisions)}. Add int8 to --precisions, "
                    f"or leave {option} out."
                )


@dataclass(frozen=True)
class Bundle:
    """Export a checkpoint or a timm network."""

    judging: Annotated[Judging, tyro.conf.arg(name="")]
    checkpoint: Annotated[str | None, tyro.conf.arg(metavar="CHECKPOINT"), tyro.conf.Positional] = None
    """Checkpoint of a training run, or the run's folder."""
    encoder: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """A timm network instead of a checkpoint."""
    weights: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """Its weights, needed: a file, embedded (tf_efficientnet_lite0) or random."""
    image_px: _Number = None
    """Side of its input, needed."""
    pooling: Pooling | None = None
    """Of its features, in place of a checkpoint's; None is average."""
    precisions: tuple[Precision, ...] = _REQUEST["precisions"]
    """Models to make."""
    optional: tuple[Precision, ...] = _REQUEST["optional"]
    """Precisions to leave out of the bundle when they fail the gate, and say so, instead of refusing the bundle."""
    opset: int = _REQUEST["opset"]
    """Of the ONNX files."""

    def run(self) -> None:
        """Write the bundle."""
        source, data = self._source(), self.judging.data
        if data is None:
            raise ConfigError(
                "No --data was given. The parity gate compares the exported models with torch on real drone and "
                "satellite images, and the bundle's self-test is taken from them: name a data set with a test split, "
                "such as the one of the training run, or one that dphr-train cities writes."
            )
        self.judging.require_int8(self.precisions)
        choices = {"precisions": self.precisions, "optional": self.optional, "opset": self.opset}
        commands.bundle(self.judging.request(source, data, **choices))

    def _source(self) -> Path | TimmSource:
        if (self.checkpoint is None) == (self.encoder is None):
            raise ConfigError("Name either a checkpoint or, with --encoder, a timm network: one of the two.")
        if self.encoder is None:
            for option, value in (
                ("--weights", self.weights),
                ("--image-px", self.image_px),
                ("--pooling", self.pooling),
            ):
                if value is not None:
                    raise ConfigError(f"{option} belongs to --encoder; a checkpoint has its own. Leave {option} out.")
            if not self.checkpoint:
                raise ConfigError("The name of the checkpoint is empty. Name the file, or the folder of its run.")
            return Path(self.checkpoint)
        if self.image_px is None:
            raise ConfigError(f"--encoder {self.encoder} needs --image-px, the side of its input, such as 224.")
        if self.weights == "":
            raise ConfigError("--weights is empty. Name a file, or give embedded or random.")
        require_image_px(self.image_px)
        weights = None if self.weights is None else _NAMED_WEIGHTS.get(self.weights) or Path(self.weights)
        return TimmSource(self.encoder, self.image_px, weights, self.pooling or "average")


@dataclass(frozen=True)
class AddInt8:
    """Give a bundle an int8 model."""

    bundle: tyro.conf.Positional[Path]
    """A bundle with an fp32 and an fp16 model."""
    judging: Annotated[Judging, tyro.conf.arg(name="")]

    def run(self) -> None:
        """Write the new bundle."""
        if self.judging.data is None:
            raise ConfigError(
                "No --data was given. int8 is calibrated on the training split of a data set, and judged on its test "
                "split: name one with both, of images like those that the drone will see."
            )
        commands.add_int8(self.judging.request(self.bundle, self.judging.data))


@dataclass(frozen=True)
class Calibrate:
    """Calibrate a bundle."""

    bundle: tyro.conf.Positional[Path]
    """The bundle to calibrate."""
    flights: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DIR")]
    """Folders with a map (*.tif), photos/ and truth.csv, as dphr-train cities flight writes them; maps that training
    never saw."""
    out: Annotated[Path, tyro.conf.arg(metavar="BUNDLE")]
    """Folder to make; it must not exist."""
    tile_m: float
    """Side of the galleries' tiles."""
    stride_m: float
    """Distance between their centres."""
    alpha: float = _CALIBRATE["alpha"]
    """The most that may be wrong among what is accepted, by its upper bound at 95 %."""
    heading: Annotated[Literal["as-is", "north"], tyro.conf.arg(help="Of photos that cannot be rectified.")] = (
        _CALIBRATE["heading"]
    )
    precision: Precision = _CALIBRATE["precision"]
    """Model that embeds."""
    seed: int = _CALIBRATE["seed"]
    """Of the simulated odometry's errors."""
    threads: _Number = None
    """CPU threads of the engine; None takes every core."""

    def run(self) -> None:
        """Write the calibrated bundle."""
        commands.calibrate(CalibrateRequest(**{field.name: getattr(self, field.name) for field in fields(self)}))


@dataclass(frozen=True)
class Build:
    """Build TensorRT engines."""

    bundle: tyro.conf.Positional[Path]
    """A bundle."""
    engines: Annotated[commands.Engines, tyro.conf.arg(name="")] = field(default_factory=commands.Engines)
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write the table there too, for report --engines."""

    def run(self) -> None:
        """Print what was built."""
        commands.build(self.bundle, self.engines, self.json)


@dataclass(frozen=True)
class MakeKey:
    """Make a key pair."""

    key: Annotated[Path, tyro.conf.arg(metavar="KEY.pem"), tyro.conf.Positional]
    """The private key to write; it must not exist."""

    def run(self) -> None:
        """Write both keys."""
        commands.make_key(self.key)


@dataclass(frozen=True)
class Sign:
    """Sign a bundle."""

    bundle: tyro.conf.Positional[Path]
    """The bundle to sign."""
    key: Annotated[Path, tyro.conf.arg(metavar="KEY.pem")]
    """The private key."""

    def run(self) -> None:
        """Write the signature."""
        commands.sign(self.bundle, self.key)


@dataclass(frozen=True)
class ImportSample4Geo:
    """Convert weights."""

    weights: Annotated[Path, tyro.conf.arg(metavar="WEIGHTS.pth"), tyro.conf.Positional]
    """A state dict; also .safetensors."""
    encoder: str
    """timm name of the network."""
    image_px: int
    """Side of the square images."""
    out: Annotated[Path, tyro.conf.arg(metavar="CHECKPOINT")]
    """File to write."""
    dataset: DatasetName = DEFAULT_DATASET
    """What they were trained on."""
    ground_px: Annotated[tuple[int, int] | None, tyro.conf.arg(metavar="H W")] = None
    """Size of the panoramas, if not the authors'."""

    def run(self) -> None:
        """Write the checkpoint."""
        from export.sources.sample4geo import import_sample4geo

        require_image_px(self.image_px)
        written = import_sample4geo(self.weights, self.encoder, self.image_px, self.out, self.dataset, self.ground_px)
        commands.say_checkpoint(written)


@dataclass(frozen=True)
class Timing:
    """How latency is measured."""

    seconds: float = 5.0
    """For each batch size."""
    threads: int = 0
    """Of ONNX Runtime; 0 takes all cores."""


@dataclass(frozen=True)
class Report:
    """Report on a bundle."""

    bundle: tyro.conf.Positional[Path]
    """The bundle to measure."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder to make; it must not exist."""
    engines: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """What build --json wrote."""
    timing: Annotated[Timing, tyro.conf.arg(name="")] = field(default_factory=Timing)

    def run(self) -> None:
        """Write the report."""
        commands.report(self.bundle, self.out, self.engines, self.timing.seconds, self.timing.threads)


@dataclass(frozen=True)
class Compare:
    """Compare bundles."""

    bundles: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="BUNDLE..."), tyro.conf.Positional]
    """Two bundles or more, whose gates ran on the same images."""
    timing: Annotated[Timing, tyro.conf.arg(name="")] = field(default_factory=Timing)

    def run(self) -> None:
        """Print the table."""
        commands.compare(self.bundles, self.timing.seconds, self.timing.threads)


VERB_TYPES: dict[str, type[Any]] = {
    "bundle": Bundle,
    "add-int8": AddInt8,
    "calibrate": Calibrate,
    "build": Build,
    "make-key": MakeKey,
    "sign": Sign,
    "import-sample4geo": ImportSample4Geo,
    "report": Report,
    "compare": Compare,
}


def require_image_px(image_px: int) -> None:
    """Refuse a side that no network here takes, before one is made for it.

    Raises:
        ConfigError: not within 16..2048 px.
    """
    if not _MIN_IMAGE_PX <= image_px <= _MAX_IMAGE_PX:
        raise ConfigError(
            f"--image-px is {image_px}; the square input of a network has a side of {_MIN_IMAGE_PX} to "
            f"{_MAX_IMAGE_PX} px. 224 and 384 are usual."
        )
