"""Recall@k, hit rate and average precision of a ranking, as the official scripts of the benchmarks define them.

Ranks are 0-based; similarity decides, equal similarities go to the lower gallery row. Nothing is sorted: the rank of a
row is how many rows come before it, counted in one pass, so a gallery of 100,000 images costs no more than its blocks.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import DatasetError
from dphr_train.types import UNIVERSITY_RULES, GalleryProtocol, GroundPositions, OnePercent, RetrievalReport, Rules

RECALL_AT = (1, 5, 10)
_BLOCK_BYTES = 16 * 1024 * 1024
_ROUNDING_M = 1e-3


def trapezoid_ap(ranks: NDArray[np.int64]) -> float:
    """Average precision by the trapezoid rule of the official University-1652 script; not scikit-learn's.

    AP = sum_j (1/N) * (before_j + at_j) / 2 with at_j = (j+1)/(r_j+1), before_j = j/r_j, or 1 where r_j = 0.

    Args:
        ranks: int64 (N,), ascending 0-based ranks of the query's N true matches, N >= 1.
    """
    j = np.arange(len(ranks))
    at = (j + 1) / (ranks + 1)
    before = np.where(ranks == 0, 1.0, j / np.maximum(ranks, 1))
    return float(np.mean((before + at) / 2))


def standard_ap(ranks: NDArray[np.int64]) -> float:
    """Average precision as in information retrieval and scikit-learn: mean over matches of (j+1)/(r_j+1)."""
    return float(np.mean((np.arange(len(ranks)) + 1) / (ranks + 1)))


def one_percent_rank(n_gallery: int, rule: OnePercent = "round") -> int:
    """Last 0-based rank that counts for recall@1%.

    Args:
        n_gallery: G >= 1.
        rule: "round" is round(0.01 G), one rank generous, as in the official University-1652 script; "floor" is the
            first k = G // 100 ranks, as for CVUSA, CVACT and VIGOR, and the first alone where G < 100.
    """
    return round(0.01 * n_gallery) if rule == "round" else max(1, n_gallery // 100) - 1


def similarity_rows(queries: NDArray[np.float32], gallery: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """One query's similarities after another, float32 (G,), multiplied in blocks of a fixed size in memory.

    Args:
        queries: float32 (Q, D).
        gallery: float32 (G, D), G >= 1.
    """
    block = max(1, _BLOCK_BYTES // (4 * len(gallery)))
    for start in range(0, len(queries), block):
        yield from queries[start : start + block] @ gallery.T


def rank_of(similarity: NDArray[np.float32], row: int) -> int:
    """0-based rank of a gallery row: how many rows are more similar, or as similar and lower.

    Args:
        similarity: float32 (G,), finite.
    """
    value = similarity[row]
    lower, higher = similarity[:row] >= value, similarity[row + 1 :] > value
    return int(np.count_nonzero(lower) + np.count_nonzero(higher))


def best_of(similarity: NDArray[np.float32], rows: NDArray[np.int64]) -> int:
    """The first-ranked of some gallery rows, int64 (n,) ascending, n >= 1."""
    return int(rows[np.argmax(similarity[rows])])


def matching_rows(query_ids: NDArray[np.int64], gallery_ids: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """For every query the gallery rows of its place, ascending.

    Raises:
        DatasetError: a query's place is not in the gallery.
    """
    order = np.argsort(gallery_ids, kind="stable")
    ascending = gallery_ids[order]
    first = np.searchsorted(ascending, query_ids, "left")
    last = np.searchsorted(ascending, query_ids, "right")
    missing = np.unique(query_ids[first == last])
    if len(missing):
        raise DatasetError(
            f"{len(missing)} places of the queries are not in the gallery, the first is {missing[0]:04d}: "
            "recall would be wrong. Complete the gallery."
        )
    return [order[start:stop] for start, stop in zip(first, last, strict=True)]


def report_retrieval(
    queries: NDArray[np.float32],
    query_ids: NDArray[np.int64],
    gallery: NDArray[np.float32],
    gallery_ids: NDArray[np.int64],
    protocol: GalleryProtocol = "full",
    rules: Rules = UNIVERSITY_RULES,
) -> RetrievalReport:
    """Rank the gallery for every query and summarise. Memory: the arguments and two blocks of 16 MiB.

    Args:
        queries: float32 (Q, D), unit length.
        query_ids: int64 (Q,), place of each query.
        gallery: float32 (G, D), unit length.
        gallery_ids: int64 (G,), place of each gallery image.
        protocol: "full" keeps every gallery row; "matched" first drops rows whose place no query has, as the
            Sample4Geo family of code does.
        rules: of the benchmark; their rows are those of the whole gallery.

    Raises:
        DatasetError: a query's place is not in the gallery, arrays differ in length, an embedding or a position is
            not finite, or a semi-positive is no row of the gallery.
    """
    _check(queries, gallery, rules)
    semi_positives, positions = rules.semi_positives, rules.positions
    near = None if positions is None else _rows_within(positions)
    if protocol == "matched":
        keep = np.isin(gallery_ids, query_ids)
        gallery, gallery_ids = gallery[keep], gallery_ids[keep]
        kept_rows = np.where(keep, np.cumsum(keep) - 1, -1)
        semi_positives = None if semi_positives is None else kept_rows[semi_positives]
        near = None if near is None else [kept_rows[rows][keep[rows]] for rows in near]
    matches = matching_rows(query_ids, gallery_ids)
    ranks: list[NDArray[np.int64]] = []
    hits, near_ranks = np.zeros(len(queries), bool), np.full(len(queries), len(gallery))
    for query, similarity in enumerate(similarity_rows(queries, gallery)):
        ranks.append(np.sort([rank_of(similarity, row) for row in matches[query]]))
        if semi_positives is not None:
            best = best_of(similarity, matches[query])
            hits[query] = ranks[-1][0] == _count_before(similarity, best, semi_positives[query])
        if near is not None and len(near[query]):
            near_ranks[query] = rank_of(similarity, best_of(similarity, near[query]))
    first = np.array([row[0] for row in ranks])
    return RetrievalReport(
        recall_at=_recall_at(first, len(gallery)),
        recall_at_1_percent=float(np.mean(first <= one_percent_rank(len(gallery), rules.one_percent))),
        ap=float(np.mean([trapezoid_ap(row) for row in ranks])),
        standard_ap=float(np.mean([standard_ap(row) for row in ranks])),
        protocol=protocol,
        n_queries=len(queries),
        n_gallery=len(gallery),
        hit_rate=None if semi_positives is None else float(np.mean(hits)),
        recall_within=None if positions is None else _recall_at(near_ranks, len(gallery)),
        within_m=None if positions is None else positions.within_m,
    )


def _recall_at(first: NDArray[np.int64], n_gallery: int) -> dict[int, float]:
    return {k: float(np.mean(first < k)) for k in RECALL_AT if k <= n_gallery}


def _count_before(similarity: NDArray[np.float32], best: int, others: NDArray[np.int64]) -> int:
    """How many different rows of `others`, where -1 is none, are ranked before the row `best`."""
    rows = np.unique(others[others >= 0])
    before = (similarity[rows] > similarity[best]) | ((similarity[rows] == similarity[best]) & (rows < best))
    return int(np.count_nonzero(before))


def _rows_within(positions: GroundPositions) -> list[NDArray[np.int64]]:
    """For every query the gallery rows near it, ascending; looked for in a strip of the gallery sorted by east."""
    order = np.argsort(positions.gallery_m[:, 0], kind="stable")
    east = positions.gallery_m[order, 0]
    reach = positions.within_m + _ROUNDING_M
    first = np.searchsorted(east, positions.queries_m[:, 0] - reach, "left")
    last = np.searchsorted(east, positions.queries_m[:, 0] + reach, "right")
    near = []
    for query, start, stop in zip(positions.queries_m, first, last, strict=True):
        strip = order[start:stop]
        offset = positions.gallery_m[strip] - query
        near.append(np.sort(strip[np.hypot(offset[:, 0], offset[:, 1]) <= positions.within_m]))
    return near


def _check(queries: NDArray[np.float32], gallery: NDArray[np.float32], rules: Rules) -> None:
    semi_positives, positions = rules.semi_positives, rules.positions
    if queries.shape[1] != gallery.shape[1]:
        raise DatasetError(f"Queries have {queries.shape[1]} dimensions, the gallery {gallery.shape[1]}.")
    for side, embeddings in (("queries", queries), ("gallery", gallery)):
        broken = np.count_nonzero(~np.isfinite(embeddings).all(axis=1))
        if broken:
            raise DatasetError(
                f"{broken} of {len(embeddings)} embeddings of the {side} hold NaN or infinity, which no rank can be "
                "given: the model diverged or overflows. Use an earlier checkpoint or float32."
            )
    if semi_positives is not None:
        if len(semi_positives) != len(queries):
            raise DatasetError(f"There are semi-positives for {len(semi_positives)} queries of {len(queries)}.")
        outside = semi_positives[(semi_positives < 0) | (semi_positives >= len(gallery))]
        if outside.size:
            raise DatasetError(f"A semi-positive is gallery row {outside[0]}; the gallery has {len(gallery)} rows.")
    if positions is not None:
        for side, n, where in (
            ("queries", len(queries), positions.queries_m),
            ("gallery", len(gallery), positions.gallery_m),
        ):
            if where.shape != (n, 2) or not np.isfinite(where).all():
                raise DatasetError(
                    f"Positions of the {side} have shape {where.shape}; ({n}, 2) is needed, every metre finite."
                )
