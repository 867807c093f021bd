"""dphr-train: make or check data sets, fit an encoder, evaluate it, compare runs."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from dphr_infer.cli.terminal import run_command
from dphr_infer.errors import ConfigError, DatasetError
from dphr_train.cities.config import CitiesConfig
from dphr_train.config import DatasetName, TrainConfig

if TYPE_CHECKING:
    from dphr_train.evaluate import RankedDirection
    from dphr_train.types import Direction


@dataclass(frozen=True)
class Cities:
    """Render the generated benchmark: a data set in a real one's folder layout, or a flight over its unseen city."""

    kind: tyro.conf.Positional[Literal["university1652", "sues200", "flight"]]
    """The folder layout; a flight takes the test city of the same seed and ignores the numbers of places and views."""
    out: tyro.conf.Positional[Path]
    """The folder to write; an interrupted run continues there."""
    frames: int = 60
    """Photos of a flight."""
    config: Annotated[CitiesConfig, tyro.conf.arg(name="")] = field(default_factory=CitiesConfig)

    def run(self) -> None:
        """Write the images."""
        if self.kind == "flight":
            from dphr_train.cities.flight import write_flight

            write_flight(self.config, self.out, self.frames)
        elif self.kind == "sues200":
            from dphr_train.cities.sues import write_sues200

            write_sues200(self.config, self.out)
        else:
            from dphr_train.cities.university import write_university1652

            write_university1652(self.config, self.out)


@dataclass(frozen=True)
class Check:
    """Verify a download: images and places against the official counts, missing and unreadable files by name."""

    dataset: tyro.conf.Positional[DatasetName]
    root: tyro.conf.Positional[Path]
    """The benchmark's folder."""
    decode: bool = True
    """Decode every image; without it only names and counts are looked at."""

    def run(self) -> None:
        """Print what was found; an incomplete set is an error."""
        from dphr_train.datasets.check import format_report
        from dphr_train.datasets.open import open_dataset

        report = open_dataset(self.dataset, self.root).check(self.decode)
        print(format_report(report))
        if not report.complete:
            differ = sum(count.found != count.official for count in report.counts)
            raise DatasetError(
                f"{self.root} is not the official {self.dataset}: {differ} of {len(report.counts)} counts differ, "
                f"{len(report.missing)} files missing, {len(report.unreadable)} unreadable, see the table. Complete "
                "the download; a part of it can be trained on, but its figures compare with nobody's."
            )


