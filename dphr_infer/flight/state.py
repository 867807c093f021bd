"""The saved state of a flight: one safetensors file, bound to its gallery by the digest of the places.

cells       int64 (K,), mass float64 (K,)     the cells that are kept
vectors     float64 (5, 2)                    offset; metres since ranks, registration, leak; since the start
noise       float64 (2, 2)                    collected motion noise, cells²
__metadata__    {"flight": JSON}: format, version, digest, settings, and the numbers of `FlightState`
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from dphr_infer.errors import ConfigError, FlightError
from dphr_infer.files.atomic import atomic_file
from dphr_infer.flight.grid_filter import GridFilter
from dphr_infer.flight.lattice import Lattice
from dphr_infer.flight.settings import FilterSettings

FORMAT, VERSION = "dphr-flight", 1
_KEY = "flight"
_NAMES = {"cells", "mass", "vectors", "noise"}


@dataclass(slots=True, eq=False)
class FlightState:
    """What a flight knows beside the filter's belief.

    Attributes:
        time_s: of the last frame; None before the first.
        since_ranks, since_registration: float64 (2,), net metres east and north since ranks, a registration were last
            weighed.
        since_leak: float64 (2,), net metres since mass last leaked to and from `off`.
        from_start: float64 (2,), net metres since the start.
        ground: new ground weighed since the start, in tile sides.
        weighed, registered: whether ranks, a registration were ever weighed.
    """

    time_s: float | None = None
    since_ranks: NDArray[np.float64] = dataclasses.field(default_factory=lambda: np.zeros(2))
    since_registration: NDArray[np.float64] = dataclasses.field(default_factory=lambda: np.zeros(2))
    since_leak: NDArray[np.float64] = dataclasses.field(default_factory=lambda: np.zeros(2))
    from_start: NDArray[np.float64] = dataclasses.field(default_factory=lambda: np.zeros(2))
    ground: float = 0.0
    weighed: bool = False
    registered: bool = False


def save_state(path: Path, state: FlightState, grid: GridFilter) -> None:
    """Write a flight's state.

    Raises:
        StorageError: it cannot be written.
    """
    vectors = np.stack([grid.offset, state.since_ranks, state.since_registration, state.since_leak, state.from_start])
    tensors = {"cells": grid.cells.astype(np.int64), "mass": grid.mass, "vectors": vectors, "noise": grid.noise}
    numbers = {"time_s": state.time_s, "ground": state.ground, "off": grid.off, "rest": grid.rest}
    text = json.dumps(
        {
            "format": FORMAT,
            "version": VERSION,
            "digest": grid.lattice.digest,
            "settings": dataclasses.asdict(grid.settings),
            **numbers,
            "weighed": state.weighed,
            "registered": state.registered,
        }
    )
    with atomic_file(path) as temporary:
        save_file({name: np.ascontiguousarray(values) for name, values in tensors.items()}, temporary, {_KEY: text})


def load_state(path: Path, lattice: Lattice) -> tuple[FlightState, GridFilter]:
    """Read a flight's state again.

    Raises:
        FlightError: missing, damaged, of another version, or of a flight over another gallery.
    """
    try:
        with safe_open(path, framework="np") as file:
            text = (file.metadata() or {}).get(_KEY)
            if text is None or set(file.keys()) != _NAMES:
                raise FlightError(f"{path} is a safetensors file, but not the state of a flight.")
            tensors = {name: file.get_tensor(name) for name in _NAMES}
        raw: dict[str, Any] = json.loads(text)
        if (raw["format"], raw["version"]) != (FORMAT, VERSION):
            raise FlightError(f"{path} is a flight of version {raw['version']}; this program reads {VERSION}.")
        if raw["digest"] != lattice.digest:
            raise FlightError(
                f"{path} is of a flight over the gallery {raw['digest'][:12]}…, but this one is "
                f"{lattice.digest[:12]}…. Open the gallery it was flown over, or start a new flight."
            )
        grid = GridFilter(lattice, FilterSettings(**raw["settings"]))
        vectors = tensors["vectors"]
        grid.cells, grid.mass = tensors["cells"].astype(np.intp), tensors["mass"]
        grid.offset, grid.noise = vectors[0], tensors["noise"]
        grid.off, grid.rest = float(raw["off"]), float(raw["rest"])
        time_s = None if raw["time_s"] is None else float(raw["time_s"])
        state = FlightState(time_s, vectors[1], vectors[2], vectors[3], vectors[4])
        state.ground, state.weighed, state.registered = (
            float(raw["ground"]),
            bool(raw["weighed"]),
            bool(raw["registered"]),
        )
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, IndexError, ConfigError) as error:
        raise FlightError(f"{path} is missing, damaged, or not the state of a flight ({error}).") from error
    _check(path, grid, len(lattice))
    return state, grid


def _check(path: Path, grid: GridFilter, n_cells: int) -> None:
    cells, mass = grid.cells, grid.mass
    total = grid.off + grid.rest + float(mass.sum())
    in_range = len(cells) == 0 or (cells[0] >= 0 and cells[-1] < n_cells and bool((np.diff(cells) > 0).all()))
    whole = cells.shape == mass.shape and mass.ndim == 1 and grid.noise.shape == (2, 2) and bool((mass >= 0).all())
    if not (in_range and whole and math.isclose(total, 1, abs_tol=1e-6) and min(grid.off, grid.rest) >= 0):
        raise FlightError(f"{path} is damaged: its probabilities sum to {total:.6g} over {len(cells)} cells.")
