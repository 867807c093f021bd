"""Matching written as plainly as its definition: what every matcher and kernel is compared with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import GalleryError
from dphr_infer.matchers.base import check_queries, check_ranges
from dphr_infer.matchers.quantise import WIDEN_BY, QuantisedRows, SplitQueries, bound_slack, split_queries
from dphr_infer.types import Matches


def match_by_sorting(
    gallery: NDArray[np.float16] | NDArray[np.float32],
    queries: NDArray[np.float32],
    k: int,
    row_ranges: Iterable[tuple[int, int]] | None = None,
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


@dataclass(frozen=True, slots=True, eq=False)
class CertifiedMatches:
    """What a scan by upper bounds found; the matches are exact in any case.

    Attributes:
        matches:   as `Matcher.match` gives them.
        proven:    bool (Q,), the first scan proved this query.
        widenings: how often the queries that were not yet proven were scanned again with more candidates.
    """

    matches: Matches
    proven: NDArray[np.bool_]
    widenings: int


def upper_bounds(
    quantised: QuantisedRows, split: SplitQueries, slack: NDArray[np.float32], start: int, stop: int
) -> NDArray[np.float32]:
    """Upper bounds of the similarity of gallery rows start..stop-1: float32 (Q, stop - start).

    None is below the float32 similarity of its row, in whatever order that is summed. Evaluated in float32 with the
    integer dot products exact, as the kernels do:

        scale * (first_scale * float(a . c) + second_scale * float(b . c)) + error * length + slack

    Rounding may go either way in it, with or without fused multiply-adds, because `slack` (of `bound_slack`) exceeds
    all that these nine roundings can take away. `scale`, `first_scale` and `second_scale` are exact: they define the
    codes. `error` and `length` are rounded up.
    """
    codes = quantised.codes[start:stop].astype(np.float64)  # sums of products of int8 are exact in float64
    first = (split.first.astype(np.float64) @ codes.T).astype(np.float32)
    second = (split.second.astype(np.float64) @ codes.T).astype(np.float32)
    bounds: NDArray[np.float32] = split.first_scale[:, None] * first + split.second_scale[:, None] * second
    bounds *= quantised.scale[start:stop]
    bounds += quantised.error[start:stop] * split.length[:, None]
    bounds += slack[:, None]
    return bounds


def _take_queries(split: SplitQueries, chosen: NDArray[np.int64]) -> SplitQueries:
    return SplitQueries(
        split.first[chosen],
        split.second[chosen],
        split.first_scale[chosen],
        split.second_scale[chosen],
        split.residual[chosen],
        split.length[chosen],
    )


def match_int8_certified(
    gallery: NDArray[np.float16] | NDArray[np.float32],
    quantised: QuantisedRows,
    queries: NDArray[np.float32],
    k: int,
    candidates: int,
    row_ranges: Iterable[tuple[int, int]] | None = None,
) -> CertifiedMatches:
    """Exact top k by a scan of int8 codes; plain, with all Q x N bounds in memory: for tests and small galleries.

    Each scan keeps the rows with the highest bounds, `candidates` of them at first and WIDEN_BY times as many at each
    repetition, and ranks them by their float32 similarity with the gallery itself. A query is done when its k-th
    similarity lies above the smallest bound kept, or when all allowed rows were kept.

    Args:
        gallery: float16 or float32 (N, D), the rows that were quantised.
        quantised: of `quantise_rows`.
        candidates: k or more; more than the allowed rows are as good as all of them.
        queries, k, row_ranges: as in `Matcher.match`.

    Raises:
        GalleryError: as `Matcher.match`; `quantised` is of another shape; `candidates` is below k.
    """
    check_queries(queries, gallery.shape[1])
    ranges = check_ranges(row_ranges, len(gallery), k)
    if quantised.codes.shape != gallery.shape:
        raise GalleryError(
            f"The int8 codes are {quantised.codes.shape} but the gallery is {gallery.shape}: quantise this gallery."
        )
    if candidates < k:
        raise GalleryError(f"{candidates} candidates cannot hold {k} matches: keep at least {k}.")
    allowed = np.concatenate([np.arange(start, stop) for start, stop in ranges])
    split = split_queries(queries)
    slack = bound_slack(quantised.longest, float(quantised.error.max()), split)
    rows, similarity = np.empty((len(queries), k), np.int32), np.empty((len(queries), k), np.float32)
    proven_at_first = np.zeros(len(queries), np.bool_)
    open_queries, widenings = np.arange(len(queries)), 0
    while True:
        kept = min(candidates * WIDEN_BY**widenings, len(allowed))
        part = _take_queries(split, open_queries)
        bounds = np.concatenate([upper_bounds(quantised, part, slack[open_queries], *pair) for pair in ranges], axis=1)
        order = np.argsort(-bounds, axis=1, kind="stable")[:, :kept]
        least_bound = np.take_along_axis(bounds, order, axis=1)[:, -1]
        for query, chosen in zip(open_queries, np.sort(order, axis=1), strict=True):
            exact = queries[query] @ gallery[allowed[chosen]].astype(np.float32).T
            best = np.argsort(-exact, kind="stable")[:k]  # candidates ascend, so a tie goes to the lower row
            rows[query], similarity[query] = allowed[chosen[best]], exact[best]
        proven = (similarity[open_queries, -1] > least_bound) | (kept == len(allowed))
        if not widenings:
            proven_at_first[:] = proven
        open_queries = open_queries[~proven]
        if not len(open_queries):
            return CertifiedMatches(Matches(rows, similarity), proven_at_first, widenings)
        widenings += 1
