"""Runs topk.cu on this processor as its plan says, and says what every kernel has to find."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dphr_infer.cuda.topk import operands
from dphr_infer.cuda.topk import plan as topk
from dphr_infer.matchers.quantise import QuantisedRows, bound_slack, split_queries

ORIN_SHARED_BYTES = 166_912
SOURCE = Path(topk.__file__).with_name("topk.cu")
POISON = 0xA5
# An operand whose elements are two numbers: the kernel's type is int2 or float2.
_PAIRS = ("ranges", "row_bounds")


def pad_queries(queries: NDArray[np.float32]) -> NDArray[np.float32]:
    """Layout "float32": float32 (Q, D padded as fp16 rows are)."""
    padding = -queries.shape[1] % (operands.VECTOR_BYTES // 2)
    return np.ascontiguousarray(np.pad(queries, ((0, 0), (0, padding))))


@dataclass(frozen=True)
class Found:
    """What a launch wrote, and what it read of the gallery."""

    rows: NDArray[np.int32]
    similarity: NDArray[np.float32]
    proven: NDArray[np.int32] | None
    gallery_bytes: int
    plan: topk.TopkPlan


@dataclass
class TopkOnCpu:
    """One device with one workspace for all its launches, as the launcher keeps it."""

    device: Any
    sm_count: int = 2
    shared_limit: int = ORIN_SHARED_BYTES
    floors: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(1024, np.uint64))
    survivor_counts: NDArray[np.int32] = field(default_factory=lambda: np.zeros(1024, np.int32))
    blocks_done: NDArray[np.int32] = field(default_factory=lambda: np.zeros(1024, np.int32))

    def plan(self, n_rows: int, dim: int, n_queries: int, k: int, dtype: operands.ScanDtype) -> topk.TopkPlan:
        """Of a scan."""
        return topk.plan_topk(n_rows, dim, n_queries, k, dtype, self.sm_count, self.shared_limit)

    def scan(
        self,
        gallery: NDArray[np.float16] | QuantisedRows,
        queries: NDArray[np.float32],
        k: int,
        ranges: Sequence[tuple[int, int]] | None = None,
        **schedule: Any,
    ) -> Found:
        """`plan_topk`'s launch over these rows."""
        dtype: operands.ScanDtype = "int8" if isinstance(gallery, QuantisedRows) else "fp16"
        rows = gallery.codes if isinstance(gallery, QuantisedRows) else gallery
        pairs, prefix = operands.prepare_ranges([(0, len(rows))] if ranges is None else ranges)
        plan = self.plan(int(prefix[-1]), rows.shape[1], len(queries), k, dtype)
        values = {"ranges": pairs, "range_prefix": prefix, "n_ranges": len(pairs), "row_bounds": None}
        if isinstance(gallery, QuantisedRows):
            split = split_queries(queries)
            slack = bound_slack(gallery.longest, float(gallery.error.max()), split)
            values |= {
                "row_bounds": np.stack([gallery.scale, gallery.error], axis=1),
                "queries": operands.pair_levels(split.first, split.second),
                "query_bounds": np.stack([split.first_scale, split.second_scale, split.length, slack], axis=1),
            }
        else:
            values |= {"queries": pad_queries(queries), "query_bounds": None}
        return self._launch(plan, topk.SCAN_ARGUMENTS, rows, queries, k, values, schedule)

    def rerank(
        self, gallery: NDArray[np.float16], queries: NDArray[np.float32], k: int, kept: Found, **schedule: Any
    ) -> Found:
        """`plan_rerank`'s launch over what an int8 scan kept."""
        plan = topk.plan_rerank(kept.rows.shape[1], gallery.shape[1], len(queries), k, self.sm_count, self.shared_limit)
        values = {
            "queries": pad_queries(queries),
            "candidates": kept.rows,
            "candidate_bounds": kept.similarity,
            "n_candidates": kept.rows.shape[1],
            "proven": np.full(len(queries), -1, np.int32),
        }
        return self._launch(plan, topk.RERANK_ARGUMENTS, gallery, queries, k, values, schedule)

    def _launch(
        self,
        plan: topk.TopkPlan,
        order: Sequence[str],
        rows: NDArray[Any],
        queries: NDArray[np.float32],
        k: int,
        values: dict[str, Any],
        schedule: dict[str, Any],
    ) -> Found:
        space = topk.workspace(len(queries), k, self.sm_count, self.shared_limit)
        assert plan.survivor_bytes <= space.survivors
        assert plan.shared_bytes <= self.shared_limit
        padded = operands.pad_rows(rows)
        values = values | {
            "gallery": padded,
            "n_vectors": padded.nbytes // len(padded) // 16,
            "n_queries": len(queries),
            "k": k,
            "floors": self.floors,
            "survivors": np.full(plan.survivor_bytes // 8, 0xFFFF_FFFF_FFFF_FFFF, np.uint64),
            "survivor_counts": self.survivor_counts,
            "blocks_done": self.blocks_done,
            "rows": np.full((len(queries), k), -7, np.int32),
            "similarity": np.full((len(queries), k), np.nan, np.float32),
        }
        for name in _PAIRS:
            if values.get(name) is not None:
                values[name] = values[name].view(np.uint64)
        report = self.device.launch(
            plan.kernel,
            plan.grid,
            plan.block,
            *topk.arguments(order, values),
            shared_bytes=plan.shared_bytes,
            **schedule,
        )
        gallery_bytes = report.bytes_read[order.index("gallery")]
        return Found(values["rows"], values["similarity"], values.get("proven"), gallery_bytes, plan)

    def workspace_is_clean(self) -> bool:
        """Whether the next launch finds the zeros that it needs."""
        return not (self.floors.any() or self.survivor_counts.any() or self.blocks_done.any())


def best_rows(similarity: NDArray[np.float32], k: int, ranges: Sequence[tuple[int, int]] | None = None) -> Found:
    """The plain reference: (Q, N) similarities, a stable sort of the allowed rows."""
    allowed = np.concatenate([np.arange(start, stop) for start, stop in ranges or [(0, similarity.shape[1])]])
    order = np.argsort(-similarity[:, allowed], axis=1, kind="stable")[:, :k]
    rows = allowed[order].astype(np.int32)
    return Found(rows, np.take_along_axis(similarity, rows.astype(np.int64), axis=1), None, 0, None)


def exact_units(rng: np.random.Generator, n: int, dim: int) -> NDArray[np.float32]:
    """float32 (n, dim >= 4), unit vectors of four halves: inner products are multiples of a quarter in any order."""
    units = np.zeros((n, dim), np.float32)
    for row in units:
        row[rng.choice(dim, 4, replace=False)] = rng.choice([-0.5, 0.5], 4)
    return units


def random_units(rng: np.random.Generator, n: int, dim: int) -> NDArray[np.float32]:
    """float32 (n, dim), directions at random."""
    units = rng.standard_normal((n, dim)).astype(np.float32)
    return units / np.linalg.norm(units, axis=1, keepdims=True)
