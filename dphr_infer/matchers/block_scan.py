"""Multiplies gallery rows with queries block by block, in threads, and keeps the best rows of each query.

A similarity and its row travel as one 64-bit key, so that "higher similarity, then lower row" is plain integer order:

    bits 63..32   the float32 similarity, its bits mapped so that unsigned order is float order
    bits 31..0    2^32 - 1 - row, so that of two equal similarities the lower row has the larger key

Keys are unique, so partitioning them leaves no tie to chance, and a key gives back its similarity bit by bit.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import EngineError, GalleryError
from dphr_infer.measure.machine import usable_cores

QUERIES_A_PASS = 256

# A product of a tall matrix and few queries is bound by OpenBLAS copying the matrix for its large kernels; up to this
# many multiplications it does not copy where it has small kernels, and never starts threads of its own. 8 queries:
# 9 GB/s a core instead of 4; from 33 queries on, the large kernels win. One query is multiplied row by row: NumPy then
# calls the BLAS' dot product, which keeps up with memory where its matrix-vector product may not (EPYC: 27 GB/s a
# core instead of 12), and no threads but ours wait for each other.
_SMALL_PRODUCT = 1 << 18
_SMALL_PRODUCT_QUERIES = 32
_SIMILARITIES_A_BLOCK = 1 << 18
# Memory for the similarities and keys of the blocks of all threads together, whatever N and Q are.
BLOCK_BYTES = 32 << 20
_ROWS_A_BLOCK = 1 << 14
_ROWS_FIRST = 256
_GROWTH = 16
# Waking threads takes 0.25 to 0.3 ms: less than they save from about so many values, each read once and multiplied
# with every query (10,000 x 512 with one query; 1,200 x 1,280 with eight).
_WORTH_THREADS = 1 << 24
# So few similarities are sooner all sorted than sifted by thresholds.
_SORTED_AT_ONCE = 1 << 12
_WIDEN_AT_ONCE_BYTES = 1 << 19
_FOLD_ROWS = 64
_FOLD_SIMILARITIES = 2048
_BELOW_ALL = np.finfo(np.float32).min

_SIGN = np.uint32(0x80000000)
_LOW_BITS = np.uint64(0xFFFFFFFF)

Rows = NDArray[np.float32] | NDArray[np.float16] | NDArray[np.int8]
# Turns a block's products, float32 (stop - start, Q), of rows start..stop-1 in place into what is ranked.
Finish = Callable[[NDArray[np.float32], int, int], None]


class BlockScan:
    """Scans rows of any matrix; keeps threads between `open` and `close`, and works without them otherwise.

    Args:
        threads: for up to 32 queries of galleries that are worth waking them; None is every core that this process may
            use. More queries are left to the threads of NumPy's BLAS.

    Raises:
        EngineError: fewer than one thread.
    """

    def __init__(self, threads: int | None) -> None:
        if threads is not None and threads < 1:
            raise EngineError(f"threads is {threads}; give None for all cores, or a count of at least 1.")
        self._block_bytes = BLOCK_BYTES
        self._threads = usable_cores() if threads is None else threads
        self._pool: ThreadPoolExecutor | None = None

    @property
    def pool(self) -> Executor | None:
        """The open threads; None where there is but one."""
        return self._pool

    def open(self) -> None:
        """Start threads."""
        if self._threads > 1 and self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads)

    def close(self) -> None:
        """End them; harmless where there are none."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def best_keys(
        self,
        matrix: Rows,
        queries: NDArray[np.float32],
        k: int,
        ranges: Sequence[tuple[int, int]],
        finish: Finish | None = None,
    ) -> NDArray[np.uint64]:
        """The k rows of highest product for each query: uint64 (Q, k), best first; see `unpack`.

        Args:
            matrix: (N, D); float16 and int8 rows are widened to float32, part by part.
            queries: float32 (Q, D), 1 <= Q <= QUERIES_A_PASS.
            k: at most the rows in `ranges`.
            ranges: half-open, sorted, disjoint, none empty.
            finish: called from the threads for every block; None ranks the products themselves.

        Raises:
            GalleryError: what is ranked is not finite.
        """
        columns = np.ascontiguousarray(queries.T)
        work = sum(stop - start for start, stop in ranges) * len(columns) * (2 + len(queries))
        pool = self._pool if len(queries) <= _SMALL_PRODUCT_QUERIES and work > _WORTH_THREADS else None
        blocks = self._blocks(ranges, len(queries), k, 1 if pool is None else self._threads)
        best = _BestKeys(len(queries), k)
        waiting = iter(blocks)  # the threads share it; each takes the next block when it is done with one
        largest_block = max(stop - start for start, stop in blocks)
        step = _rows_a_product(len(queries), len(columns))

        def scan(limit: int | None = None) -> None:
            similarity = np.empty((best.whole_groups(largest_block), len(queries)), np.float32)
            for start, stop in itertools.islice(waiting, limit):
                n_rows = stop - start
                with np.errstate(invalid="ignore", over="ignore"):  # refused with words right below
                    multiply(matrix[start:stop], columns, similarity[:n_rows], step)
                    if finish is not None:
                        finish(similarity[:n_rows], start, stop)
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

        A row costs about 40 bytes per query for similarities and keys.
        """
        most = max(_ROWS_A_BLOCK, _SIMILARITIES_A_BLOCK // (n_queries * threads))
        most = min(most, max(1, self._block_bytes // (40 * n_queries * threads)))
        at_once = _SORTED_AT_ONCE // n_queries
        few = sum(stop - start for start, stop in ranges) <= at_once
        step = min(most, at_once if few else max(_ROWS_FIRST, 2 * k))
        blocks = []
        for start, stop in ranges:
            while start < stop:
                blocks.append((start, min(start + step, stop)))
                start, step = start + step, min(most, _GROWTH * step)
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
                self._fill(pack(block[:n_rows].T, np.arange(first_row, first_row + n_rows)))
                return
        # Blocks come in any order, so a row as similar as the k-th best may still be the lower one: >=, not >.
        position, query = np.nonzero(highest >= self._threshold)
        near = groups[:, position, query]
        group, hit = np.nonzero(near >= self._threshold[query])
        if len(hit):
            keys = pack(near[group, hit], first_row + group * self._fold + position[hit])
            with self._lock:
                self._displace(query[hit], keys)

    def _fill(self, keys: NDArray[np.uint64]) -> None:
        """Add as many keys (Q, n) for every query, while there are not yet k."""
        self._keys = largest(np.concatenate([self._keys, keys], axis=1), self._k)
        if self._keys.shape[1] == self._k:
            self._threshold = unpack(self._keys.min(axis=1))[1]

    def _displace(self, query: NDArray[np.int64], keys: NDArray[np.uint64]) -> None:
        """Add single keys (n,), each of the query (n,) beside it."""
        counts = np.bincount(query, minlength=len(self._keys))
        grouped = keys if len(counts) == 1 else keys[np.argsort(query, kind="stable")]
        end = 0
        for one in np.flatnonzero(counts):
            start, end = end, end + counts[one]
            self._keys[one] = largest(np.concatenate([self._keys[one], grouped[start:end]]), self._k)
        self._threshold = unpack(self._keys.min(axis=1))[1]

    def sorted(self) -> NDArray[np.uint64]:
        """uint64 (Q, k), largest first."""
        return np.sort(self._keys, axis=1)[:, ::-1]


def _rows_a_product(n_queries: int, dim: int) -> int | None:
    """Gallery rows that one call of the BLAS gets; None for as many as there are."""
    if n_queries == 1:
        return 1
    return max(1, _SMALL_PRODUCT // (n_queries * dim)) if n_queries <= _SMALL_PRODUCT_QUERIES else None


def multiply(
    rows: Rows, columns: NDArray[np.float32], out: NDArray[np.float32], rows_a_product: int | None = None
) -> None:
    """Out = rows @ columns: (n, D) x float32 (D, Q) -> float32 (n, Q); other rows than float32 are widened in parts."""
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


def pack(similarity: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    """float32 (..., n) of int64 (n,) gallery rows -> uint64 keys (..., n); see the head of this file."""
    bits = (similarity + np.float32(0)).view(np.uint32)  # + 0 turns -0.0 into 0.0, its equal
    ordered = np.where(bits & _SIGN, ~bits, bits | _SIGN).astype(np.uint64)
    keys: NDArray[np.uint64] = (ordered << np.uint64(32)) | (_LOW_BITS - rows.astype(np.uint64))
    return keys


def unpack(keys: NDArray[np.uint64]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The inverse of `pack`: int32 rows and float32 similarities."""
    ordered = (keys >> np.uint64(32)).astype(np.uint32)
    bits = np.where(ordered & _SIGN, ordered & ~_SIGN, ~ordered)
    return (_LOW_BITS - (keys & _LOW_BITS)).astype(np.int32), bits.view(np.float32)


def largest(keys: NDArray[np.uint64], k: int) -> NDArray[np.uint64]:
    """The k largest keys along the last axis, unordered; all of them where there are fewer."""
    cut = keys.shape[-1] - k
    if cut <= 0:
        return keys
    kept: NDArray[np.uint64] = np.partition(keys, cut, axis=-1)[..., cut:]
    return kept
