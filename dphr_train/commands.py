"""What each command of dphr-train takes and does; what is heavy is imported as it runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from dphr_infer.errors import DatasetError
from dphr_train.cities.config import CitiesConfig
from dphr_train.config import DatasetName, Rectification, TrainConfig
from dphr_train.config_data import DEFAULT_DATASET


@dataclass(frozen=True)
class Cities:
    """Render the generated benchmark: a data set in a real one's folder layout, or a flight over its unseen city."""

    kind: tyro.conf.Positional[Literal["university1652", "sues200", "flight"]]
    """The folder layout; a flight takes the test city of the same seed and ignores the numbers of places and views."""
    out: tyro.conf.Positional[Path]
    """The folder to write; an interrupted run continues there."""
    frames: int = 60
    """Photos of a flight."""
    pitches_deg: tuple[float, ...] = (-46.0,)
    """Pitches of a flight's camera, one photo after the other in turn; -90 straight down."""
    config: Annotated[CitiesConfig, tyro.conf.arg(name="")] = field(default_factory=CitiesConfig)

    def run(self) -> None:
        """Write the images."""
        if self.kind == "flight":
            from dphr_train.cities.flight import write_flight

            write_flight(self.config, self.out, self.frames, pitches_deg=self.pitches_deg)
        elif self.kind == "sues200":
            from dphr_train.cities.sues import write_sues200

            write_sues200(self.config, self.out)
        else:
            from dphr_train.cities.university import write_university1652

            write_university1652(self.config, self.out)


@dataclass(frozen=True)
class Check:
    """Verify a data set: images and places against the official counts, missing and unreadable files by name."""

    dataset: tyro.conf.Positional[DatasetName]
    root: tyro.conf.Positional[Path]
    """The benchmark's folder."""
    decode: bool = True
    """Decode every image; without it only names and counts are looked at."""
    own: bool = False
    """It is a set of your own in this layout: no count is official, and only missing and unreadable files are wrong."""

    def run(self) -> None:
        """Print what was found; an incomplete set is an error."""
        from dphr_train.datasets.check import format_report
        from dphr_train.datasets.open import open_dataset

        report = open_dataset(self.dataset, self.root).check(self.decode)
        print(format_report(report, self.own))
        if self.own and (report.missing or report.unreadable):
            raise DatasetError(
                f"{self.root} is not whole: {len(report.missing)} files missing, {len(report.unreadable)} unreadable, "
                "see the table. Complete or remove them before training."
            )
        if not self.own and not report.complete:
            differ = sum(count.found != count.official for count in report.counts)
            raise DatasetError(
                f"{self.root} is not the official {self.dataset}: {differ} of {len(report.counts)} counts differ, "
                f"{len(report.missing)} files missing, {len(report.unreadable)} unreadable, see the table. Complete "
                "the download; a part of it can be trained on, but its figures compare with nobody's. For a set of "
                "your own give --own."
            )


@dataclass(frozen=True)
class Fit:
    """Train an encoder. --preset NAME starts from a published recipe (see dphr-train presets); further options change
    it. Under torchrun every process takes its share of each batch.
    """

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
    photos: Annotated[Rectification, tyro.conf.arg(name="")] = field(default_factory=Rectification)

    def run(self) -> None:
        """Print the table; write what was asked for."""
        from dphr_train.evaluate import directions_to_json, format_table
        from dphr_train.failures import draw_failures
        from dphr_train.rank_model import rank_model

        directions = rank_model(self.model, self.data, self.dataset, self.flip, self.device, self.photos)
        print(format_table(directions))
        if self.out is not None:
            _write_json(self.out, directions_to_json(directions))
        if self.failures is not None:
            draw_failures(directions[0], self.failures)


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
    share a line.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs."""
    data: Path | None = None
    """Evaluate the runs on this folder's test split instead of taking their own last evaluation."""
    dataset: DatasetName = DEFAULT_DATASET
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
        from dphr_train.rank_model import rank_model

        return {str(run): directions_to_json(rank_model(run, data, self.dataset)) for run in self.runs}


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
    and without cached gradients.
    """

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


COMMANDS: dict[str, Callable[..., Any]] = {
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
"""The commands by name, as cli.py lists them."""
