"""What a run is asked for, checked before anything is opened; also the options of `dphr-bench run`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dphr_infer.cli.requests import Search
from dphr_infer.errors import ConfigError
from dphr_infer.locate.settings import Scan
from dphr_infer.types import Precision

Scenario = Literal["single-stream", "multi-stream", "offline", "camera", "flight", "endurance"]
MAX_BATCH = 1024
DEFAULT_BATCHES = (1, 2, 4, 8, 16)
DEFAULT_NOISE = 0.01
# One photo at a time, for its p99, and a camera, for its rate, get so many times the time of each other case.
SINGLE_STREAM_SHARE = 4
MATCH_TOP_K = 10
MIN_CELLS = 100


def parse_share(text: str) -> float:
    """A share such as "5%" or "0.05".

    Raises:
        ValueError: it is no number, or outside 0 to 10.
    """
    body = text.strip()
    try:
        value = float(body.removesuffix("%")) / (100 if body.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 10:
        raise ValueError(f'{text!r} is no share of 0 to 10: write it as "5%" or "0.05"')
    return value


def parse_count(text: str) -> int:
    """A whole number, also as 1e6.

    Raises:
        ValueError: it is none, or below 1.
    """
    value = float(text)
    if not (1 <= value < math.inf and value == int(value)):
        raise ValueError(f"{text!r} is no whole number from 1 on, such as 10000 or 1e4")
    return int(value)


def _by(parse: object, metavar: str, show: object = str) -> tyro.constructors.PrimitiveConstructorSpec:  # type: ignore[type-arg]
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: parse(words[0]),  # type: ignore[operator]
        is_instance=lambda value: isinstance(value, int | float),
        str_from_instance=lambda value: [show(value)],  # type: ignore[operator]
    )


Share = Annotated[float, _by(parse_share, "SHARE", "{:g}".format)]
Count = Annotated[int, _by(parse_count, "N")]


@dataclass(frozen=True, slots=True)
class BenchRequest:
    """What to measure."""

    bundle: tyro.conf.Positional[Path]
    """Folder made by dphr-export."""
    gallery: tyro.conf.Positional[Path | None] = None
    """File of dphr-infer index; without, only embedding."""
    images: Path | None = None
    """Folder of photos; without, the bundle's self-test images."""
    search: Search = field(default_factory=Search)
    scenarios: tuple[Scenario, ...] = ("single-stream", "multi-stream", "offline")
    """Which scenarios to measure; none without a name."""
    streams: int = 4
    """Photos per batch of multi-stream."""
    rate_hz: float = 10.0
    """Frames per second of camera."""
    minutes: float = 30.0
    """Of endurance."""
    batches: tuple[int, ...] = DEFAULT_BATCHES
    """Batch sizes of the throughput table; the largest is that of offline."""
    seconds: float = 3.0
    """At most, for each case; single-stream, camera and flight take four times as long."""
    noise: Share = DEFAULT_NOISE
    """End a case earlier once the 95 % interval of its p50 is narrower than ± this share of it, as 1%; 0 never does."""
    startups: int = 5
    """Warm starts of locate, after a cold one; 0 for none."""
    peers: bool = False
    """Measure others beside ours where they are installed."""
    checkpoint: Path | None = None
    """Of the bundle's model: torch is a peer of embedding too."""
    truth: Path | None = None
    """CSV of where the photos are, as in locate."""
    least_recall: Share | None = None
    """Share of the photos with truth that must be located for the run to be valid, as 60%."""
    recall_within: float = 40.0
    """Of their truth, in metres."""

    def __post_init__(self) -> None:
        if not self.batches or min(self.batches) < 1 or max(self.batches) > MAX_BATCH:
            raise ConfigError(f"Batches are {self.batches}: give sizes in 1..{MAX_BATCH}.")
        if not 1 <= self.streams <= MAX_BATCH:
            raise ConfigError(f"--streams is {self.streams}: give a batch in 1..{MAX_BATCH}.")
        for option, value in (("Seconds", self.seconds), ("--rate-hz", self.rate_hz), ("--minutes", self.minutes)):
            if not 0 < value < math.inf:
                raise ConfigError(f"{option} is {value:g}: give a finite value above 0.")
        if not 0 <= self.noise < 1:
            raise ConfigError(f"--noise is {self.noise:g}: give a share of the p50 in 0..1, such as 0.01.")
        if self.startups < 0:
            raise ConfigError(f"--startups is {self.startups}: give 0 for none, or how many.")
        self._check_accuracy()

    def _check_accuracy(self) -> None:
        if (self.truth is None) != (self.least_recall is None):
            raise ConfigError(
                "--truth and --least-recall belong together: where the photos are, and the share of them that must be "
                f"located within --recall-within {self.recall_within:g} m for the run to be valid."
            )
        if self.least_recall is not None and not (0 <= self.least_recall <= 1 and self.recall_within > 0):
            raise ConfigError(
                f"--least-recall is {self.least_recall:g} within {self.recall_within:g} m: give a share in 0..1 "
                "and a distance above 0 m."
            )
        if self.checkpoint is not None and not self.peers:
            raise ConfigError("--checkpoint is of the peers' model, and --peers was not given: add it.")
        if self.gallery is None and (self.truth is not None or self.search.near is not None):
            raise ConfigError("--truth and --near need a gallery: without one no photo is located.")

    @property
    def threads(self) -> int:
        """Of the engine and of the matcher; 0 are all cores."""
        return self.search.on.threads or 0

    def seconds_of(self, scenario: str) -> float:
        """How long a scenario may take at most."""
        if scenario == "endurance":
            return 60 * self.minutes
        return self.seconds * (SINGLE_STREAM_SHARE if scenario in ("single-stream", "camera", "flight") else 1)


