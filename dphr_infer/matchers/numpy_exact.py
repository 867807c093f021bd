"""Exact search in NumPy, block by block: the matcher of a CPU, and the reference of every other matcher.

A similarity and its row travel as one 64-bit key, so that "higher similarity, then lower row" is plain integer order:

    bits 63..32   the float32 similarity, its bits mapped so that unsigned order is float order
    bits 31..0    2^32 - 1 - row, so that of two equal similarities the lower row has the larger key

Keys are unique, so partitioning them leaves no tie to chance, and a key gives back its similarity bit by bit.

Two rows with the same content are equal only if the BLAS sums them in the same order; where it does not, their
similarities differ in the last bit and the higher one comes first, whichever row that is.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import GalleryError
from dphr_infer.matchers.base import check_queries, check_ranges
from dphr_infer.types import Matches

DEFAULT_BLOCK_BYTES = 32 << 20
DEFAULT_WIDEN_BYTES = 1 << 30
QUERIES_A_PASS = 256

# A product of a tall matrix and few queries is bound by OpenBLAS copying the matrix for its large kernels; up to this
# many multiplications it does not copy where it has small kernels, and never starts threads of its own. 8 queries:
# 9 GB/s a core instead of 4; from 33 queries on, the large kernels win. With one query nothing is copied; it is cut
# only so that our threads do the work: OpenBLAS's wait for each other at every product, which a busy core makes slow.
_SMALL_PRODUCT = 1 << 18
_SMALL_PRODUCT_QUERIES = 32
_SMALL_PRODUCT_ONE_QUERY = 9216
_SIMILARITIES_A_BLOCK = 1 << 18
_ROWS_A_BLOCK = 1 << 14
_ROWS_FIRST = 256
_WIDEN_AT_ONCE_BYTES = 1 << 19
_FOLD_ROWS = 64
_FOLD_SIMILARITIES = 2048
_BELOW_ALL = np.finfo(np.float32).min

_SIGN = np.uint32(0x80000000)
_LOW_BITS = np.uint64(0xFFFFFFFF)


def match_by_sorting(
    gallery: NDArray[np.float32],
    queries: NDArray[np.float32],
    k: int,
    row_ranges: Sequence[tuple[int, int]] | None = None,
) -> Matches:
    """The plain reference: the whole (Q, N) matrix and a stable sort. For tests and small galleries only.

    Args and errors as in `Matcher.match`; gallery is float16 or float32 (N, D).
    """
    check_queries(queries, gallery.shape[1])
    ranges = check_ranges(row_ranges, len(gallery), k)
    allowed = np.concatenate([np.arange(start, stop) for start, stop in ranges])
    similarity = queries @ gallery[allowed].astype(np.float32).T
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return Matches(allowed[order].astype(np.int32), np.take_along_axis(similarity, order, axis=1))


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class NumpyExactMatcher:
    """Exact top k over a gallery in memory or memory-mapped.

    Args:
        gallery: float16 or float32 (N, D), rows of unit length.
        block_bytes: memory for one block's similarities and keys, of all threads together, whatever N and Q are.
        widen_bytes: a float16 gallery that takes no more than this as float32 is widened once, in `__enter__`; a
            larger one in every call, which takes five times as long for one query as reading float32.
        threads: for up to 32 queries, when entered; None is every core that this process may use. More queries, and
            one query with one thread, are left to the threads of NumPy's BLAS.
    """

    name = "numpy exact"

    def __init__(
        self,
        gallery: NDArray[np.float16] | NDArray[np.float32],
        block_bytes: int = DEFAULT_BLOCK_BYTES,
        widen_bytes: int = DEFAULT_WIDEN_BYTES,
        threads: int | None = None,
    ) -> None:
        if gallery.ndim != 2 or gallery.dtype not in (np.float16, np.float32) or 0 in gallery.shape:
            raise GalleryError(
                f"The gallery is {gallery.dtype} {gallery.shape}; a matcher takes float16 or float32 (N, D) with at "
                "least one row."
            )
        if len(gallery) > np.iinfo(np.int32).max:
            raise GalleryError(
                f"The gallery has {len(gallery)} rows; int32 row numbers end at 2^31 - 1. Split the map."
            )
        self._stored = self._gallery = gallery
        self._block_bytes, self._widen_bytes = block_bytes, widen_bytes
        self._threads = usable_cores() if threads is None else threads
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> NumpyExactMatcher:
        if self._stored.dtype == np.float16 and 4 * self._stored.size <= self._widen_bytes:
            self._gallery = self._stored.astype(np.float32)
        if self._threads > 1:
            self._pool = ThreadPoolExecutor(self._threads)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._gallery = self._stored
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def match(
        self, queries: NDArray[np.float32], k: int, row_ranges: Sequence[tuple[int, int]] | None = None
    ) -> Matches:
        """Find the k most similar gallery rows for each query; see `Matcher.match`.

        Raises:
            GalleryError: as the Protocol states, or a gallery row that is not finite.
        """
        check_queries(queries, self._gallery.shape[1])
        ranges = check_ranges(row_ranges, len(self._gallery), k)
        rows = np.empty((len(queries), k), np.int32)
        similarity = np.empty((len(queries), k), np.float32)
        for first in range(0, len(queries), QUERIES_A_PASS):
            part = slice(first, first + QUERIES_A_PASS)
            keys = self._best_keys(queries[part], k, ranges)
            rows[part], similarity[part] = _unpack(keys)
        return Matches(rows, similarity)

    def _best_keys(self, queries: NDArray[np.float32], k: int, ranges: Sequence[tuple[int, int]]) -> NDArray[np.uint64]:
        """uint64 (Q, k), best first."""
        columns = np.ascontiguousarray(queries.T)
        pool = self._pool if len(queries) <= _SMALL_PRODUCT_QUERIES else None
        blocks = self._blocks(ranges, len(queries), k, 1 if pool is None else self._threads)
        best = _BestKeys(len(queries), k)
        waiting = iter(blocks)  # the threads share it; each takes the next block when it is done with one
        largest_block = max(stop - start for start, stop in blocks)
        step = _rows_a_product(len(queries), len(columns), threaded=pool is not None)

        def scan(limit: int | None = None) -> None:
            similarity = np.empty((best.whole_groups(largest_block), len(queries)), np.float32)
            for start, stop in itertools.islice(waiting, limit):
                n_rows = stop - start
                with np.errstate(invalid="ignore", over="ignore"):  # refused with words right below
                    _multiply(self._gallery[start:stop], columns, similarity[:n_rows], step)
                best.add(similarity[: best.whole_groups(n_rows)], n_rows, start)

        scan(1)  # the first block gives thresholds that spare the others most of the sorting
        if pool is None:
            scan()
        else:
            for _ in pool.map(lambda _: scan(), range(min(self._threads, len(blocks) - 1))):
                pass
        return best.sorted()

    def _blocks(self, ranges: Sequence[tuple[int, int]], n_queries: int, k: int, threads: int) -> list[tuple[int, int]]:
        """Cut the ranges into blocks of ascending rows that fit in the budget: small ones first, to get thresholds.

        A row costs about 40 bytes a query for similarities and keys.
        """
        most = max(_ROWS_A_BLOCK, _SIMILARITIES_A_BLOCK // (n_queries * threads))
        most = min(most, max(1, self._block_bytes // (40 * n_queries * threads)))
        step = min(most, max(_ROWS_FIRST, 2 * k))
        blocks = []
        for start, stop in ranges:
            while start < stop:
                blocks.append((start, min(start + step, stop)))
                start, step = start + step, min(most, 4 * step)
        return blocks


class _BestKeys:
    """The k largest keys of each query among all that was added, by any thread and in any order."""

    def __init__(self, n_queries: int, k: int) -> None:
        self._k = k
        self._fold = max(_FOLD_ROWS, _FOLD_SIMILARITIES // n_queries)
        self._keys = np.zeros((n_queries, 0), np.uint64)
        self._threshold = np.full(n_queries, -np.inf, np.float32)  # the k-th similarity; only ever rises
        self._lock = threading.Lock()

    def whole_groups(self, n_rows: int) -> int:
        """The rows of a block that `add` takes for `n_rows`."""
        return -(-n_rows // self._fold) * self._fold

    def add(self, block: NDArray[np.float32], n_rows: int, first_row: int) -> None:
        """Take the similarities of gallery rows first_row..first_row + n_rows - 1 into account.

        Args:
            block: float32 (whole_groups(n_rows), Q); what follows n_rows is overwritten.

        Raises:
            GalleryError: a similarity is not finite.
        """
        block[n_rows:] = _BELOW_ALL
        groups = block.reshape(-1, self._fold, block.shape[1])
        # The highest of each position in a group: NumPy is fast along long rows, and few positions hold a hit.
        highest = groups.reshape(len(groups), -1).max(axis=0).reshape(groups.shape[1:])
        if not (np.isfinite(highest).all() and np.isfinite(block[:n_rows].min())):
            last_row = first_row + n_rows - 1
            raise GalleryError(f"Gallery rows {first_row}..{last_row} hold values that are not finite: build it again.")
        with self._lock:
            if self._keys.shape[1] < self._k:
                self._fill(_pack(block[:n_rows].T, np.arange(first_row, first_row + n_rows)))
                return
        # Blocks come in any order, so a row as similar as the k-th best may still be the lower one: >=, not >.
        position, query = np.nonzero(highest >= self._threshold)
        near = groups[:, position, query]
        group, hit = np.nonzero(near >= self._threshold[query])
        if len(hit):
            keys = _pack(near[group, hit], first_row + group * self._fold + position[hit])
            with self._lock:
                self._displace(query[hit], keys)

    def _fill(self, keys: NDArray[np.uint64]) -> None:
        """Add as many keys (Q, n) for every query, while there are not yet k."""
        self._keys = _largest(np.concatenate([self._keys, keys], axis=1), self._k)
        if self._keys.shape[1] == self._k:
            self._threshold = _unpack(self._keys.min(axis=1))[1]

    def _displace(self, query: NDArray[np.int64], keys: NDArray[np.uint64]) -> None:
        """Add single keys (n,), each of the query (n,) beside it."""
        order = np.argsort(query, kind="stable")
        queries, starts = np.unique(query[order], return_index=True)
        for one, added in zip(queries, np.split(keys[order], starts[1:]), strict=True):
            self._keys[one] = _largest(np.concatenate([self._keys[one], added]), self._k)
        self._threshold[queries] = _unpack(self._keys[queries].min(axis=1))[1]

    def sorted(self) -> NDArray[np.uint64]:
        """uint64 (Q, k), largest first."""
        return np.sort(self._keys, axis=1)[:, ::-1]


def _rows_a_product(n_queries: int, dim: int, threaded: bool) -> int | None:
    """Gallery rows that one call of the BLAS gets; None for as many as there are."""
    if n_queries > _SMALL_PRODUCT_QUERIES or (n_queries == 1 and not threaded):
        return None
    return max(1, (_SMALL_PRODUCT_ONE_QUERY if n_queries == 1 else _SMALL_PRODUCT) // (n_queries * dim))


def _multiply(
    rows: NDArray[np.float16] | NDArray[np.float32],
    columns: NDArray[np.float32],
    out: NDArray[np.float32],
    rows_a_product: int | None,
) -> None:
    """out = rows @ columns: (n, D) x float32 (D, Q) -> float32 (n, Q); float16 rows are widened part by part."""
    dim, n_queries = columns.shape
    if rows.dtype == np.float32:
        step = len(rows)
    else:
        step = min(len(rows), max(1, _WIDEN_AT_ONCE_BYTES // (4 * dim)))
        wide = np.empty((step, dim), np.float32)
    small = min(step, rows_a_product or step)
    for start in range(0, len(rows), step):
        part, result = rows[start : start + step], out[start : start + step]
        if rows.dtype != np.float32:
            np.copyto(wide[: len(part)], part)
            part = wide[: len(part)]
        whole = len(part) // small * small
        if whole:
            stacked = result[:whole].reshape(-1, small, n_queries)
            np.matmul(part[:whole].reshape(-1, small, dim), columns, out=stacked)
        if whole < len(part):
            np.matmul(part[whole:], columns, out=result[whole:])


def _pack(similarity: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    """float32 (..., n) of int64 (n,) gallery rows -> uint64 keys (..., n); see the head of this file."""
    bits = (similarity + np.float32(0)).view(np.uint32)  # + 0 turns -0.0 into 0.0, its equal
    ordered = np.where(bits & _SIGN, ~bits, bits | _SIGN).astype(np.uint64)
    keys: NDArray[np.uint64] = (ordered << np.uint64(32)) | (_LOW_BITS - rows.astype(np.uint64))
    return keys


def _unpack(keys: NDArray[np.uint64]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The inverse of `_pack`: int32 rows and float32 similarities."""
    ordered = (keys >> np.uint64(32)).astype(np.uint32)
    bits = np.where(ordered & _SIGN, ordered & ~_SIGN, ~ordered)
    return (_LOW_BITS - (keys & _LOW_BITS)).astype(np.int32), bits.view(np.float32)


def _largest(keys: NDArray[np.uint64], k: int) -> NDArray[np.uint64]:
    """The k largest keys along the last axis, unordered; all of them where there are fewer."""
    cut = keys.shape[-1] - k
    if cut <= 0:
        return keys
    largest: NDArray[np.uint64] = np.partition(keys, cut, axis=-1)[..., cut:]
    return largest
