"""Other searches of the same gallery on the CPU, each behind its own optional package; `bench.peers.gpu` has the GPU's.

    numpy      the whole (Q, N) product and argpartition: what one writes without a matcher
    faiss      faiss.knn, the search of IndexFlatIP on the gallery in place; as it comes, and by BLAS for many queries
    usearch    usearch.index.search(exact=True)
    torch      the whole (Q, N) product and topk
    hnswlib    an approximate search: its graph is built first, and its recall is stated

None promises an order among equal similarities.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.machine.program import own_code
from bench.peers.turns import describe
from dphr_infer.errors import MissingPackageError
from dphr_infer.types import Matches

_PURPOSE = "Comparing ours with it"
# Measured where it happens to be installed and never needed: imported by name, because no package here may depend on
# it for this.
_TORCH = "torch"
_HNSW_LINKS = 16
_HNSW_EFFORT_BUILDING = 100
_HNSW_EFFORTS = (16, 32, 64, 128, 256, 512)
_HNSW_LEAST_RECALL = 0.95
_HNSW_MOST_ROWS = 200_000
_HNSW_PROBES = 50
_HNSW_PROBE_K = 10
_REHEARSAL_ROWS = 200
_REHEARSAL_SECONDS = 180


@dataclass(frozen=True, slots=True)
class Peer:
    """One way to search.

    Attributes:
        name: what is called, in words.
        version: of its package.
        search: (queries float32 (Q, D), k) -> Matches, best first.
    """

    name: str
    version: str
    search: Callable[[NDArray[np.float32], int], Matches]


ROWS_DTYPE = np.float32
Opener = Callable[[NDArray[Any], int], list[Peer]]


def open_numpy(gallery: NDArray[np.float32]) -> list[Peer]:
    """NumPy alone; needs Q x N float32 and their order in memory."""

    def search(queries: NDArray[np.float32], k: int) -> Matches:
        similarity = queries @ gallery.T
        rows = np.argpartition(similarity, -k, axis=1)[:, -k:]
        best = np.take_along_axis(similarity, rows, axis=1)
        order = np.argsort(-best, axis=1, kind="stable")
        return Matches(
            np.take_along_axis(rows, order, axis=1).astype(np.int32), np.take_along_axis(best, order, axis=1)
        )

    return [Peer("numpy product and argpartition", np.__version__, search)]


def open_faiss(gallery: NDArray[np.float32], threads: int) -> list[Peer]:
    """Faiss as it comes, and with its threshold for BLAS at two queries.

    Raises:
        MissingPackageError: faiss is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise MissingPackageError("faiss-cpu", "faiss", _PURPOSE) from error
    faiss.omp_set_num_threads(threads)
    default_threshold = faiss.cvar.distance_compute_blas_threshold

    def search_with(threshold: int) -> Callable[[NDArray[np.float32], int], Matches]:
        def search(queries: NDArray[np.float32], k: int) -> Matches:
            faiss.cvar.distance_compute_blas_threshold = threshold
            try:
                similarity, rows = faiss.knn(queries, gallery, k, metric=faiss.METRIC_INNER_PRODUCT)
            finally:  # it is the whole process's, and the next gallery takes what it finds for the default
                faiss.cvar.distance_compute_blas_threshold = default_threshold
            return Matches(rows.astype(np.int32), similarity)

        return search

    return [
        Peer("faiss flat", faiss.__version__, search_with(default_threshold)),
        Peer("faiss flat by BLAS", faiss.__version__, search_with(2)),
    ]


def open_usearch(gallery: NDArray[np.float32], threads: int) -> list[Peer]:
    """usearch, exact.

    Raises:
        MissingPackageError: usearch is not installed.
    """
    try:
        import usearch
        from usearch.index import MetricKind
        from usearch.index import search as search_exactly
    except ImportError as error:
        raise MissingPackageError("usearch", "usearch", _PURPOSE) from error

    def search(queries: NDArray[np.float32], k: int) -> Matches:
        found: Any = search_exactly(gallery, queries, k, MetricKind.IP, exact=True, threads=threads)
        rows, distance = np.atleast_2d(found.keys), np.atleast_2d(found.distances)
        return Matches(rows.astype(np.int32), (1 - distance).astype(np.float32))

    return [Peer("usearch exact", usearch.__version__, search)]


def set_torch_threads(threads: int) -> Any:
    """torch, told its number of threads.

    Raises:
        MissingPackageError: torch is not installed.
    """
    try:
        torch: Any = importlib.import_module(_TORCH)
    except ImportError as error:
        raise MissingPackageError("torch", "train", _PURPOSE) from error
    torch.set_num_threads(threads)
    return torch


def open_torch(gallery: NDArray[np.float32], threads: int) -> list[Peer]:
    """Torch on the CPU; its number of threads is the whole process's.

    Raises:
        MissingPackageError: torch is not installed.
    """
    torch = set_torch_threads(threads)
    rows = torch.from_numpy(gallery)

    def search(queries: NDArray[np.float32], k: int) -> Matches:
        with torch.inference_mode():
            best = torch.topk(torch.from_numpy(queries) @ rows.T, k, dim=1)
        return Matches(best.indices.numpy().astype(np.int32), best.values.numpy())

    return [Peer("torch matmul and topk", str(torch.__version__), search)]