@dataclass(frozen=True, slots=True)
class Grid:
    """What all sweeps are asked for."""

    seconds: float = 2.0
    """At most, for each point."""
    noise: Share = DEFAULT_NOISE
    """As in run."""

    def __post_init__(self) -> None:
        if not 0 < self.seconds < math.inf or not 0 <= self.noise < 1:
            raise ConfigError(
                f"--seconds is {self.seconds:g} and --noise {self.noise:g}: give a finite time above 0, and a share "
                "in 0..1."
            )


@dataclass(frozen=True, slots=True)
class ThreadedGrid(Grid):
    """And the sweeps of what has threads."""

    threads: tuple[int, ...] = (0,)
    """Of engine or matcher; 0 takes all cores."""

    def __post_init__(self) -> None:
        Grid.__post_init__(self)
        if min(self.threads) < 0:
            raise ConfigError(
                f"--threads {min(self.threads)} is below 0: give a number of threads, or 0 for all cores."
            )


@dataclass(frozen=True, slots=True)
class MatchGrid(ThreadedGrid):
    """The points of `sweep match`: matching on generated galleries."""

    rows: tuple[Count, ...] = (10_000, 100_000, 1_000_000)
    """Gallery rows."""
    dim: tuple[Count, ...] = (512,)
    """Dimensions."""
    dtype: tuple[Literal["float16", "float32"], ...] = ("float16",)
    """As stored."""
    queries: tuple[Count, ...] = (1,)
    """Queries at once."""
    k: tuple[Count, ...] = (10,)
    """Matches per query."""
    scan: tuple[Scan, ...] = ("rows",)
    """Of the matcher."""
    prior_m: tuple[float, ...] = (0.0,)
    """Radius of a prior; 0 is none."""
    peers: bool = False
    """Measure others beside ours where they are installed, and a plain read of the rows."""
    cache: Path | None = None
    """Folder of generated galleries; without, the user's cache."""

    def __post_init__(self) -> None:
        ThreadedGrid.__post_init__(self)
        if not all(0 <= prior_m < math.inf for prior_m in self.prior_m):
            raise ConfigError(f"--prior-m {self.prior_m} holds no radius: give finite metres, or 0 for no prior.")
        if max(self.k) > min(self.rows):
            raise ConfigError(f"--k {max(self.k)} is above --rows {min(self.rows)}: give more rows or a smaller k.")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedGrid(ThreadedGrid):
    """The points of `sweep embed`: the models of bundles."""

    bundles: tyro.conf.Positional[tuple[Path, ...]]
    """Folders made by dphr-export; one for each image size that is to be compared."""
    devices: tuple[str, ...] = ("cpu",)
    """As locate --device."""
    precisions: tuple[Precision, ...] = ()
    """Without one, all that the bundle holds."""
    batches: tuple[Count, ...] = DEFAULT_BATCHES
    """Batch sizes."""

    def __post_init__(self) -> None:
        ThreadedGrid.__post_init__(self)
        if max(self.batches) > MAX_BATCH:
            raise ConfigError(f"Batches are {tuple(self.batches)}: give sizes in 1..{MAX_BATCH}.")
        if not self.bundles:
            raise ConfigError("No bundle was given: name the folders whose models are to be measured.")


