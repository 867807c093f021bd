"""How many votes as good as this one chance would give: the number of false alarms (Moisan and Stival, IJCV 2004).

Where a photo does not lie on a map, each of its matches points at some place of it, and every place is as likely. A
vote is then judged without training: by the expected number of hypotheses that chance supports as well.
"""

from __future__ import annotations

import math


def log10_tail(successes: int, trials: int, probability: float) -> float:
    """log10 of P[at least `successes` of `trials`] for a binomial with that probability, in [0, 1]."""
    if successes <= 0:
        return 0.0
    if successes > trials or probability <= 0:
        return -math.inf
    if probability >= 1:
        return 0.0
    terms = [
        math.lgamma(trials + 1)
        - math.lgamma(k + 1)
        - math.lgamma(trials - k + 1)
        + k * math.log(probability)
        + (trials - k) * math.log1p(-probability)
        for k in range(successes, trials + 1)
    ]
    largest = max(terms)
    return min(0.0, (largest + math.log(math.fsum(math.exp(term - largest) for term in terms))) / math.log(10))


def log10_false_alarms(inliers: int, matches: int, used: int, probability: float, hypotheses: float) -> float:
    """log10 of the number of false alarms of a vote.

    Args:
        inliers: matches that agree with the hypothesis, those that it was made of included.
        matches: that voted.
        used: matches that a hypothesis is made of, which agree with it by themselves.
        probability: that one match of chance agrees with a given hypothesis.
        hypotheses: that were tried.
    """
    return math.log10(max(hypotheses, 1.0)) + log10_tail(inliers - used, matches - used, probability)
