import re

import numpy as np
import pytest

from dphr_infer.matchers.scan import choose_scan

HALF, FULL = np.dtype(np.float16), np.dtype(np.float32)
GIB = 1 << 30


@pytest.mark.parametrize(
    ("n_rows", "dtype", "memory_bytes", "scan", "why"),
    [
        (1 << 19, HALF, 8 * GIB, "rows", "takes 1,073,741,824 bytes as float32, at most 1,073,741,824: widened once"),
        ((1 << 19) + 1, HALF, 8 * GIB, "int8", "1,073,743,872 bytes as float32, more than 1,073,741,824.*272,630,280"),
        ((1 << 19) + 1, FULL, 8 * GIB, "rows", "rows are float32"),
        (1 << 19, HALF, GIB, "int8", "more than 536,870,912: scanned by its 272,629,760 bytes"),
        (1 << 21, HALF, GIB, "rows", "codes take 1,090,519,040 bytes, more than 536,870,912, 50% of the available"),
        (1 << 19, HALF, None, "rows", "widened once"),
        (1 << 24, HALF, None, "int8", "more than 1,073,741,824"),
    ],
)
def test_the_scan_is_chosen_by_size_and_memory(
    n_rows: int, dtype: np.dtype, memory_bytes: int | None, scan: str, why: str
) -> None:
    choice = choose_scan(n_rows, 512, dtype, memory_bytes)
    assert choice.scan == scan
    assert re.search(why, choice.why), choice.why
