from __future__ import annotations

import pytest

from bench.request import parse_count, parse_share


@pytest.mark.parametrize(("text", "share"), [("5%", 0.05), ("0.05", 0.05), (" 12.5 %", 0.125), ("0", 0.0)])
def test_a_share_is_written_with_or_without_percent(text: str, share: float) -> None:
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "five", "-1%", "nan", "2000%", "inf"])
def test_a_share_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no share"):
        parse_share(text)


@pytest.mark.parametrize(("text", "count"), [("1", 1), ("1e6", 1_000_000), ("20000", 20_000)])
def test_a_count_is_written_in_full_or_by_its_exponent(text: str, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["0", "-3", "1.5", "inf"])
def test_a_count_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no whole number"):
        parse_count(text)
