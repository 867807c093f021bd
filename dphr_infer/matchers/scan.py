"""Which scan of a gallery a CPU takes: its rows, or int8 codes that prove the same answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dphr_infer.matchers.exact import WIDEN_BYTES

Scan = Literal["rows", "int8"]

# Of the memory that is available, a copy of the gallery may take this much: the rest is the model's and others'.
MEMORY_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class ScanChoice:
    """A scan, and why.

    Attributes:
        scan: "rows" or "int8".
        why: one sentence, for a log.
    """

    scan: Scan
    why: str


def choose_scan(n_rows: int, dim: int, dtype: np.dtype[Any], memory_bytes: int | None) -> ScanChoice:
    """The scan of a CPU that answers soonest and fits in memory; both give the same rows.

    Float32 rows are read as they are. Float16 rows are widened once where the copy fits; otherwise every search widens
    them, five times as slow for one query, and codes of one byte a value are scanned instead, where these fit.

    Args:
        n_rows, dim, dtype: of the gallery, float16 or float32.
        memory_bytes: available, see `measure.memory.available_bytes`; None where nothing tells.
    """
    if dtype == np.float32:
        return ScanChoice("rows", "The gallery's rows are float32, which are read as they are.")
    wide, codes = 4 * n_rows * dim, n_rows * (dim + 8)  # 8: each row's scale and error
    share = float("inf") if memory_bytes is None else MEMORY_SHARE * memory_bytes
    most = min(WIDEN_BYTES, share)
    if wide <= most:
        return ScanChoice("rows", f"The gallery takes {wide:,} bytes as float32, at most {most:,.0f}: widened once.")
    if codes <= share:
        return ScanChoice(
            "int8",
            f"The gallery takes {wide:,} bytes as float32, more than {most:,.0f}: scanned by its {codes:,} bytes of "
            "int8 codes.",
        )
    return ScanChoice(
        "rows",
        f"The gallery's int8 codes take {codes:,} bytes, more than {share:,.0f}, {MEMORY_SHARE:.0%} of the available "
        "memory: each search widens its rows.",
    )