def open_hnswlib(gallery: NDArray[np.float32], threads: int) -> list[Peer]:
    """hnswlib, with the least search effort that finds 95 % of the true neighbours of some perturbed rows.

    Raises:
        MissingPackageError: hnswlib is not installed.
        ValueError: so many rows that building the graph would take longer than all the rest, or too little recall.
    """
    if len(gallery) > _HNSW_MOST_ROWS:
        raise ValueError(f"its graph of {len(gallery)} rows takes too long to build; at most {_HNSW_MOST_ROWS}")
    try:
        import hnswlib
    except ImportError as error:
        raise MissingPackageError("hnswlib", "hnswlib", _PURPOSE) from error
    index = hnswlib.Index(space="ip", dim=gallery.shape[1])
    index.init_index(len(gallery), ef_construction=_HNSW_EFFORT_BUILDING, M=_HNSW_LINKS, random_seed=0)
    index.set_num_threads(threads)
    index.add_items(gallery)
    generator = np.random.default_rng(0)
    probes = gallery[generator.integers(0, len(gallery), _HNSW_PROBES)]
    probes = probes + 0.5 * generator.standard_normal(probes.shape, dtype=np.float32) / gallery.shape[1] ** 0.5
    k = min(_HNSW_PROBE_K, len(gallery))
    true_rows = open_numpy(gallery)[0].search(probes, k).rows

    def search(queries: NDArray[np.float32], k: int) -> Matches:
        index.set_ef(max(effort, k))
        rows, distance = index.knn_query(queries, k=k, num_threads=threads)
        return Matches(rows.astype(np.int32), (1 - distance).astype(np.float32))

    for effort in _HNSW_EFFORTS:
        found = recall_of(search(probes, k).rows, true_rows)
        if found >= _HNSW_LEAST_RECALL:
            version = importlib.metadata.version("hnswlib")
            return [
                Peer(f"hnswlib M {_HNSW_LINKS}, ef {effort}, recall {found:.2f} on perturbed rows", version, search)
            ]
    raise ValueError(f"a recall of {found:.2f} at ef {effort}, below {_HNSW_LEAST_RECALL}: not comparable")


def recall_of(rows: NDArray[np.int32], true_rows: NDArray[np.int32]) -> float:
    """Share of the true rows (Q, k) that were found, in any order."""
    hits = [len(np.intersect1d(some, true)) for some, true in zip(rows, true_rows, strict=True)]
    return sum(hits) / true_rows.size


def rehearse(words: Sequence[str]) -> None:
    """Open a package on a few rows and search once with one query and with several; what it raises is no crash.

    Args:
        words: module that has its opener, package, dimensions, threads.
    """
    module, package, dim, threads = words
    source = importlib.import_module(module)
    rows = np.random.default_rng(0).standard_normal((_REHEARSAL_ROWS, int(dim)), dtype=np.float32)
    with contextlib.suppress(Exception):  # raised again where its words are seen
        for peer in source.OPENERS[package](rows.astype(source.ROWS_DTYPE), int(threads)):
            peer.search(rows[:1], 5)
            peer.search(rows[:40], 5)


@functools.cache
def crash_of(module: str, package: str, dim: int, threads: int) -> str | None:
    """How a package ends a process that uses it, in words; None where it does not, or is not installed.

    `module` has its opener.

    It is tried in a process of its own, because nothing can be caught of an illegal instruction or a fault in memory.
    """
    if importlib.util.find_spec(package) is None:
        return None
    try:
        done = subprocess.run(
            [*own_code("bench.peers.cpu", "rehearse"), module, package, str(dim), str(threads)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_REHEARSAL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"{package} did not end a search of {_REHEARSAL_ROWS} rows within {_REHEARSAL_SECONDS} s"
    if done.returncode == 0:
        return None
    names = {-number: number.name for number in signal.Signals}
    how = names.get(done.returncode, f"exit code {done.returncode}")
    return f"{package} ended a process that searched {_REHEARSAL_ROWS} rows: {how}"


def open_peers(gallery: NDArray[np.float32], threads: int) -> tuple[list[Peer], dict[str, str]]:
    """NumPy and every peer here that is installed and works, and {package: why it is left out} of the others.

    Args:
        gallery: float32 (N, D), C-contiguous, unit length.
        threads: for those that can be told; NumPy's BLAS takes what the environment said when it was loaded.
    """
    peers, left_out = open_installed(gallery, threads, __name__)
    return [*open_numpy(gallery), *peers], left_out


def open_installed(gallery: NDArray[Any], threads: int, module: str) -> tuple[list[Peer], dict[str, str]]:
    """Those of the module's OPENERS that are installed and work, and {package: why it is left out} of the others.

    Args:
        gallery: (N, D) of the type that the openers take, C-contiguous, unit length.
        threads: for those that can be told.
    """
    peers: list[Peer] = []
    left_out: dict[str, str] = {}
    openers: Mapping[str, Opener] = importlib.import_module(module).OPENERS
    for package, open_package in openers.items():
        crash = crash_of(module, package, gallery.shape[1], threads)
        if crash is not None:
            left_out[package] = crash
            continue
        try:
            peers += open_package(gallery, threads)
        except MissingPackageError as error:
            left_out[package] = str(error)
        except Exception as error:  # whatever a stranger's package raises
            left_out[package] = f"{package} could not be opened: {describe(error)}"
    return peers, left_out


OPENERS: dict[str, Opener] = {
    "faiss": open_faiss,
    "usearch": open_usearch,
    "torch": open_torch,
    "hnswlib": open_hnswlib,
}
