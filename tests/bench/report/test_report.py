from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

import pytest

from bench.record import BenchRecord
from bench.report.page import headline, to_html, to_markdown, to_text


def test_the_text_names_machine_sizes_counts_and_the_difference(record: BenchRecord) -> None:
    text = to_text(record)
    for part in (
        "Test CPU <2>",
        "15W",
        "20.0 GB/s, float32 products 100.0 GFLOP/s; measured",
        "tiny fp32, input 48x32",
    ):
        assert part in text
    assert re.search(r"end to end +70 +10\.0 +12\.0 +n<662 +n<6636 +20\.0", text)
    assert "+1.000 ms (+10.0%)" in text
    assert "8 of 40 frames missed (20.0%), 24.0 answers/s, jitter p50 1.50, max 6.00 ms" in text
    assert "drift of the p50 +25.0%" in text
    assert "700 ns per sample" in text


def test_the_gpus_own_times_stand_below_the_stages(record: BenchRecord) -> None:
    assert "On the GPU" not in to_text(record)
    single, *others = record.scenarios
    extra = {**single.extra, "gpu_stage_p50_ms": {"preprocess": 0.125, "embed": 1.5}}
    timed = dataclasses.replace(record, scenarios=(dataclasses.replace(single, extra=extra), *others))
    assert "On the GPU, by its events: preprocess 0.125, embed 1.50 ms at the median" in to_text(timed)


def test_a_share_of_a_limit_is_starred_where_it_does_not_bind(record: BenchRecord) -> None:
    text = to_text(record)
    assert re.search(r" 90%  +512\n", text)
    assert re.search(r" 0\.4%\*  +512\n", text)
    assert "* What is read fits in the last-level cache" in text


def test_an_embedding_is_a_share_of_its_limit_and_says_which(record: BenchRecord) -> None:
    assert re.search(r"1 fp32 +3\.00 +333\.3 +70 +2\.00 +1\.50 +50% arithmetic +10\.0", to_text(record))


def test_a_peer_that_failed_keeps_its_row_with_the_reason(record: BenchRecord) -> None:
    text = to_text(record)
    assert re.search(r"faiss flat 1\.8 +70 +3\.00 +1\.40 \(1\.20\.\.1\.60\) +1\.0000", text)
    assert re.search(r"usearch exact 2 +it crashed", text)


@pytest.fixture
def invalid(record: BenchRecord) -> BenchRecord:
    return dataclasses.replace(record, valid=False, invalid_reasons=("recall <10% of 60",), interrupted=True)


@pytest.fixture(scope="module")
def page(record: BenchRecord) -> str:
    return to_html(record)


def test_an_invalid_run_is_marked_everywhere(record: BenchRecord, invalid: BenchRecord, page: str) -> None:
    text = to_text(invalid)
    assert text.startswith("INVALID: recall <10% of 60.")
    assert "INVALID: recall <10% of 60." in text.splitlines()[-2]
    assert "INTERRUPTED" in text
    assert r"**INVALID: recall \<10% of 60.**" in to_markdown(invalid)
    bad_page = to_html(dataclasses.replace(invalid, scenarios=(), matching=(), timeline=()))
    assert "<title>INVALID: a batch of 1 embedded" in bad_page
    assert '<p class="notice grave">INVALID: recall &lt;10% of 60.</p>' in bad_page
    assert "INVALID" not in to_text(record) + to_markdown(record) + page
    assert invalid.to_json()["valid"] is False


def test_markdown_has_a_row_a_line_and_escapes_what_would_break_it(record: BenchRecord) -> None:
    odd = dataclasses.replace(record, left_out={"a|b": "<c>"})
    lines = to_markdown(odd).splitlines()
    assert lines[0] == "# A photo located in 10.0 ms (median of 70)"
    assert r"- a\|b: \<c\>" in lines
    (row,) = (line for line in lines if line.startswith("| decode"))
    assert [cell.strip() for cell in row.split("|")[1:5]] == ["decode", "70", "3.00", "4.00"]


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.pictures: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.pictures += [value or "" for name, value in attrs if tag == "img" and name == "alt"]
        self.found += [tag] * (tag in ("script", "link", "iframe"))
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]


def test_the_page_has_its_pictures_and_loads_nothing(page: str) -> None:
    links = _Links()
    links.feed(page)
    assert links.pictures == [
        "Latency distribution, single-stream",
        "Stages",
        "Latency distribution, camera",
        "Latency distribution, endurance",
        "Throughput",
        "Matching against its limit",
        "Latency over time",
        "Matching by gallery size",
        "Roofline",
        "Temperatures",
        "Clocks",
        "Power",
    ]
    assert [link for link in links.found if not link.startswith("data:image/svg+xml;base64,")] == []
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_the_page_escapes_what_the_machine_and_the_user_named(page: str) -> None:
    assert "<span>&lt;2&gt;;</span>" in page
    assert "<span>&amp;</span>" in page and "<span>photos</span>" in page


def test_the_same_record_gives_the_same_page(record: BenchRecord, page: str) -> None:
    assert to_html(record) == page


def test_a_record_with_nothing_but_batches_still_makes_a_page(record: BenchRecord) -> None:
    bare = dataclasses.replace(
        record, scenarios=(), matching=(), peers=(), accuracy=None, power=None, timeline=(), startup_ms=None
    )
    assert "A batch of 1 embedded in 3.00" in to_markdown(bare)
    assert "A batch of 1 embedded" in to_html(bare)


def test_the_headline_of_a_sweep_is_its_largest_search(record: BenchRecord) -> None:
    searches = dataclasses.replace(record, scenarios=(), batches=())
    assert headline(searches) == "1 query matched with 100,000 x 8 rows in 2.00 ms (median of 700)"
    assert headline(dataclasses.replace(searches, matching=())) == "nothing was measured"
