"""Others beside ours in a run: searches of the run's gallery, and engines on the run's weights.

All take turns, call by call, on the same input; a ratio is that of two calls of one turn, so that a busy moment meets
both. A peer that fails keeps its row, with its words.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.machine import available_memory_bytes
from bench.peers import Peer, open_peers, recall_of, set_torch_threads
from bench.record import PeerRecord
from bench.stats import percentile, summarise
from bench.turns import describe, take_turns
from dphr_infer.engines.base import Engine
from dphr_infer.matchers.base import Matcher

OURS = "dphr"
_LEAST_COSINE = 0.99


def _version() -> str:
    try:
        return importlib.metadata.version("dphr")
    except importlib.metadata.PackageNotFoundError:
        return "from source"


def _records(
    task: str,
    calls: Mapping[str, Callable[[], object]],
    versions: Mapping[str, str],
    seconds: float,
    recall: Callable[[str], float] | None,
) -> Iterator[PeerRecord]:
    """One record a call; ours is the first, and must not fail."""
    ours = next(iter(calls))
    turns = take_turns(calls, seconds, frozenset({ours}))
    for name in calls:
        if name in turns.failed:
            yield PeerRecord(task, name, versions[name], None, None, None, None, turns.failed[name])
            continue
        try:
            share = None if recall is None else recall(name)
        except Exception as error:  # whatever a stranger's package raises, or answers of another shape
            yield PeerRecord(task, name, versions[name], None, None, None, None, describe(error))
            continue
        samples = turns.samples_ms[name]
        ratios = samples / turns.samples_ms[ours]
        yield PeerRecord(
            task=task,
            name=name,
            version=versions[name],
            latency=summarise(samples),
            times_ours=percentile(ratios, 50),
            times_ours_quartiles=(percentile(ratios, 25), percentile(ratios, 75)),
            recall=share,
        )


@dataclass(frozen=True, slots=True, eq=False)
class MatchPeers:
    """Searches opened on float32 copies of a gallery's rows.

    Attributes:
        rows, dim, dtype: of the gallery.
        peers: ready to search.
        left_out: {package: why it is none of them}.
    """

    rows: int
    dim: int
    dtype: str
    peers: tuple[Peer, ...]
    left_out: Mapping[str, str]


def open_match_peers(embeddings: NDArray[Any], threads: int) -> MatchPeers:
    """Every search that is installed, opened on these rows.

    Args:
        embeddings: the gallery's, float16 or float32 (N, D).
        threads: of the peers that can be told.
    """
    free = available_memory_bytes()
    if free and 8 * embeddings.size > free:  # their float32 rows, and as much again for what they make of them
        reason = f"{4 * embeddings.size / 1e9:.1f} GB of float32 rows, twice, do not fit in {free / 1e9:.1f} GB"
        return MatchPeers(*embeddings.shape, str(embeddings.dtype), (), {"all": reason})
    peers, left_out = open_peers(np.ascontiguousarray(embeddings, np.float32), threads)
    return MatchPeers(*embeddings.shape, str(embeddings.dtype), tuple(peers), left_out)


def match_peers(
    opened: MatchPeers, matcher: Matcher, queries: NDArray[np.float32], k: int, seconds: float, words: str = ""
) -> list[PeerRecord]:
    """Our open matcher beside the peers, on the same rows.

    Args:
        opened: the peers.
        matcher: ours, entered, on the rows that the peers were opened on.
        queries: float32 (Q, D), unit length.
        words: what else tells this search from others of the run.
    """
    task = f"matching {opened.rows:,} x {opened.dim} {opened.dtype}, {len(queries)} q, k {k}{words}"
    left_out = [PeerRecord(task, name, "", None, None, None, None, why) for name, why in opened.left_out.items()]
    if not opened.peers:
        return left_out
    ours = Peer(f"{OURS} {matcher.name}", _version(), matcher.match)
    by_name = {peer.name: peer for peer in (ours, *opened.peers)}
    calls = {name: (lambda search=peer.search: search(queries, k)) for name, peer in by_name.items()}
    true_rows = ours.search(queries, k).rows
    found = list(
        _records(
            task,
            calls,
            {name: peer.version for name, peer in by_name.items()},
            seconds,
            lambda name: recall_of(by_name[name].search(queries, k).rows, true_rows),
        )
    )
    return found + left_out


def _torch_version() -> str:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return ""


def _torch_embedder(checkpoint: Path, compiled: bool, threads: int) -> Callable[[Any], NDArray[np.float32]]:
    """The checkpoint's encoder, uint8 (B, H, W, 3) -> float32 (B, D); its threads are the whole process's.

    Raises:
        MissingPackageError: the training packages are not installed.
        CheckpointError: the checkpoint is none.
    """
    set_torch_threads(threads)
    # Only here: they import torch.
    from dphr_train.checkpoint import last_checkpoint, load_encoder
    from export.parity import torch_embedder

    encoder, _ = load_encoder(last_checkpoint(checkpoint))
    if compiled:
        encoder.compile()
    return torch_embedder(encoder)


def embed_peers(
    engine: Engine, checkpoint: Path, views: NDArray[np.uint8], threads: int, seconds: float
) -> list[PeerRecord]:
    """Our engine beside torch on the checkpoint that the bundle was made of, eager and compiled.

    A peer whose embeddings are not ours to a cosine of 0.99 gets no figures: it runs other weights.

    Args:
        views: uint8 (B, height_px, width_px, 3).
        threads: of torch.
    """
    task = f"embedding a batch of {len(views)}"
    expected = engine.embed(views)
    calls: dict[str, Callable[[], object]] = {f"{OURS} {engine.name}": lambda: engine.embed(views)}
    versions, failed = {next(iter(calls)): _version()}, []
    version = _torch_version()
    for name, compiled in (("torch eager", False), ("torch.compile", True)):
        versions[name] = version
        try:
            embed = _torch_embedder(checkpoint, compiled, threads)
            least = float(np.sum(embed(views) * expected, axis=1).min())
        except Exception as error:  # torch.compile raises whatever its compiler does
            failed.append(PeerRecord(task, name, version, None, None, None, None, describe(error)))
            continue
        if not least >= _LEAST_COSINE:
            why = f"its embeddings are ours to a cosine of {least:.4f} only: is it the bundle's checkpoint?"
            failed.append(PeerRecord(task, name, version, None, None, None, None, why))
            continue
        calls[name] = lambda embed=embed: embed(views)
    return [*_records(task, calls, versions, seconds, None), *failed]
