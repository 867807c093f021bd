"""A report as one HTML file and as Markdown. Knows nothing of what it reports; every text is escaped.

The HTML needs no network and no script: style and pictures are inside. It follows the reader's light or dark setting,
fits a phone, and prints. Jinja2 fills template.html.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from importlib.resources import files

from dphr_infer.errors import MissingPackageError, printable
from export.report.table import Table, escape_markdown, to_markdown

_PNG, _SVG = b"\x89PNG", b"<svg"


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture inside the page.

    Attributes:
        image: a PNG file, or SVG that begins with its element.
        spoken: what it shows, for those who cannot see it; empty takes the title.
        file: its name, if it lies beside the page as a file too; Markdown shows only these.
    """

    title: str
    caption: str
    image: bytes
    spoken: str = ""
    file: str = ""

    @property
    def data_uri(self) -> str:
        """The picture as an address that holds it.

        Raises:
            ValueError: neither PNG nor SVG.
        """
        if not self.image.startswith((_PNG, _SVG)):
            raise ValueError(
                f"The picture {self.title!r} begins with {self.image[:8]!r}, which is neither PNG nor SVG."
            )
        kind = "png" if self.image.startswith(_PNG) else "svg+xml"
        return f"data:image/{kind};base64,{base64.b64encode(self.image).decode('ascii')}"


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page in the order of reading: pictures side by side, tables."""

    pictures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True, slots=True)
class Notice:
    """What a reader must know before any figure; `grave` where the figures below do not hold."""

    text: str
    grave: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """A report: title, a lead sentence, notices, sections."""

    title: str
    lead: str
    sections: tuple[Section, ...]
    notices: tuple[Notice, ...] = ()


def _on_one_line(value: object) -> object:
    """Text as it may be shown; what the template made itself is marked as HTML and stays."""
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def to_html(page: Page) -> str:
    """The page as one HTML file.

    Raises:
        MissingPackageError: Jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise MissingPackageError("jinja2", "export", "Writing a report's page") from error
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_on_one_line,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    template = files("export.report").joinpath("template.html").read_text(encoding="utf-8")
    return environment.from_string(template).render(page=page)


def page_to_markdown(page: Page) -> str:
    """The page as Markdown, with those of its pictures that lie beside it as files."""
    blocks = [f"# {escape_markdown(page.title)}", escape_markdown(page.lead)]
    blocks += [f"**{escape_markdown(notice.text)}**" for notice in page.notices]
    for section in page.sections:
        for picture in section.pictures:
            if picture.file:
                title = escape_markdown(picture.title)
                blocks += [f"## {title}", f"![{title}]({picture.file})", escape_markdown(picture.caption)]
        for table in section.tables:
            blocks += [f"## {escape_markdown(table.title)}", to_markdown(table)]
    return "\n\n".join(block for block in blocks if block) + "\n"
