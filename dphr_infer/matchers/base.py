"""What every matcher offers. A matcher knows nothing of geography: rows in, rows out."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import GalleryError
from dphr_infer.types import Matches

UNIT_TOLERANCE = 5e-3


class Matcher(Protocol):
    """Finds the most similar gallery rows. Opened on one gallery; a context manager like an engine."""

    name: str

    def __enter__(self) -> Matcher: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def match(
        self, queries: NDArray[np.float32], k: int, row_ranges: Iterable[tuple[int, int]] | None = None
    ) -> Matches:
        """Find the k most similar gallery rows for each query.

        Rows are L2-normalised, so the dot product is the cosine similarity. Equal similarities go to the lower row.

        Bits: on one machine, for one query alone (Q = 1), a row has the same similarity bit for bit in every call,
        whatever row_ranges and k. Between batch shapes similarities agree within 1e-6, and the rows are the same
        unless two similarities lie within that: a matrix product sums in an order of its own for each shape. Matchers
        agree with each other to the same, on different processors too.

        Args:
            queries: float32 (Q, D), C-contiguous, unit length.
            k: neighbours per query, 1 <= k <= number of allowed rows.
            row_ranges: half-open [start, stop) ranges, sorted and disjoint, that may be matched; None allows all rows.
                A range with start == stop is empty and harmless.

        Raises:
            GalleryError: D differs, a query is not finite or not unit length, k or a range is out of bounds.
        """
        ...


def check_gallery(gallery: NDArray[np.float16] | NDArray[np.float32]) -> None:
    """Refuse a gallery that no matcher takes.

    Raises:
        GalleryError: not float16 or float32 (N, D), empty, or of more than 2^31 - 1 rows.
    """
    if gallery.ndim != 2 or gallery.dtype not in (np.float16, np.float32) or 0 in gallery.shape:
        raise GalleryError(
            f"The gallery is {gallery.dtype} {gallery.shape}; a matcher takes float16 or float32 (N, D) with at "
            "least one row."
        )
    if len(gallery) > np.iinfo(np.int32).max:
        raise GalleryError(f"The gallery has {len(gallery)} rows; int32 row numbers end at 2^31 - 1. Split the map.")


def check_queries(queries: NDArray[np.float32], dim: int) -> None:
    """Refuse queries that a matcher would answer wrongly.

    Raises:
        GalleryError: not float32 (Q, dim), not finite, or not unit length.
    """
    if queries.ndim != 2 or queries.dtype != np.float32:
        raise GalleryError(f"Query embeddings are {queries.dtype} {queries.shape}; a matcher takes float32 (Q, {dim}).")
    if queries.shape[1] != dim:
        raise GalleryError(
            f"Query embeddings have {queries.shape[1]} dimensions but the gallery has {dim}. They come from different "
            "models: rebuild the gallery with the bundle that made the query."
        )
    if not np.isfinite(queries).all():
        bad = int((~np.isfinite(queries)).any(axis=1).sum())
        raise GalleryError(
            f"{bad} of {len(queries)} query embeddings are not finite: the model that made them is damaged."
        )
    lengths = np.linalg.norm(queries, axis=1)
    far = np.abs(lengths - 1) > UNIT_TOLERANCE
    if far.any():
        raise GalleryError(
            f"{int(far.sum())} of {len(queries)} query embeddings are not of unit length (one has "
            f"{float(lengths[far][0]):.4f}). Normalise them: only then is the inner product a cosine similarity."
        )


def check_ranges(row_ranges: Iterable[tuple[int, int]] | None, n_rows: int, k: int) -> tuple[tuple[int, int], ...]:
    """The ranges to search, without empty ones; all rows for None.

    Raises:
        GalleryError: a range lies outside 0..n_rows, they are unsorted or overlap, or fewer than k rows are allowed.
    """
    ranges = ((0, n_rows),) if row_ranges is None else tuple((int(start), int(stop)) for start, stop in row_ranges)
    end = 0
    for start, stop in ranges:
        if not 0 <= start <= stop <= n_rows:
            raise GalleryError(f"Row range [{start}, {stop}) lies outside the gallery's {n_rows} rows.")
        if start < end:
            raise GalleryError(
                f"Row range [{start}, {stop}) begins before row {end}, where an earlier one ends: ranges must be "
                "sorted and disjoint."
            )
        end = stop
    allowed = sum(stop - start for start, stop in ranges)
    if not 1 <= k <= allowed:
        raise GalleryError(f"k is {k}, but {allowed} gallery rows may be matched: choose k in 1..{allowed}.")
    return tuple((start, stop) for start, stop in ranges if start < stop)
