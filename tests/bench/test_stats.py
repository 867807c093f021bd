from __future__ import annotations

import numpy as np
import pytest

from bench.stats import format_ms, format_percentile, format_summary, percentile, summarise


def test_percentiles_are_nearest_rank() -> None:
    samples = np.arange(10, 0, -1).astype(float)
    assert [percentile(samples, p) for p in (10, 50, 90, 99, 100)] == [1, 5, 9, 10, 10]


@pytest.mark.parametrize(
    ("n", "has_p90", "has_p99"), [(63, False, False), (64, True, False), (661, True, False), (662, True, True)]
)
def test_a_percentile_needs_mlperfs_number_of_samples(n: int, has_p90: bool, has_p99: bool) -> None:
    summary = summarise(np.linspace(1, 2, n))
    assert (summary.p90_ms is not None, summary.p99_ms is not None) == (has_p90, has_p99)


def test_a_missing_percentile_prints_how_many_samples_it_needs() -> None:
    assert format_summary(summarise(np.array([1.0, 2.0, 3.0]))) == ["3", "2.00", "n<64", "n<662", "3.00"]
    assert format_percentile(1.5, 64) == "1.50"


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0.00"), (0.01234, "0.0123"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1234")]
)
def test_durations_have_three_significant_digits(value: float, text: str) -> None:
    assert format_ms(value) == text
