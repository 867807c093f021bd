"""Tables and pages of any report: what any text becomes, and that HTML, Markdown and terminal say the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.report.page import Notice, Page, Picture, Section, page_to_markdown, to_html
from export.report.table import Table, to_markdown, to_text

FIGURES = Table(
    "Times", ("", "p50 ms", "found"), (("cold", "12.50", "a | b"), ("warm", "3.00", "")), ("Note.",), ("found",)
)
FACTS = Table("Machine", (), (("cpu", "Abacus <3000>"), ("power", "none")))


def test_a_table_stands_in_columns_in_a_terminal_and_in_markdown() -> None:
    assert to_text(FIGURES).splitlines() == [
        "Times",
        "        p50 ms  found",
        "  cold   12.50  a | b",
        "  warm    3.00",
        "Note.",
    ]
    assert to_markdown(FIGURES).splitlines() == [
        "|      | p50 ms | found  |",
        "| ---- | -----: | ------ |",
        "| cold |  12.50 | a \\| b |",
        "| warm |   3.00 |        |",
        "",
        "Note.",
    ]


def test_facts_are_a_list_in_markdown_and_have_no_head() -> None:
    assert to_text(FACTS).splitlines() == ["Machine", "  cpu    Abacus <3000>", "  power  none"]
    assert to_markdown(FACTS) == "- cpu: Abacus \\<3000\\>\n- power: none"


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="Times' has 2 cells, expected 3"):
        Table("Times", ("", "a", "b"), (("x", "1"),))


def test_the_page_shows_all_its_parts_in_order(read_tags: Callable[[str], Any]) -> None:
    picture = Picture("Bars", "Longer is more.", b"<svg></svg>", "Bars: a: 1", "bars.svg")
    inside = Picture("Dots", "", b"\x89PNG")
    page = Page(
        "Report",
        "Of a run.",
        (Section((picture, inside), (FIGURES,)), Section(tables=(FACTS,))),
        (Notice("INVALID: hot.", grave=True), Notice("NOTE: warm.")),
    )
    html = to_html(page)
    tags = read_tags(html)
    assert tags.names == tags.known
    assert tags.sources == ["data:image/svg+xml;base64,PHN2Zz48L3N2Zz4=", "data:image/png;base64,iVBORw=="]
    marks = [
        "<h1>Report</h1>",
        '<p class="lead">Of a run.',
        '<p class="notice grave">INVALID: hot.',
        '<p class="notice">NOTE: warm.',
        'alt="Bars: a: 1"',
        'alt="Dots"',
        "<h2>Times</h2>",
        '<th class="words">',
        "<td><span>12.50</span></td>",
        '<p class="note">Note.',
        "<h2>Machine</h2>",
        '<table class="facts">',
        "<span>&lt;3000&gt;</span>",
    ]
    places = [html.find(mark) for mark in marks]
    assert -1 not in places and places == sorted(places)
    markdown = page_to_markdown(page)
    words = [
        "# Report",
        "**INVALID: hot.**",
        "## Bars",
        "![Bars](bars.svg)",
        "## Times",
        "## Machine",
    ]
    assert [markdown.count(f"\n{each}\n") for each in words[1:]] == [1] * 5
    assert markdown.startswith("# Report\n\nOf a run.\n\n**INVALID") and "Dots" not in markdown


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="neither PNG nor SVG"):
        to_html(Page("", "", (Section(pictures=(Picture("p", "", b"GIF89a"),)),)))


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_text_makes_one_row_of_as_many_cells(read_tags: Callable[[str], Any], left: str, right: str) -> None:
    lines = to_markdown(Table("", ("a", "b"), ((left, right),))).splitlines()
    assert len(lines) == 3
    assert lines[2].replace("\\\\", "").replace("\\|", "").count("|") == 3
    table = Table(left, (), ((left, right),), (right,))
    assert len(to_text(table).split("\n")) == 3
    page = Page(left, right, (Section((Picture(left, right, b"\x89PNG"),), (table,)),))
    tags = read_tags(to_html(page))
    assert tags.names <= tags.known and tags.attributes <= {"lang", "charset", "name", "content", "class", "src", "alt"}
