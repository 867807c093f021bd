"""What a launch of topk.cu leaves in its block of outputs: rows, similarity, proofs, each at a multiple of 16 bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ALIGNMENT = 16


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A launch's outputs: rows int32 (Q, k), similarity float32 (Q, k); proven int32 (Q,), 1 or 0, of a re-rank."""

    rows: NDArray[np.int32]
    similarity: NDArray[np.float32]
    proven: NDArray[np.int32]


def similarity_offset(n_kept: int) -> int:
    """Bytes from the rows of so many matches to their similarities, and from these to the proofs."""
    return -(-4 * n_kept // _ALIGNMENT) * _ALIGNMENT


def view_outputs(outputs: NDArray[np.uint8], n_queries: int, k: int) -> Found:
    """What lies in a block of outputs; a view."""
    similarity_at = similarity_offset(n_queries * k)
    rows, similarity = (outputs[at : at + 4 * n_queries * k] for at in (0, similarity_at))
    return Found(
        rows.view(np.int32).reshape(n_queries, k),
        similarity.view(np.float32).reshape(n_queries, k),
        outputs[2 * similarity_at : 2 * similarity_at + 4 * n_queries].view(np.int32),
    )
