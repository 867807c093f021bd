"""What every matcher offers. A matcher knows nothing of geography: rows in, rows out."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dphr_infer.types import Matches


class Matcher(Protocol):
    """Finds the most similar gallery rows. Opened on one gallery; a context manager like an engine."""

    name: str

    def __enter__(self) -> Matcher: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def match(
        self, queries: NDArray[np.float32], k: int, row_ranges: Sequence[tuple[int, int]] | None = None
    ) -> Matches:
        """Find the k most similar gallery rows for each query.

        Rows are L2-normalised, so the dot product is the cosine similarity. Equal similarities go to the lower row.

        Args:
            queries: float32 (Q, D), C-contiguous, unit length.
            k: neighbours a query, 1 <= k <= number of allowed rows.
            row_ranges: half-open [start, stop) ranges, sorted and disjoint, that may be matched; None allows all rows.

        Raises:
            GalleryError: D differs, a query is not finite or not unit length, k or a range is out of bounds.
        """
        ...