@dataclass(frozen=True)
class Fit:
    """Train an encoder. --preset NAME starts from a published recipe (see dphr-train presets); further options change
    it. Under torchrun every process takes its share of each batch."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)
    resume: bool = False
    """Continue the run in --out exactly where its last checkpoint stands."""

    def run(self) -> None:
        """Train to the end."""
        from dphr_train.distributed import joined, read_world
        from dphr_train.trainer import Trainer

        world = read_world()
        with joined(world, self.config.device):
            Trainer(self.config, self.resume, world).run()


@dataclass(frozen=True)
class Presets:
    """List the published recipes: name, data set, encoder, batch, epochs."""

    def run(self) -> None:
        """Print the table."""
        from dphr_train.presets.catalogue import PRESETS

        for name, config in PRESETS.items():
            optim = config.optim
            print(
                f"{name:<28} {config.data.dataset:<14} {config.model.name} {config.model.head}, "
                f"batch {optim.batch_size}, {optim.epochs:g} epochs"
            )


@dataclass(frozen=True)
class Evaluate:
    """Measure recall and average precision by the benchmark's rules, in each of its directions."""

    model: tyro.conf.Positional[Literal["imagenet"] | Path]
    """A checkpoint, a run's folder, a bundle, or the word imagenet: the ImageNet network without any training on
    places, at 128 px."""
    data: Path
    """The benchmark's folder."""
    dataset: DatasetName | None = None
    """The benchmark; None takes the one that the checkpoint was trained on, or university1652."""
    flip: bool = False
    """Add the embedding of the mirrored image to each image's own, as the official University-1652 test does."""
    out: Path | None = None
    """Write the figures as JSON."""
    failures: Path | None = None
    """Write a PNG of the worst failures: query, truth, top 5."""
    device: str = "cpu"
    """"cpu", "cuda" or "cuda:N"; a bundle takes the first GPU."""

    def run(self) -> None:
        """Print the table; write what was asked for."""
        from dphr_train.evaluate import directions_to_json, format_table
        from dphr_train.failures import draw_failures

        directions = self.rank()
        print(format_table(directions))
        if self.out is not None:
            _write_json(self.out, directions_to_json(directions))
        if self.failures is not None:
            draw_failures(directions[0], self.failures)

    def rank(self) -> list[RankedDirection]:
        """Embed and rank in each direction."""
        from dphr_infer.files.manifest import MANIFEST_NAME
        from dphr_train.checkpoint import last_checkpoint, load_encoder, read_checkpoint
        from dphr_train.config import DataConfig, ModelConfig
        from dphr_train.device import require_device
        from dphr_train.encoder import Encoder, load_pretrained
        from dphr_train.evaluate import evaluate, network_embedder

        if self.model != "imagenet" and (self.model / MANIFEST_NAME).is_file():
            return self._rank_bundle(self.model)
        require_device(self.device)
        if self.model == "imagenet":
            model, data = ModelConfig(pooling="average"), DataConfig(image_px=128)
            encoder = Encoder(model, data.image_px)
            load_pretrained(encoder, model.weights)
        else:
            path = last_checkpoint(self.model)
            encoder, data = load_encoder(path)[0], read_checkpoint(path).config.data
        embed = network_embedder(encoder.to(self.device), data.preprocess, self.device, self.flip)
        return evaluate(embed, self._directions(data.dataset))

    def _rank_bundle(self, folder: Path) -> list[RankedDirection]:
        """As it flies: an engine of a bundle runs on the first GPU that it sees."""
        from dphr_infer.files.bundle import open_bundle
        from dphr_infer.locate.embedder import Embedder
        from dphr_infer.locate.open_engine import open_engine
        from dphr_train.evaluate import bundle_embedder, evaluate

        name, _, number = self.device.partition(":")
        if name == "cuda" and number.strip("0"):
            raise ConfigError(
                f"--device is {self.device}, but {folder} is a bundle, whose engine takes the first GPU: give --device "
                "cuda and choose the GPU by CUDA_VISIBLE_DEVICES."
            )
        bundle = open_bundle(folder)
        directions = self._directions("university1652")
        with open_engine(bundle, device="cuda" if name == "cuda" else self.device) as engine:
            return evaluate(bundle_embedder(Embedder(bundle.manifest.preprocess, engine), self.flip), directions)

    def _directions(self, trained_on: DatasetName) -> list[Direction]:
        from dphr_train.datasets.open import open_dataset

        name = self.dataset or trained_on
        directions = open_dataset(name, self.data).test_directions()
        if not directions:
            raise DatasetError(f"{self.data} has no test split of {name}: give --data a folder that has one.")
        return directions


@dataclass(frozen=True)
class Ablate:
    """Train every row of DPHR's ablation with every seed; write ablation.json, .md and .png into --out."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)
    seeds: tuple[int, ...] = (0, 1, 2)
    """A run of each row for each; what has ended is not made again."""

    def run(self) -> None:
        """Train and print the table."""
        from dphr_train.ablation import run_ablation
        from dphr_train.compare import to_markdown

        print(to_markdown(run_ablation(self.config, self.seeds)), end="")


@dataclass(frozen=True)
class Compare:
    """Print finished runs as one table, a gain over the first line in brackets; runs that differ in their seed alone
    share a line."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs."""
    data: Path | None = None
    """Evaluate the runs on this folder's test split instead of taking their own last evaluation."""
    dataset: DatasetName = "university1652"
    """The layout of --data."""
    plot: Path | None = None
    """Write the comparison as a PNG."""

    def run(self) -> None:
        """Print the table; draw the plot."""
        from dphr_train.compare import draw_rows, group_runs, to_markdown
        from dphr_train.run_record import read_record

        records = {str(run): read_record(run) for run in self.runs}
        rows = group_runs(records, None if self.data is None else self._evaluations(self.data))
        print(to_markdown(rows), end="")
        if self.plot is not None:
            draw_rows(rows, self.plot)

    def _evaluations(self, data: Path) -> dict[str, Any]:
        from dphr_train.evaluate import directions_to_json

        return {str(run): directions_to_json(Evaluate(run, data, self.dataset).rank()) for run in self.runs}


