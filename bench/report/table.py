"""A titled table of a report, and how its cells are written."""

from __future__ import annotations

from dataclasses import dataclass

LATENCY_HEAD = ("n", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms")
# Columns of these titles hold words; all others but the first hold figures.
WORDS = ("found",)


@dataclass(frozen=True, slots=True)
class Table:
    """A titled table; cells are text, the first column is its label. `note` says how to read it."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str


def gigabytes(value: float) -> str:
    """Bytes in words."""
    return f"{value / 1e9:.1f} GB"
