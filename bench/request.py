"""What a run is asked for, checked before anything is opened."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from bench.record import CAMERA, ENDURANCE, MULTI_STREAM, OFFLINE, SCENARIOS, SINGLE_STREAM
from dphr_infer.errors import ConfigError
from dphr_infer.evaluate.scoring import NEAR_M
from dphr_infer.files.bundle import Precision
from dphr_infer.locate.localizer import DEFAULT_TOP_K, Heading
from dphr_infer.locate.search_options import Prior

DEFAULT_SCENARIOS = (SINGLE_STREAM, MULTI_STREAM, OFFLINE)
DEFAULT_BATCHES = (1, 2, 4, 8, 16)
MAX_BATCH = 1024
DEFAULT_SECONDS = 3.0
# One photo at a time, for its p99, and a camera, for its rate, get so many times the time of each other case.
SINGLE_STREAM_SHARE = 4
DEFAULT_NOISE = 0.01
DEFAULT_STREAMS = 4
DEFAULT_RATE_HZ = 10.0
DEFAULT_MINUTES = 30.0
DEFAULT_STARTUPS = 5
DEFAULT_MATCH_ROWS = 100_000
MATCH_TOP_K = 10


@dataclass(frozen=True, slots=True)
class BenchRequest:
    """What to measure.

    Attributes:
        gallery: None measures embedding alone.
        images: folder of photos; None takes the bundle's self-test images.
        scenarios: of SCENARIOS.
        streams: photos a batch of the multi-stream scenario.
        batches: of the throughput table; the largest is the offline scenario's.
        seconds: at most, for each case; the single-stream and camera scenarios get SINGLE_STREAM_SHARE times as much.
        noise: stop a case earlier, once the p50's 95 % interval is narrower than ± this share of it; 0 never does.
        rate_hz: of the camera scenario.
        minutes: of the endurance scenario.
        startups: warm starts of `dphr-infer locate`, after a cold one; 0 starts none.
        match_rows: rows of the generated galleries; none leaves matching at the gallery's own size.
        threads: of the engine; 0 takes all cores.
        device: of engine and matcher, as in locate.
        truth, recall_within_m, least_recall: the gate for accuracy; truth and least_recall belong together.
        peers: measure others beside ours.
        checkpoint: of the bundle's model, for the peers of embedding.
    """

    bundle: Path
    gallery: Path | None
    images: Path | None = None
    precision: Precision = "fp32"
    scenarios: tuple[str, ...] = DEFAULT_SCENARIOS
    streams: int = DEFAULT_STREAMS
    batches: tuple[int, ...] = DEFAULT_BATCHES
    seconds: float = DEFAULT_SECONDS
    noise: float = DEFAULT_NOISE
    rate_hz: float = DEFAULT_RATE_HZ
    minutes: float = DEFAULT_MINUTES
    startups: int = DEFAULT_STARTUPS
    match_rows: tuple[int, ...] = (DEFAULT_MATCH_ROWS,)
    threads: int = 0
    device: str = "cpu"
    top_k: int = DEFAULT_TOP_K
    heading: Heading = "as-is"
    prior: Prior | None = None
    truth: Path | None = None
    recall_within_m: float = NEAR_M
    least_recall: float | None = None
    peers: bool = False
    checkpoint: Path | None = None

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
        if any(rows < 1 for rows in self.match_rows):
            raise ConfigError(f"Generated galleries of {self.match_rows} rows: each needs at least 1.")
        if self.startups < 0:
            raise ConfigError(f"--startups is {self.startups}: give 0 for none, or how many.")
        if self.heading not in get_args(Heading):
            raise ConfigError(f"Heading {self.heading!r} is unknown; choose one of {', '.join(get_args(Heading))}.")
        unknown = [name for name in self.scenarios if name not in SCENARIOS]
        if unknown:
            raise ConfigError(f"Scenario {unknown[0]!r} is unknown; choose among {', '.join(SCENARIOS)}.")
        self._check_accuracy()

    def _check_accuracy(self) -> None:
        if (self.truth is None) != (self.least_recall is None):
            raise ConfigError(
                "--truth and --least-recall belong together: where the photos are, and the share of them that must be "
                f"located within --recall-within {self.recall_within_m:g} m for the run to be valid."
            )
        if self.least_recall is not None and not (0 <= self.least_recall <= 1 and self.recall_within_m > 0):
            raise ConfigError(
                f"--least-recall is {self.least_recall:g} within {self.recall_within_m:g} m: give a share in 0..1 "
                "and a distance above 0 m."
            )
        if self.checkpoint is not None and not self.peers:
            raise ConfigError("--checkpoint is of the peers' model, and --peers was not given: add it.")
        if any(rows < MATCH_TOP_K for rows in self.match_rows):
            raise ConfigError(
                f"--match-rows is {min(self.match_rows)}, but {MATCH_TOP_K} matches are asked for: give at least "
                f"{MATCH_TOP_K} rows."
            )
        if self.gallery is None and (self.truth is not None or self.prior is not None):
            raise ConfigError("--truth and --near need a gallery: without one no photo is located.")

    def seconds_of(self, scenario: str) -> float:
        """How long a scenario may take at most."""
        if scenario == ENDURANCE:
            return 60 * self.minutes
        return self.seconds * (SINGLE_STREAM_SHARE if scenario in (SINGLE_STREAM, CAMERA) else 1)