@dataclass(frozen=True)
class Tiles:
    """Cut two maps of the same ground, of two years say, into a test split: tiles of one are looked up in the other."""

    query_map: tyro.conf.Positional[Path]
    """A georeferenced raster; its squares become the queries."""
    gallery_map: tyro.conf.Positional[Path]
    """Another raster of the same ground, on any grid; its squares become the gallery."""
    out: Path
    """The folder to write, in University-1652's layout."""
    tile_m: float = 400.0
    """Side of a square on the ground."""
    stride_m: float = 0.0
    """Distance between squares; 0 takes tile-m. Below it neighbours overlap, and look alike."""
    image_px: int = 128
    """Side of the pictures."""
    split: Literal["train", "test"] = "test"
    """A map paired with itself as train gives pairs without any label: augmentation alone tells the two apart."""

    def run(self) -> None:
        """Write the pictures."""
        from dphr_train.datasets.raster_pair import write_raster_pair

        stride_m = self.stride_m or self.tile_m
        report = write_raster_pair(
            self.query_map, self.gallery_map, self.out, self.tile_m, stride_m, self.image_px, self.split
        )
        print(f"{report.places} squares written, {report.refused} refused because a map does not show all of them.")


@dataclass(frozen=True)
class Throughput:
    """Measure the training loop: images/s beside a plain loop's, its waiting for the loader, and the peak memory with
    and without cached gradients."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)
    steps: int = 10
    """Timed steps of a block."""
    repeats: int = 7
    """Blocks of each loop, alternating."""
    memory_batch: int = 128
    """Pairs of the batch whose memory is measured."""
    memory_chunk: int = 16
    """Pairs of a chunk there."""
    json_out: Path | None = None
    """Write the report as JSON."""

    def run(self) -> None:
        """Print the table."""
        from dphr_train.throughput import format_table, measure_throughput, to_json

        report = measure_throughput(self.config, self.steps, self.repeats, self.memory_batch, self.memory_chunk)
        print(format_table(report))
        if self.json_out is not None:
            _write_json(self.json_out, to_json(report))


def _write_json(path: Path, values: dict[str, Any]) -> None:
    from dphr_infer.files.atomic import atomic_file

    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n")


_COMMANDS: dict[str, Callable[..., Any]] = {
    "cities": Cities,
    "tiles": Tiles,
    "check": Check,
    "presets": Presets,
    "fit": Fit,
    "evaluate": Evaluate,
    "compare": Compare,
    "ablate": Ablate,
    "throughput": Throughput,
}
_PRESET = "--preset"


def take_preset(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The value of --preset, if it is given, and the other arguments.

    Raises:
        ConfigError: it has no value, or belongs to a command that does not train.
    """
    for number, argument in enumerate(arguments):
        if argument.partition("=")[0] == _PRESET:
            _, equals, name = argument.partition("=")
            rest = arguments[:number] + arguments[number + (1 if equals else 2) :]
            name = name if equals else "".join(arguments[number + 1 : number + 2])
            if not name or name.startswith("-"):
                raise ConfigError("--preset needs a name: dphr-train presets lists them.")
            if rest and not rest[0].startswith("-"):
                if rest[0] != "fit":
                    raise ConfigError(f"--preset belongs to fit, not to {rest[0]}: leave it out there.")
                rest = rest[1:]
            return name, rest
    return None, arguments


def _log_to_stderr() -> None:
    """Show what the training logs, a line each, without a level: it is meant for people."""
    logger = logging.getLogger("dphr_train")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)


def _run() -> None:
    _log_to_stderr()
    preset_name, arguments = take_preset(sys.argv[1:])
    if preset_name is None:
        tyro.extras.subcommand_cli_from_dict(_COMMANDS, prog="dphr-train", description=__doc__, args=arguments).run()
        return
    from dphr_train.presets.catalogue import preset, require_weights

    command = tyro.cli(Fit, prog="dphr-train fit", args=arguments, default=Fit(preset(preset_name)))
    require_weights(command.config, preset_name)
    command.run()


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run_command("dphr-train", _run))
