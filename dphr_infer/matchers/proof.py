"""When a scan of int8 codes is done: the loop that widens it until every query is proven, on any device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dphr_infer.matchers.quantise import WIDEN_BY
from dphr_infer.types import Matches


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """What one scan of codes found.

    Attributes:
        rows:       int32 (Q, k), the best of its candidates by their exact similarity.
        similarity: float32 (Q, k).
        proven:     bool (Q,): the k-th similarity lies above every upper bound that was not kept.
    """

    rows: NDArray[np.int32]
    similarity: NDArray[np.float32]
    proven: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Proven:
    """Exact matches, and what they took.

    Attributes:
        matches:   as `Matcher.match` gives them.
        widened:   scans of codes repeated with more candidates.
        rescanned: queries that no scan of codes proved.
    """

    matches: Matches
    widened: int
    rescanned: int


def first_candidates(k: int, all_rows: int, candidates: tuple[int, int]) -> int:
    """How many candidates the first scan keeps; arguments as of `match_proven`."""
    fewest, most = (min(count, all_rows) for count in candidates)
    return min(most, max(fewest, WIDEN_BY * k))


def match_proven(
    queries: NDArray[np.float32],
    k: int,
    all_rows: int,
    candidates: tuple[int, int],
    scan_codes: Callable[[NDArray[np.float32], int], Ranked],
    scan_rows: Callable[[NDArray[np.float32]], Matches],
) -> Proven:
    """Scan codes, widen WIDEN_BY times for the queries that are not proven, and scan rows for those that never are.

    Args:
        queries: float32 (Q, D).
        k: matches per query, at most `candidates[1]` and `all_rows`.
        all_rows: rows that may be matched; a scan that keeps them all proves every query.
        candidates: the fewest and the most that a scan keeps; it starts with WIDEN_BY * k where that is more.
        scan_codes: (queries, number of candidates) -> Ranked.
        scan_rows: the exact scan without codes.
    """
    most, n_candidates = min(candidates[1], all_rows), first_candidates(k, all_rows, candidates)
    rows, similarity = np.empty((len(queries), k), np.int32), np.empty((len(queries), k), np.float32)
    open_queries, widened = np.arange(len(queries)), 0
    while True:
        found = scan_codes(queries[open_queries], n_candidates)
        rows[open_queries], similarity[open_queries] = found.rows, found.similarity
        if n_candidates == all_rows or found.proven.all():
            return Proven(Matches(rows, similarity), widened, 0)
        open_queries = open_queries[~found.proven]
        if n_candidates == most:
            break
        n_candidates = min(most, WIDEN_BY * n_candidates)
        widened += 1
    exact = scan_rows(queries[open_queries])
    rows[open_queries], similarity[open_queries] = exact.rows, exact.similarity
    return Proven(Matches(rows, similarity), widened, len(open_queries))
