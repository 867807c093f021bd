"""Exact search in NumPy by int8 codes: for a float16 gallery that is too large to be widened to float32 once.

A scan of codes reads half of what float16 rows take, and NumPy widens int8 about ten times as fast as float16. It keeps
the rows of highest upper bound, ranks them by their stored rows, and the answer stands only where the k-th best is
better than anything that was left out can be; see `quantise.py`. Queries are not quantised here: codes are widened to
float32 and multiplied with the query itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import EngineError
from dphr_infer.matchers.base import check_gallery, check_queries, check_ranges
from dphr_infer.matchers.block_scan import QUERIES_A_PASS, BlockScan, largest, multiply, pack, unpack
from dphr_infer.matchers.proof import Ranked, match_proven
from dphr_infer.matchers.quantise import WIDEN_BY, QuantisedRows, float_slack, quantise_rows
from dphr_infer.types import Matches

_FEWEST_CANDIDATES = 128
_MOST_CANDIDATES = 2048

Ranges = tuple[tuple[int, int], ...]


class NumpyInt8Matcher:
    """Exact top k over a gallery in memory or memory-mapped, with one byte a value of it in memory as int8.

    The codes are made in `__enter__`: about 4 s for a million rows of 512 values on one core.

    Args:
        gallery: float16 or float32 (N, D), rows of unit length.
        threads: as of `NumpyExactMatcher`.

    Attributes:
        widened: scans repeated with more candidates, since `__enter__`.
        rescanned: queries that were scanned by the stored rows because int8 could not prove them, since `__enter__`.

    Raises:
        GalleryError, EngineError: as of `NumpyExactMatcher`.
    """

    name = "numpy int8"

    def __init__(self, gallery: NDArray[np.float16] | NDArray[np.float32], threads: int | None = None) -> None:
        check_gallery(gallery)
        self._gallery = gallery
        self._scan = BlockScan(threads)
        self._quantised: QuantisedRows | None = None
        self.widened = self.rescanned = 0

    def __enter__(self) -> NumpyInt8Matcher:
        self.widened = self.rescanned = 0
        self._scan.open()
        try:
            self._quantised = quantise_rows(self._gallery, self._scan.pool)
        except BaseException:
            self._scan.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._quantised = None
        self._scan.close()

    def match(
        self, queries: NDArray[np.float32], k: int, row_ranges: Iterable[tuple[int, int]] | None = None
    ) -> Matches:
        """Find the k most similar gallery rows for each query; see `Matcher.match`.

        Raises:
            GalleryError: as the Protocol states.
            EngineError: outside a with statement.
        """
        if self._quantised is None:
            raise EngineError("The int8 matcher is not open: use it inside a with statement.")
        check_queries(queries, self._gallery.shape[1])
        ranges = check_ranges(row_ranges, len(self._gallery), k)
        rows, similarity = np.empty((len(queries), k), np.int32), np.empty((len(queries), k), np.float32)
        for first in range(0, len(queries), QUERIES_A_PASS):
            part = slice(first, first + QUERIES_A_PASS)
            found = self._match_pass(self._quantised, queries[part], k, ranges)
            rows[part], similarity[part] = found.rows, found.similarity
        return Matches(rows, similarity)

    def _match_pass(self, quantised: QuantisedRows, queries: NDArray[np.float32], k: int, ranges: Ranges) -> Matches:
        def scan_codes(some: NDArray[np.float32], n_candidates: int) -> Ranked:
            return self._rank(quantised, some, k, n_candidates, ranges)

        def scan_rows(some: NDArray[np.float32]) -> Matches:
            return Matches(*unpack(self._scan.best_keys(self._gallery, some, k, ranges)))

        all_rows, most = sum(stop - start for start, stop in ranges), max(_MOST_CANDIDATES, WIDEN_BY * k)
        found = match_proven(queries, k, all_rows, (_FEWEST_CANDIDATES, most), scan_codes, scan_rows)
        self.widened += found.widened
        self.rescanned += found.rescanned
        return found.matches

    def _rank(
        self, quantised: QuantisedRows, queries: NDArray[np.float32], k: int, n_candidates: int, ranges: Ranges
    ) -> Ranked:
        """Keep the candidates of highest upper bound, and rank them by their stored rows."""
        length = np.linalg.norm(queries, axis=1).max() * np.float32(1.001)  # of the longest, rounding included

        def to_bounds(products: NDArray[np.float32], start: int, stop: int) -> None:
            products *= quantised.scale[start:stop, None]
            products += (quantised.error[start:stop] * length)[:, None]

        kept, bounds = unpack(self._scan.best_keys(quantised.codes, queries, n_candidates, ranges, to_bounds))
        # The same for all rows, so that it is added to the last bound alone.
        least_bound = bounds[:, -1] + float_slack(quantised.longest, float(quantised.error.max()), queries)
        best = np.empty((len(queries), k), np.uint64)
        for query, rows, keys in zip(queries, kept, best, strict=True):
            exact = np.empty((n_candidates, 1), np.float32)
            multiply(self._gallery[rows], query[:, None], exact, rows_a_product=1)
            keys[:] = np.sort(largest(pack(exact[:, 0], rows.astype(np.int64)), k))[::-1]
        found, similarity = unpack(best)
        return Ranked(found, similarity, similarity[:, -1] > least_bound)
