"""What a page of HTML is made of, read by a parser that knows nothing of how it was written."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser

import pytest

KNOWN_TAGS = "html head meta title style body h1 h2 p div figure figcaption b img table tr th td span"


class Tags(HTMLParser):
    """Names and attributes of all elements of a page, and the addresses of its pictures; every element is closed."""

    known = frozenset(re.findall(r"\w+", KNOWN_TAGS))

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.sources: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes.update(name for name, _ in attrs)
        self.sources += [str(value) for name, value in attrs if name == "src"]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="session")
def read_tags() -> Callable[[str], Tags]:
    return Tags
