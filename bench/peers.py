"""Other exact searches of the same gallery, each behind its own optional package.

    numpy      the whole (Q, N) product and argpartition: what one writes without a matcher
    faiss      faiss.knn, the search of IndexFlatIP on the gallery in place; as it comes, and by BLAS for many queries
    usearch    usearch.index.search(exact=True)

None promises an order among equal similarities.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import MissingPackageError
from dphr_infer.types import Matches

_EXTRA = "peers"
_PURPOSE = "Comparing the matcher with it"


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
    """faiss as it comes, and with its threshold for BLAS at two queries.

    Raises:
        MissingPackageError: faiss is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise MissingPackageError("faiss-cpu", _EXTRA, _PURPOSE) from error
    faiss.omp_set_num_threads(threads)
    default_threshold = faiss.cvar.distance_compute_blas_threshold

    def search_with(threshold: int) -> Callable[[NDArray[np.float32], int], Matches]:
        def search(queries: NDArray[np.float32], k: int) -> Matches:
            faiss.cvar.distance_compute_blas_threshold = threshold
            similarity, rows = faiss.knn(queries, gallery, k, metric=faiss.METRIC_INNER_PRODUCT)
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
        raise MissingPackageError("usearch", _EXTRA, _PURPOSE) from error

    def search(queries: NDArray[np.float32], k: int) -> Matches:
        found: Any = search_exactly(gallery, queries, k, MetricKind.IP, exact=True, threads=threads)
        rows, distance = np.atleast_2d(found.keys), np.atleast_2d(found.distances)
        return Matches(rows.astype(np.int32), (1 - distance).astype(np.float32))

    return [Peer("usearch exact", usearch.__version__, search)]


def open_peers(gallery: NDArray[np.float32], threads: int) -> tuple[list[Peer], dict[str, str]]:
    """Every peer that is installed, and {package: why it is left out} of the others.

    Args:
        gallery: float32 (N, D), C-contiguous, unit length.
        threads: for those that can be told; NumPy's BLAS takes what the environment said when it was loaded.
    """
    peers, left_out = open_numpy(gallery), {}
    for package, open_package in (("faiss", open_faiss), ("usearch", open_usearch)):
        try:
            peers += open_package(gallery, threads)
        except MissingPackageError as error:
            left_out[package] = str(error)
    return peers, left_out
