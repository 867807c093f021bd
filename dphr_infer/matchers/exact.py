"""Exact search in NumPy by float32 products: the matcher of a CPU, and the reference of every other matcher.

One query alone takes one dot product per row: a row has the same similarity, bit for bit, whatever ranges, blocks and
threads. Two queries or more are matrix products, whose bits depend on the shape of the batch, on the place of a row in
it and on the processor: similarities agree within 1e-6 with those of one query alone, and rows are the same unless two
similarities lie within that. Two rows with the same content may then differ in the last bit, and the higher one comes
first, whichever row that is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import GalleryError
from dphr_infer.matchers.base import check_gallery, check_queries, check_ranges
from dphr_infer.matchers.block_scan import QUERIES_A_PASS, BlockScan, unpack
from dphr_infer.types import Matches

# A float16 gallery that takes no more than this as float32 is widened once.
WIDEN_BYTES = 1 << 30
# Rows of many short ranges are copied together: up to so much in all, where a range has less than so much on average.
_GATHER_BYTES = 64 << 20
_BYTES_A_RANGE = 256 << 10


class NumpyExactMatcher:
    """Exact top k over a gallery in memory or memory-mapped.

    A float16 gallery of up to 1 GiB as float32 is widened once, in `__enter__`; a larger one in every call, which takes
    five times as long for one query as reading float32: `NumpyInt8Matcher` is for such a gallery.

    Args:
        gallery: float16 or float32 (N, D), rows of unit length.
        threads: for up to 32 queries, when entered; None is every core that this process may use. More queries are
            left to the threads of NumPy's BLAS.

    Raises:
        GalleryError: another dtype or shape.
        EngineError: fewer than one thread.
    """

    name = "numpy exact"

    def __init__(self, gallery: NDArray[np.float16] | NDArray[np.float32], threads: int | None = None) -> None:
        check_gallery(gallery)
        self._stored = self._gallery = gallery
        self._scan = BlockScan(threads)

    def __enter__(self) -> NumpyExactMatcher:
        if self._stored.dtype == np.float16 and 4 * self._stored.size <= WIDEN_BYTES:
            self._gallery = self._stored.astype(np.float32)
        self._scan.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._gallery = self._stored
        self._scan.close()

    def match(
        self, queries: NDArray[np.float32], k: int, row_ranges: Iterable[tuple[int, int]] | None = None
    ) -> Matches:
        """Find the k most similar gallery rows for each query; see `Matcher.match`.

        Raises:
            GalleryError: as the Protocol states, or a gallery row that is not finite.
        """
        check_queries(queries, self._gallery.shape[1])
        ranges = check_ranges(row_ranges, len(self._gallery), k)
        matrix, numbers = self._gallery, None
        if self._are_scattered(ranges):
            matrix = np.concatenate([matrix[start:stop] for start, stop in ranges])
            if not np.isfinite(matrix).all():
                bad = next((a, b) for a, b in ranges if not np.isfinite(self._gallery[a:b]).all())
                raise GalleryError(
                    f"Gallery rows {bad[0]}..{bad[1] - 1} hold values that are not finite: build it again."
                )
            numbers = np.concatenate([np.arange(start, stop, dtype=np.int32) for start, stop in ranges])
            ranges = ((0, len(matrix)),)
        rows = np.empty((len(queries), k), np.int32)
        similarity = np.empty((len(queries), k), np.float32)
        for first in range(0, len(queries), QUERIES_A_PASS):
            part = slice(first, first + QUERIES_A_PASS)
            rows[part], similarity[part] = unpack(self._scan.best_keys(matrix, queries[part], k, ranges))
        return Matches(rows if numbers is None else numbers[rows], similarity)

    def _are_scattered(self, ranges: Sequence[tuple[int, int]]) -> bool:
        """Whether copying the rows together costs less than a product for each range: about 50 us a range."""
        n_rows = sum(stop - start for start, stop in ranges)
        row_bytes = self._gallery[:1].nbytes
        return len(ranges) > 1 and n_rows * row_bytes <= min(_GATHER_BYTES, len(ranges) * _BYTES_A_RANGE)
