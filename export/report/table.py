"""A titled table, and its forms for a terminal and in Markdown. The page draws the same value."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dphr_infer.errors import printable

_MARKDOWN = re.compile(r"([\\`*\[\]|<>&])")


@dataclass(frozen=True, slots=True)
class Table:
    """A titled table. The first cell of a row is its label.

    Attributes:
        columns: titles; none makes a list of facts, rows of a label and its value.
        rows: cells as text, as many as there are columns.
        notes: how to read it, a paragraph each.
        words: titles of columns that hold words, set to the left; figures are set to the right.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError: a row has more or fewer cells than there are columns."""
        width = len(self.columns) or 2
        for row in self.rows:
            if len(row) != width:
                raise ValueError(f"A row of the table {self.title!r} has {len(row)} cells, expected {width}: {row}.")

    @property
    def are_words(self) -> tuple[bool, ...]:
        """Of each column: whether its cells are set to the left."""
        if not self.columns:
            return (True, True)
        return tuple(number == 0 or title in self.words for number, title in enumerate(self.columns))


def _aligned(lines: list[list[str]], are_words: tuple[bool, ...]) -> list[list[str]]:
    """Cells filled up to the width of their column."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        [
            cell.ljust(width) if words else cell.rjust(width)
            for cell, width, words in zip(line, widths, are_words, strict=True)
        ]
        for line in lines
    ]


def to_text(table: Table) -> str:
    """The table for a terminal: title, rows in columns, notes; control characters are escaped."""
    lines = [[printable(cell) for cell in row] for row in ((table.columns,) if table.columns else ()) + table.rows]
    rows = ["  " + "  ".join(cells).rstrip() for cells in _aligned(lines, table.are_words)]
    return "\n".join([printable(table.title), *rows, *map(printable, table.notes)])


def escape_markdown(text: str) -> str:
    """Any text as harmless Markdown on one line."""
    return _MARKDOWN.sub(r"\\\1", printable(text))


def to_markdown(table: Table) -> str:
    """Rows and notes in Markdown, whose columns stand below each other in a terminal too; facts become a list."""
    lines = [[escape_markdown(cell) for cell in row] for row in table.rows]
    if table.columns:
        head = [escape_markdown(title) for title in table.columns]
        widths = [max(3, *map(len, column)) for column in zip(head, *lines, strict=True)]
        rule = ["-" * (w - 1) + ("-" if words else ":") for w, words in zip(widths, table.are_words, strict=True)]
        grid = ["| " + " | ".join(cells) + " |" for cells in _aligned([head, rule, *lines], table.are_words)]
    else:
        grid = [f"- {label}: {value}" for label, value in lines]
    return "\n\n".join(["\n".join(grid), *map(escape_markdown, table.notes)])
