"""The cases: one photo stage by stage and in one piece, batches, and matching alone.

All of them run `dphr_infer.localizer.Localizer`, the code of `dphr-infer locate`; nothing is rebuilt here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.clock import WARM_UP_CALLS, now_ms, repeat, time_calls
from bench.machine import MachineProfile, available_memory_bytes
from bench.record import BatchRecord, MatchRecord
from bench.roofline import limit_ms
from bench.stats import summarise
from dphr_infer.embedder import Embedder
from dphr_infer.errors import ConfigError
from dphr_infer.localizer import Localizer
from dphr_infer.matchers.open import open_matcher
from dphr_infer.photo import read_photo_metadata
from dphr_infer.preprocess import read_image

STAGES = ("decode", "prepare", "embed", "match", "estimate")
END_TO_END = "end to end"
MATCH_QUERIES = (1, 8)
MATCH_DTYPES = ("float32", "float16")
_ROWS_AT_ONCE = 16384


def _locate_file(localizer: Localizer, path: Path) -> None:
    yaw_deg = read_photo_metadata(path).yaw_deg
    localizer.locate(read_image(path), yaw_deg)


def _locate_in_stages(localizer: Localizer, path: Path) -> list[float]:
    """Milliseconds of each stage, in the order of STAGES."""
    marks = [now_ms()]
    yaw_deg = read_photo_metadata(path).yaw_deg
    image = read_image(path)
    marks.append(now_ms())
    views = localizer.prepare(image, yaw_deg)
    marks.append(now_ms())
    embeddings = localizer.embed(views)
    marks.append(now_ms())
    matches = localizer.match(embeddings)
    marks.append(now_ms())
    localizer.estimate(matches, yaw_deg)
    marks.append(now_ms())
    return [stop - start for start, stop in itertools.pairwise(marks)]


def time_stages(localizer: Localizer, paths: Sequence[Path], seconds: float) -> dict[str, NDArray[np.float64]]:
    """Locate the photos in turn, each once in one piece and once stage by stage; which comes first alternates.

    Returns:
        {stage or END_TO_END: float64 (n,) milliseconds}; sample i of all of them is of the same photo.
    """
    rows: list[list[float]] = []

    def one_piece(path: Path) -> float:
        start_ms = now_ms()
        _locate_file(localizer, path)
        return now_ms() - start_ms

    def measure() -> None:
        path = paths[len(rows) % len(paths)]
        if len(rows) // len(paths) % 2:
            stages = _locate_in_stages(localizer, path)
            rows.append([*stages, one_piece(path)])
        else:
            whole = one_piece(path)
            rows.append([*_locate_in_stages(localizer, path), whole])

    for path in itertools.islice(itertools.cycle(paths), WARM_UP_CALLS):
        _locate_file(localizer, path)
    repeat(measure, seconds)
    samples = np.array(rows).T
    return dict(zip((*STAGES, END_TO_END), samples, strict=True))


def difference_ms(samples: dict[str, NDArray[np.float64]]) -> float:
    """Median over photos of end to end minus the sum of the stages."""
    return float(np.median(samples[END_TO_END] - sum(samples[stage] for stage in STAGES)))


def time_batches(
    localizer: Localizer,
    make_embedder: Callable[[int], Embedder],
    images: Sequence[NDArray[np.uint8]],
    yaws_deg: Sequence[float | None],
    batches: Sequence[int],
    seconds: float,
) -> tuple[BatchRecord, ...]:
    """Throughput of the engine alone and of `locate_many`, for each batch size; photos repeat where they are few."""
    records = []
    for batch in batches:
        chosen = list(itertools.islice(itertools.cycle(images), batch))
        yaws = list(itertools.islice(itertools.cycle(yaws_deg), batch))
        embedder = make_embedder(batch)
        views = embedder.prepare(chosen)
        embed = summarise(time_calls(partial(embedder.embed_prepared, views), seconds))
        locate = summarise(time_calls(partial(localizer.locate_many, chosen, yaws), seconds))
        records.append(BatchRecord(batch, embed, 1e3 * batch / embed.p50_ms, locate, 1e3 * batch / locate.p50_ms))
    return tuple(records)


def generate_rows(rows: int, dim: int, dtype: str, seed: int) -> NDArray[Any]:
    """Random directions, float32 or float16 (rows, dim), unit length.

    Raises:
        ConfigError: they would take more than half of the free memory.
    """
    size, free = rows * dim * np.dtype(dtype).itemsize, available_memory_bytes()
    if free and size > free / 2:
        raise ConfigError(
            f"A generated gallery of {rows} rows of {dim} {dtype} values takes {size / 1e9:.1f} GB, and "
            f"{free / 1e9:.1f} GB are free; half of that may be used. Ask for fewer --match-rows."
        )
    generator = np.random.default_rng(seed)
    gallery = np.empty((rows, dim), dtype=dtype)
    for start in range(0, rows, _ROWS_AT_ONCE):
        part = generator.standard_normal((min(_ROWS_AT_ONCE, rows - start), dim), dtype=np.float32)
        gallery[start : start + len(part)] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return gallery


def time_matching(
    gallery: NDArray[Any],
    queries: NDArray[np.float32],
    k: int,
    seconds: float,
    machine: MachineProfile,
    bandwidth: float,
    generated: bool,
) -> MatchRecord:
    """Match all queries at once, again and again, against the whole gallery."""
    with open_matcher(gallery) as matcher:
        latency = summarise(time_calls(lambda: matcher.match(queries, k), seconds))
    least_ms = limit_ms(gallery.nbytes, bandwidth)
    return MatchRecord(
        rows=len(gallery),
        dim=gallery.shape[1],
        dtype=str(gallery.dtype),
        queries=len(queries),
        k=k,
        generated=generated,
        latency=latency,
        read_bytes=gallery.nbytes,
        limit_ms=least_ms,
        bandwidth_share=least_ms / latency.p50_ms,
        in_cache=gallery.nbytes < machine.last_level_cache_bytes,
    )


def time_generated_matching(
    rows: int, dim: int, k: int, seconds: float, machine: MachineProfile, bandwidth: float
) -> tuple[MatchRecord, ...]:
    """Matching against random galleries of both stored types, for each count in MATCH_QUERIES.

    Raises:
        ConfigError: k is above `rows`, or the gallery does not fit in memory.
    """
    if k > rows:
        raise ConfigError(f"--match-rows is {rows}, but {k} matches are asked for: give at least {k} rows.")
    records = []
    for dtype in MATCH_DTYPES:
        gallery = generate_rows(rows, dim, dtype, seed=0)
        for count in MATCH_QUERIES:
            queries = generate_rows(count, dim, "float32", seed=1)
            records.append(time_matching(gallery, queries, k, seconds, machine, bandwidth, generated=True))
    return tuple(records)
