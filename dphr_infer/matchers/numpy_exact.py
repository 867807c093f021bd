"""Exact search in NumPy, block by block: the matcher of a CPU, and the reference of every other matcher.

A similarity and its row travel as one 64-bit key, so that "higher similarity, then lower row" is plain integer order:

    bits 63..32   the float32 similarity, its bits mapped so that unsigned order is float order
    bits 31..0    2^32 - 1 - row, so that of two equal similarities the lower row has the larger key

Keys are unique, so partitioning them leaves no tie to chance, and a key gives back its similarity bit by bit.

Two rows with the same content are equal only if the BLAS sums them in the same order; where it does not, their
similarities differ in the last bit and the higher one comes first, whichever row that is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import GalleryError
from dphr_infer.matchers.base import check_queries, check_ranges
from dphr_infer.types import Matches

DEFAULT_BLOCK_BYTES = 32 << 20
DEFAULT_WIDEN_BYTES = 1 << 30
QUERIES_A_PASS = 256

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


class NumpyExactMatcher:
    """Exact top k over a gallery in memory or memory-mapped.

    Args:
        gallery: float16 or float32 (N, D), rows of unit length.
        block_bytes: memory for one block's widened rows, similarities and keys, whatever N and Q are.
        widen_bytes: a float16 gallery that takes no more than this as float32 is widened once, in `__enter__`; a
            larger one block by block in every call, which takes about ten times as long as reading float32.
    """

    name = "numpy exact"

    def __init__(
        self,
        gallery: NDArray[np.float16] | NDArray[np.float32],
        block_bytes: int = DEFAULT_BLOCK_BYTES,
        widen_bytes: int = DEFAULT_WIDEN_BYTES,
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

    def __enter__(self) -> NumpyExactMatcher:
        if self._stored.dtype == np.float16 and 4 * self._stored.size <= self._widen_bytes:
            self._gallery = self._stored.astype(np.float32)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._gallery = self._stored

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
        best = np.zeros((len(queries), 0), np.uint64)
        for start, stop in self._blocks(ranges, len(queries)):
            similarity = queries @ self._gallery[start:stop].astype(np.float32, copy=False).T
            if not np.isfinite(similarity).all():
                raise GalleryError(f"Gallery rows {start}..{stop - 1} hold values that are not finite: build it again.")
            if best.shape[1] < k:
                best = _largest(np.concatenate([best, _pack(similarity, start)], axis=1), k)
                continue
            # Rows only ascend, so a later row must be strictly more similar to displace one of the best k.
            better = (similarity > _unpack(best)[1].min(axis=1, keepdims=True)).any(axis=1)
            if better.any():
                found = _largest(_pack(similarity[better], start), k)
                best[better] = _largest(np.concatenate([best[better], found], axis=1), k)
        return np.sort(best, axis=1)[:, ::-1]

    def _blocks(self, ranges: Sequence[tuple[int, int]], n_queries: int) -> Iterator[tuple[int, int]]:
        """Cut the ranges so that a block fits in the budget.

        A row costs about 40 Q bytes for similarities and keys, and 4 D where it has to be widened to float32.
        """
        widened_bytes = 4 * self._gallery.shape[1] if self._gallery.dtype == np.float16 else 0
        step = max(1, self._block_bytes // (widened_bytes + 40 * n_queries))
        for start, stop in ranges:
            for first in range(start, stop, step):
                yield first, min(first + step, stop)


def _pack(similarity: NDArray[np.float32], first_row: int) -> NDArray[np.uint64]:
    """float32 (Q, n) of rows first_row.. -> uint64 keys (Q, n); see the head of this file."""
    bits = (similarity + np.float32(0)).view(np.uint32)  # + 0 turns -0.0 into 0.0, its equal
    ordered = np.where(bits & _SIGN, ~bits, bits | _SIGN).astype(np.uint64)
    rows = np.arange(first_row, first_row + similarity.shape[1], dtype=np.uint64)
    keys: NDArray[np.uint64] = (ordered << np.uint64(32)) | (_LOW_BITS - rows)
    return keys


def _unpack(keys: NDArray[np.uint64]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The inverse of `_pack`: int32 rows and float32 similarities."""
    ordered = (keys >> np.uint64(32)).astype(np.uint32)
    bits = np.where(ordered & _SIGN, ordered & ~_SIGN, ~ordered)
    return (_LOW_BITS - (keys & _LOW_BITS)).astype(np.int32), bits.view(np.float32)


def _largest(keys: NDArray[np.uint64], k: int) -> NDArray[np.uint64]:
    """The k largest keys of each row, unordered; all of them where there are fewer."""
    cut = keys.shape[1] - k
    if cut <= 0:
        return keys
    largest: NDArray[np.uint64] = np.partition(keys, cut, axis=1)[:, cut:]
    return largest
