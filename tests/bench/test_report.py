from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser

from bench.page import to_html
from bench.record import BenchRecord
from bench.report import to_text


def test_the_text_names_machine_sizes_counts_and_the_difference(record: BenchRecord) -> None:
    text = to_text(record)
    for part in ("Test CPU <2>", "15W", "20.0 GB/s, measured", "tiny fp32, input 48x32 px", "200 rows, float16"):
        assert part in text
    assert re.search(r"end to end +70 +10\.0 +12\.0 +n<662 +20\.0", text)
    assert "+1.000 ms (+10.0%)" in text


def test_a_share_of_bandwidth_is_starred_where_the_gallery_fits_in_the_cache(record: BenchRecord) -> None:
    text = to_text(record)
    assert re.search(r" 90%\n", text)
    assert re.search(r" 0\.4%\*\n", text)
    assert "* The gallery fits in the last-level cache" in text


def test_a_busy_machine_is_stated(record: BenchRecord) -> None:
    assert "other programs" not in to_text(record)
    busy = dataclasses.replace(record, machine=dataclasses.replace(record.machine, load=1.5))
    assert "other programs ran too" in to_text(busy)


def test_the_json_states_its_schema_and_keeps_every_sample(record: BenchRecord) -> None:
    content = json.loads(json.dumps(record.to_json()))
    assert (content["schema"], content["schema_version"]) == ("dphr-bench", 1)
    assert content["samples_ms"]["end to end"] == [9.0, 10.0, 11.0, 50.0]
    assert content["end_to_end"] == {"n": 70, "p50_ms": 10.0, "p90_ms": 12.0, "p99_ms": None, "max_ms": 20.0}


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.pictures = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.pictures += tag == "svg"
        self.found += [tag] * (tag in ("script", "link", "img", "iframe"))
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]


def test_the_page_has_four_pictures_and_loads_nothing(record: BenchRecord) -> None:
    page = to_html(record)
    links = _Links()
    links.feed(page)
    assert links.pictures == 4
    assert [link for link in links.found if not link.startswith("#")] == []
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_the_page_escapes_what_the_machine_and_the_user_named(record: BenchRecord) -> None:
    page = to_html(record)
    assert "Test CPU &lt;2&gt;" in page
    assert "photos &amp; more" in page


def test_the_same_record_gives_the_same_page(record: BenchRecord) -> None:
    assert to_html(record) == to_html(record)
