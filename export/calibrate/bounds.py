"""Counts -> what may be claimed of the share behind them; and thresholds that keep such a claim."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TypeVar

from dphr_infer.files.calibration import CONFIDENCE

Threshold = TypeVar("Threshold")


def upper_bound(wrong: int, n: int, confidence: float = CONFIDENCE) -> float:
    """Clopper-Pearson's upper bound of a share of which `wrong` of `n` independent units were seen.

    The largest p at which seeing at most `wrong` is no less likely than 1 - confidence; 1 where n is 0.
    """
    from scipy.stats import beta

    return 1.0 if wrong >= n else float(beta.ppf(confidence, wrong + 1, n - wrong))


def needed_n(alpha: float, confidence: float = CONFIDENCE) -> int:
    """Units without an error that it takes to claim `alpha`: the least n with (1 - alpha)^n <= 1 - confidence."""
    return math.ceil(math.log(1 - confidence) / math.log(1 - alpha))


def loosest(
    tried: Iterable[tuple[Threshold, list[tuple[int, int]]]], alpha: float, confidence: float = CONFIDENCE
) -> Threshold | None:
    """Learn then test: the last threshold of a fixed order before the first whose bounds do not all stay at alpha.

    Each is tested only after those before it held, so the chosen one breaks the claim with a probability of at most
    1 - confidence, however many were tried (fixed-sequence testing, as in Angelopoulos, Bates, Candès, Jordan and Lei,
    "Learn then Test", arXiv 2110.01052). The order must not come from the counts.

    Args:
        tried: (threshold, [(wrong, n) of each kind of unit]), the strictest first.

    Returns:
        None where already the first does not hold.
    """
    best: Threshold | None = None
    for threshold, counts in tried:
        if max(upper_bound(wrong, n, confidence) for wrong, n in counts) > alpha:
            break
        best = threshold
    return best