@dataclass(frozen=True, slots=True)
class FilterGrid(Grid):
    """The points of `sweep filter`: one step of the flight's filter on generated maps."""

    cells: tuple[Count, ...] = (10_000, 100_000, 1_000_000)
    """Cells of the map's lattice."""
    step_tiles: float = 0.25
    """How far a frame is from the last, in tile sides."""

    def __post_init__(self) -> None:
        Grid.__post_init__(self)
        if not 0 < self.step_tiles < math.inf:
            raise ConfigError(f"--step-tiles is {self.step_tiles:g}; expected tile sides above 0 and finite.")
        if min(self.cells) < MIN_CELLS:
            raise ConfigError(f"--cells is {min(self.cells)}; expected at least {MIN_CELLS}, a map of a few tiles.")


@dataclass(frozen=True, slots=True, kw_only=True)
class FlightRequest:
    """What to fly: folders as `dphr-train cities flight` writes them."""

    bundle: tyro.conf.Positional[Path]
    """Folder made by dphr-export."""
    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Each with photos/, truth.csv and a map, mosaic.tif; and motion.csv with --motion file."""
    tile_m: float
    """Side of the tiles that each map is indexed by, as in index."""
    stride_m: float
    """Distance between their centres."""
    search: Search = field(default_factory=Search)
    kinds: tuple[Literal["right", "half", "kidnapped", "wrong"], ...] = ("right", "half", "kidnapped", "wrong")
    """Over the own map, half of it, the own map with a stretch left out unsaid, another flight's map."""
    motion: Literal["seen", "truth", "file"] = "seen"
    """Seen in the photos; the truth with the error of an odometer; or each folder's motion.csv."""
    interval_s: float = 5.0
    """Seconds between two photos."""
    wrong_maps: int = 1
    """Other maps that each flight is flown over."""
    minutes: float = 0.0
    """Afterwards fly the first flight again and again for as long, and watch latency and memory."""
    cache: Path | None = None
    """Folder of the galleries and map packs; without, the user's cache."""

    def __post_init__(self) -> None:
        if not self.folders or not self.kinds:
            raise ConfigError("No flight was given: name folders with photos/, truth.csv and a map, and --kinds.")
        names = [folder.resolve().name for folder in self.folders]
        if len(set(names)) < len(names):
            raise ConfigError("Two folders have the same name, and their flights could not be told apart: rename one.")
        for option, value in (("--interval-s", self.interval_s), ("--tile-m", self.tile_m)):
            if not 0 < value < math.inf:
                raise ConfigError(f"{option} is {value:g}; expected a finite number above 0.")
        if not 0 <= self.minutes < math.inf:
            raise ConfigError(f"--minutes is {self.minutes:g}; expected a finite number, 0 for none.")
        if self.search.map is not None or self.search.near is not None:
            raise ConfigError(
                "Each folder has its own map, and flights start without a prior: leave out --map, --near."
            )
        if "wrong" in self.kinds and not 1 <= self.wrong_maps < len(self.folders):
            raise ConfigError(
                f"--wrong-maps is {self.wrong_maps} of {len(self.folders)} folders: a wrong map is another folder's, "
                "so give more folders, or --kinds without wrong."
            )
