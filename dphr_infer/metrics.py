"""Recall@k and average precision of a ranking, as the official University-1652 scripts define them.

Ranks are 0-based; similarity decides, equal similarities go to the lower gallery row.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dphr_infer.errors import DatasetError
from dphr_infer.types import GalleryProtocol, RetrievalReport

RECALL_AT = (1, 5, 10)
_BLOCK_BYTES = 256 * 1024 * 1024


def trapezoid_ap(ranks: NDArray[np.int64]) -> float:
    """Average precision by the trapezoid rule of the official script; not scikit-learn's.

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


def one_percent_rank(n_gallery: int) -> int:
    """Last 0-based rank that counts for recall@1%: round(0.01 G), one rank generous, as in the official script."""
    return round(0.01 * n_gallery)


def ranks_of_matches(
    similarity: NDArray[np.float32], query_ids: NDArray[np.int64], gallery_ids: NDArray[np.int64]
) -> list[NDArray[np.int64]]:
    """Ascending 0-based ranks of every query's true matches.

    Args:
        similarity: float32 (Q, G).
        query_ids: int64 (Q,), place of each query.
        gallery_ids: int64 (G,), place of each gallery image.
    """
    order = np.argsort(-similarity, axis=1, kind="stable")
    return [np.nonzero(gallery_ids[row] == query)[0] for row, query in zip(order, query_ids, strict=True)]


def report_retrieval(
    queries: NDArray[np.float32],
    query_ids: NDArray[np.int64],
    gallery: NDArray[np.float32],
    gallery_ids: NDArray[np.int64],
    protocol: GalleryProtocol = "full",
) -> RetrievalReport:
    """Rank the gallery for every query and summarise.

    Args:
        queries: float32 (Q, D), unit length.
        query_ids: int64 (Q,).
        gallery: float32 (G, D), unit length.
        gallery_ids: int64 (G,).
        protocol: "full" keeps every gallery row; "matched" first drops rows whose place no query has, as the
            Sample4Geo family of code does.

    Raises:
        DatasetError: a query's place is not in the gallery, or the two sides differ in length.
    """
    if queries.shape[1] != gallery.shape[1]:
        raise DatasetError(f"Queries have {queries.shape[1]} dimensions, the gallery {gallery.shape[1]}.")
    if protocol == "matched":
        keep = np.isin(gallery_ids, query_ids)
        gallery, gallery_ids = gallery[keep], gallery_ids[keep]
    missing = np.setdiff1d(query_ids, gallery_ids)
    if len(missing):
        raise DatasetError(
            f"{len(missing)} places of the queries are not in the gallery, the first is {missing[0]:04d}: "
            "recall would be wrong. Complete the gallery."
        )
    block = max(1, _BLOCK_BYTES // (8 * len(gallery)))
    ranks: list[NDArray[np.int64]] = []
    for start in range(0, len(queries), block):
        similarity = queries[start : start + block] @ gallery.T
        ranks += ranks_of_matches(similarity, query_ids[start : start + block], gallery_ids)
    first = np.array([row[0] for row in ranks])
    return RetrievalReport(
        recall_at={k: float(np.mean(first < k)) for k in RECALL_AT if k <= len(gallery)},
        recall_at_1_percent=float(np.mean(first <= one_percent_rank(len(gallery)))),
        ap=float(np.mean([trapezoid_ap(row) for row in ranks])),
        standard_ap=float(np.mean([standard_ap(row) for row in ranks])),
        protocol=protocol,
        n_queries=len(queries),
        n_gallery=len(gallery),
    )
