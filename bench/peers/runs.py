"""Others beside ours in a run: searches of the run's gallery, and engines on the run's weights.

All take turns, call by call, on the same input; a ratio is that of two calls of one turn, so that a busy moment meets
both. A peer that fails keeps its row, with its words.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.machine.program import version
from bench.peers import gpu as gpu_peers
from bench.peers.cpu import Peer, open_installed, open_peers, recall_of, set_torch_threads
from bench.peers.turns import describe, take_turns
from bench.record import PeerRecord
from dphr_infer.engines.base import Engine
from dphr_infer.matchers.base import Matcher
from dphr_infer.measure.machine import usable_cores
from dphr_infer.measure.memory import available_bytes
from dphr_infer.measure.stats import percentile, summarise

OURS = "dphr"
# Measured where it is installed, also beside TensorRT: by name, because only an engine may depend on it.
_ONNXRUNTIME = "onnxruntime"
_LEAST_COSINE = 0.99

Embed = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


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
    """Searches opened on copies of a gallery's rows, float32 for those on the CPU and float16 for the GPU's.

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


def open_match_peers(embeddings: NDArray[Any], threads: int, device: str = "cpu") -> MatchPeers:
    """Every search of the device, "cpu" or "cuda", that is installed, opened on these rows.

    Args:
        embeddings: the gallery's, float16 or float32 (N, D).
        threads: of the peers that can be told.
    """
    size, free = (len(embeddings), embeddings.shape[1], str(embeddings.dtype)), available_bytes()
    if free and (8 if device == "cpu" else 4) * embeddings.size > free:  # a copy, and as much again for what they make
        reason = f"copies of {embeddings.size:,} values for them do not fit in {free / 1e9:.1f} GB"
        return MatchPeers(*size, (), {"all": reason})
    if device != "cpu":
        peers, left_out = open_installed(np.ascontiguousarray(embeddings, np.float16), threads, gpu_peers.__name__)
        return MatchPeers(*size, tuple(peers), left_out)
    peers, left_out = open_peers(np.ascontiguousarray(embeddings, np.float32), threads)
    return MatchPeers(*size, tuple(peers), left_out)


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
    ours = Peer(f"{OURS} {matcher.name}", version(), matcher.match)
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


def _version_of(*packages: str) -> str:
    """Of the first that is installed; empty where none is."""
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(package)
    return ""


def _onnxruntime_embedder(model_path: Path, on_gpu: bool, threads: int) -> Embed:
    """ONNX Runtime on the same model without our engine around it.

    Its threads are told not to spin after a run: that would slow whatever has the next turn.

    Raises:
        ImportError: it is not installed, or has no GPU part.
    """
    runtime: Any = importlib.import_module(_ONNXRUNTIME)
    provider = "CUDAExecutionProvider" if on_gpu else "CPUExecutionProvider"
    if provider not in runtime.get_available_providers():
        raise ImportError(f"this onnxruntime has no {provider}")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = runtime.InferenceSession(str(model_path), options, providers=[provider])
    if provider not in session.get_providers():
        raise ImportError(f"onnxruntime could not start its {provider}")
    (entry,) = session.get_inputs()
    return lambda views: session.run(None, {entry.name: views})[0]


def _torch_embedder(checkpoint: Path, compiled: bool, on_gpu: bool, threads: int) -> Embed:
    """The checkpoint's encoder, uint8 (B, H, W, 3) -> float32 (B, D); its threads are the whole process's.

    Raises:
        MissingPackageError: the training packages are not installed.
        CheckpointError: the checkpoint is none.
    """
    set_torch_threads(threads or usable_cores())
    # Only here: they import torch.
    from dphr_train.checkpoint import last_checkpoint, load_encoder
    from export.gate.parity import torch_embedder

    encoder, _ = load_encoder(last_checkpoint(checkpoint))
    if on_gpu:
        encoder.cuda()
    if compiled:
        encoder.compile()
    return torch_embedder(encoder)


@dataclass(frozen=True, slots=True)
class EmbedTask:
    """What the peers of embedding run.

    Attributes:
        model_path: of the model in the engine's precision, for ONNX Runtime.
        checkpoint: that the bundle was made of, for torch; None leaves torch out.
        on_gpu: where our engine runs, and so the peers.
        threads: of the peers; 0 is ONNX Runtime's own number, and all cores for torch.
    """

    model_path: Path
    checkpoint: Path | None
    on_gpu: bool
    threads: int

    def openers(self) -> dict[str, tuple[str, Callable[[], Embed]]]:
        """{name: (version, how it is opened)}."""
        path, checkpoint = self.model_path, self.checkpoint
        found: dict[str, tuple[str, Callable[[], Embed]]] = {
            "onnxruntime alone": (
                _version_of("onnxruntime", "onnxruntime-gpu"),
                lambda: _onnxruntime_embedder(path, self.on_gpu, self.threads),
            )
        }
        if checkpoint is not None:
            for name, compiled in (("torch eager, fp32", False), ("torch.compile, fp32", True)):
                found[name] = (
                    _version_of("torch"),
                    partial(_torch_embedder, checkpoint, compiled, self.on_gpu, self.threads),
                )
        return found


def embed_peers(engine: Engine, task: EmbedTask, views: NDArray[np.uint8], seconds: float) -> list[PeerRecord]:
    """Our engine beside ONNX Runtime itself on its model, and torch on the checkpoint, eager and compiled.

    A peer whose embeddings are not ours to a cosine of 0.99 gets no figures: it runs other weights.

    Args:
        views: uint8 (B, height_px, width_px, 3).
    """
    words = f"embedding a batch of {len(views)}"
    expected = engine.embed(views)
    calls: dict[str, Callable[[], object]] = {f"{OURS} {engine.name}": lambda: engine.embed(views)}
    versions, failed = {next(iter(calls)): version()}, []
    for name, (versions[name], open_peer) in task.openers().items():
        try:
            embed = open_peer()
            least = float(np.sum(embed(views) * expected, axis=1).min())
        except Exception as error:  # torch.compile raises whatever its compiler does
            failed.append(PeerRecord(words, name, versions[name], None, None, None, None, describe(error)))
            continue
        if not least >= _LEAST_COSINE:
            why = f"its embeddings are ours to a cosine of {least:.4f} only: is it the bundle's checkpoint?"
            failed.append(PeerRecord(words, name, versions[name], None, None, None, None, why))
            continue
        calls[name] = partial(embed, views)
    return [*_records(words, calls, versions, seconds, None), *failed]
