"""The arrays that the kernels of `topk.cu` read, made of rows, queries and ranges; and what a launch leaves behind.

A launch's block of outputs holds rows, similarity and proofs, each at a multiple of 16 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

ScanDtype = Literal["fp16", "int8"]

VECTOR_BYTES = 16


def vectors_a_row(dim: int, dtype: ScanDtype) -> int:
    """16-byte vectors of one padded row."""
    return -(-dim * (2 if dtype == "fp16" else 1) // VECTOR_BYTES)


def pad_rows(rows: NDArray[Any]) -> NDArray[Any]:
    """(N, D) -> C-contiguous (N, D padded): zeros behind each row up to a multiple of 16 bytes; no copy where none."""
    values = VECTOR_BYTES // rows.dtype.itemsize
    padding = -rows.shape[1] % values
    if padding == 0:
        return np.ascontiguousarray(rows)
    return np.pad(rows, ((0, 0), (0, padding)))


def pair_levels(first: NDArray[np.int8], second: NDArray[np.int8]) -> NDArray[np.int8]:
    """Layout "int8 pair": int8 (Q, 2, D padded) of two levels (Q, D), see matchers/quantise.py."""
    return np.ascontiguousarray(np.stack([pad_rows(first), pad_rows(second)], axis=1))


def prepare_ranges(row_ranges: Sequence[tuple[int, int]]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Sorted, disjoint, non-empty ranges -> int32 (R, 2) and their prefix sums, int32 (R + 1,), 0 first."""
    ranges = np.asarray(row_ranges, np.int32).reshape(-1, 2)
    prefix = np.zeros(len(ranges) + 1, np.int32)
    np.cumsum(ranges[:, 1] - ranges[:, 0], out=prefix[1:])
    return ranges, prefix


def range_table_bytes(n_ranges: int) -> dict[str, int]:
    """Sizes of what `prepare_ranges` makes, by the name of the kernel's argument."""
    return {"ranges": n_ranges * 8, "range_prefix": (n_ranges + 1) * 4}


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A launch's outputs: rows int32 (Q, k), similarity float32 (Q, k); proven int32 (Q,), 1 or 0, of a re-rank."""

    rows: NDArray[np.int32]
    similarity: NDArray[np.float32]
    proven: NDArray[np.int32]


def similarity_offset(n_kept: int) -> int:
    """Bytes from the rows of so many matches to their similarities, and from these to the proofs."""
    return -(-4 * n_kept // VECTOR_BYTES) * VECTOR_BYTES


def view_outputs(outputs: NDArray[np.uint8], n_queries: int, k: int) -> Found:
    """What lies in a block of outputs; a view."""
    similarity_at = similarity_offset(n_queries * k)
    rows, similarity = (outputs[at : at + 4 * n_queries * k] for at in (0, similarity_at))
    return Found(
        rows.view(np.int32).reshape(n_queries, k),
        similarity.view(np.float32).reshape(n_queries, k),
        outputs[2 * similarity_at : 2 * similarity_at + 4 * n_queries].view(np.int32),
    )
