"""Every setting of the generated benchmark, once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from dphr_infer.errors import ConfigError

DroneConditions = Literal["mixed", "low-sun", "autumn", "overcast"]

UNIVERSITY_VIEWS = 54
SUES_VIEWS = 50
MIN_CITY_M = 500
MAX_CITY_M = 4000
MIN_IMAGE_PX = 16
MAX_IMAGE_PX = 4096
MAX_SUPERSAMPLING = 8


@dataclass(frozen=True, slots=True)
class CitiesConfig:
    """What is drawn. The same settings give the same bytes.

    Attributes:
        seed:          everything is derived from it.
        train_cities:  cities for training, each with its own seed; 0, with train_places 0, writes no training split.
        train_places:  places over all training cities.
        test_places:   places in one further city that training never sees.
        distractors:   further places of the test city that are in the galleries but not among the queries.
        train_views:   drone images of a training place, spread over the spiral of 54 views; 54 takes all.
        test_views:    the same for a test place.
        image_px:      side of the square pictures.
        supersampling: rays per pixel and axis.
        workers:       processes, 0 takes all cores; does not influence a single byte of the output.
        city_m:        side of each square city in metres.
        conditions:    light of the drone's pictures; the satellite keeps its own, and nothing else changes. "mixed"
            draws sun, season and weather for each place; "low-sun" puts the sun 8 to 15 degrees above the horizon,
            "autumn" takes full autumn leaves on dry grass, "overcast" full cloud in haze of 800 m.
    """

    seed: int = 0
    train_cities: int = 3
    train_places: int = 300
    test_places: int = 120
    distractors: int = 30
    train_views: int = 8
    test_views: int = 8
    image_px: int = 256
    supersampling: int = 2
    workers: int = 0
    city_m: int = 1600
    conditions: DroneConditions = "mixed"

    def __post_init__(self) -> None:
        self._check("seed", 0, 2**63 - 1)
        self._check("train_cities", 0, 1000)
        if self.train_cities == 0 and self.train_places:
            raise ConfigError(
                f"train-places is {self.train_places} but train-cities is 0, which have no place. Give train-places 0 "
                "to write the test split alone, or at least one training city."
            )
        self._check("train_places", self.train_cities, 1_000_000)
        self._check("test_places", 1, 1_000_000)
        self._check("distractors", 0, 1_000_000)
        self._check("train_views", 1, UNIVERSITY_VIEWS)
        self._check("test_views", 1, UNIVERSITY_VIEWS)
        self._check("image_px", MIN_IMAGE_PX, MAX_IMAGE_PX)
        self._check("supersampling", 1, MAX_SUPERSAMPLING)
        self._check("workers", 0, 4096)
        self._check("city_m", MIN_CITY_M, MAX_CITY_M)
        if self.conditions not in get_args(DroneConditions):
            raise ConfigError(
                f"conditions is {self.conditions!r}; choose one of {', '.join(get_args(DroneConditions))}."
            )

    def _check(self, name: str, lowest: int, highest: int) -> None:
        value = getattr(self, name)
        if not lowest <= value <= highest:
            raise ConfigError(f"{name.replace('_', '-')} is {value}; it has to lie between {lowest} and {highest}.")


def places_of_city(config: CitiesConfig, index: int) -> int:
    """Training places of one city: as even as it goes, the first cities take the rest."""
    share, rest = divmod(config.train_places, config.train_cities)
    return share + (index < rest)
