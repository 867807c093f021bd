"""Galleries of random rows: in memory, or written once under a cache folder and reused by every later sweep.

The rows are random directions; their places form a square grid of 40 m, so that a position prior allows about as many
rows as on a map. Written ones are gallery files like any other, opened memory-mapped as `dphr-infer locate` opens its
own.
"""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import ConfigError, GalleryError
from dphr_infer.files.gallery import Gallery, GalleryOrigin, GalleryWriter, open_gallery
from dphr_infer.measure.memory import available_bytes
from dphr_infer.measure.progress import Progress
from dphr_infer.types import GalleryDtype, GeoPoint

STRIDE_M = 40.0
CENTRE = GeoPoint(47.0, 8.0)
ORIGIN = "random rows of dphr-bench, version 1"
_METRES_PER_DEGREE = 111_320.0
_ROWS_AT_ONCE = 16384
_STORED: dict[str, GalleryDtype] = {"float16": "fp16", "float32": "fp32"}

Stored = Literal["float16", "float32"]


def _directions(generator: np.random.Generator, rows: int, dim: int) -> NDArray[np.float32]:
    part = generator.standard_normal((rows, dim), dtype=np.float32)
    unit: NDArray[np.float32] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return unit


def generate_rows(rows: int, dim: int, dtype: str, seed: int) -> NDArray[Any]:
    """Random directions, float32 or float16 (rows, dim), unit length.

    Raises:
        ConfigError: they would take more than half of the free memory.
    """
    size, free = rows * dim * np.dtype(dtype).itemsize, available_bytes()
    if free and size > free / 2:
        raise ConfigError(
            f"A generated gallery of {rows} rows of {dim} {dtype} values takes {size / 1e9:.1f} GB, and "
            f"{free / 1e9:.1f} GB are free; half of that may be used. Ask for fewer rows."
        )
    generator = np.random.default_rng(seed)
    gallery = np.empty((rows, dim), dtype=dtype)
    for start in range(0, rows, _ROWS_AT_ONCE):
        gallery[start : start + _ROWS_AT_ONCE] = _directions(generator, min(_ROWS_AT_ONCE, rows - start), dim)
    return gallery


def default_cache() -> Path:
    """Where generated galleries are kept: the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "dphr-bench"


def grid_places(rows: int, start: int, stop: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Latitude and longitude, float64 (stop - start,), of places of a square grid of `rows` around CENTRE."""
    side = math.isqrt(rows - 1) + 1
    number = np.arange(start, stop)
    north_m = ((number // side).astype(np.float64) - (side - 1) / 2) * STRIDE_M
    east_m = ((number % side).astype(np.float64) - (side - 1) / 2) * STRIDE_M
    east_degree_m = _METRES_PER_DEGREE * math.cos(math.radians(CENTRE.latitude_deg))
    latitude_deg: NDArray[np.float64] = CENTRE.latitude_deg + north_m / _METRES_PER_DEGREE
    longitude_deg: NDArray[np.float64] = CENTRE.longitude_deg + east_m / east_degree_m
    return latitude_deg, longitude_deg


def _check_room(path: Path, rows: int, dim: int, stored: Stored) -> None:
    """The writer needs twice the size while it orders the rows."""
    folder = next(part for part in path.absolute().parents if part.exists())
    needed, free = 2 * rows * dim * np.dtype(stored).itemsize, shutil.disk_usage(folder).free
    if needed > free:
        raise ConfigError(
            f"A generated gallery of {rows} rows of {dim} {stored} values needs {needed / 1e9:.1f} GB while it is "
            f"written, and {folder} has {free / 1e9:.1f} GB free: ask for fewer rows, or another --cache."
        )


def _write(path: Path, rows: int, dim: int, stored: Stored) -> None:
    origin = GalleryOrigin(ORIGIN, STRIDE_M, STRIDE_M, "", "", "EPSG:4326", "fp32")
    generator = np.random.default_rng(0)
    with GalleryWriter(path, origin, dim, _STORED[stored]) as writer, Progress(path.name, rows, "rows") as progress:
        for start in range(0, rows, _ROWS_AT_ONCE):
            stop = min(rows, start + _ROWS_AT_ONCE)
            writer.append(_directions(generator, stop - start, dim), *grid_places(rows, start, stop))
            progress.advance(stop - start)


def generated_gallery(cache: Path, rows: int, dim: int, stored: Stored) -> Gallery:
    """The gallery of these sizes, made if the cache lacks it or holds a damaged one.

    Raises:
        ConfigError: the disk has no room for it.
        StorageError: it cannot be written.
    """
    path = cache / f"random-{rows}x{dim}-{stored}.gallery"
    if path.is_file():
        try:
            found = open_gallery(path)
        except GalleryError:
            pass  # cut short by a crash of the machine, or by another program: it holds nothing that is not made again
        else:
            if (len(found), found.dim, str(found.embeddings.dtype), found.bundle_digest) == (rows, dim, stored, ORIGIN):
                return found
    _check_room(path, rows, dim, stored)
    _write(path, rows, dim, stored)
    return open_gallery(path)
