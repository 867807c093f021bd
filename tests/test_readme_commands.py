"""The commands and the Python of README.md, docs/ and the packages' READMEs: each parses; the quickstart runs."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, util
from pathlib import Path
from typing import Any

import pytest
import tyro

ROOT = Path(__file__).resolve().parent.parent
PACKAGE_PAGES = ("bench/README.md", "dphr_infer/INSTALL.md", "dphr_infer/README.md", "dphr_train/README.md")
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / name for name in (*PACKAGE_PAGES, "export/README.md", "samples/README.md")),
]
PROGRAMS = {
    "dphr-infer": "dphr_infer.cli.main",
    "dphr-train": "dphr_train.cli",
    "dphr-export": "export.cli",
    "dphr-bench": "bench.cli",
}
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Command:
    """One command of a page."""

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.words)}"


def blocks(text: str, *languages: str) -> list[str]:
    """The fenced blocks of a page in one of these languages."""
    return [body for language, body in _BLOCK.findall(text) if language in languages]


def lines_of(block: str) -> list[str]:
    """The command lines of a block: continued lines joined; in a console, what follows "$ " alone."""
    joined = re.sub(r"\\\n\s*", "", block).splitlines()
    if any(line.startswith("$ ") for line in joined):
        return [line[2:] for line in joined if line.startswith("$ ")]
    return [line for line in joined if line.strip()]


def commands_of(page: str, text: str) -> list[Command]:
    """Every command of a page, other programs' too; NAME="..." of the same block is put in for $NAME."""
    found = []
    for block in blocks(text, "sh", "console"):
        known: dict[str, str] = {}
        for line in lines_of(block):
            line = re.sub(r"\$\{?(\w+)\}?", lambda name: known.get(name[1], name[0]), line)  # noqa: B023
            words = shlex.split(line, comments=True)
            while words and (assigned := re.fullmatch(r"(\w+)=(.*)", words[0], re.DOTALL)):
                known[assigned[1]] = assigned[2]
                words = words[1:]
            if words:
                found.append(Command(page, (words[0].removeprefix(".venv/bin/"), *words[1:])))
    return found


class Parsed(BaseException):
    """Raised in place of what a program would do, once it has read its arguments."""


def parse(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a program read these arguments and stop there.

    Raises:
        Parsed: it took them.
        SystemExit: it refused them, or answered --help.
    """

    def stopping(read: Callable[..., Any]) -> Callable[..., Any]:
        def read_and_stop(*given: Any, **options: Any) -> Any:
            read(*given, **options)
            raise Parsed

        return read_and_stop

    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", list(words))
        patch.setattr(tyro, "cli", stopping(tyro.cli))
        code = import_module(PROGRAMS[words[0]]).main()
    raise SystemExit(code)


def refusal(command: Command, monkeypatch: pytest.MonkeyPatch) -> str:
    """Why a command of ours or of make is wrong; empty where it is right, or another program's."""
    program, *rest = command.words
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        return "" if rest[0] in targets else f"{command}: the Makefile has no such target"
    if program not in PROGRAMS:
        return ""
    try:
        parse(command.words, monkeypatch)
    except Parsed:
        return ""
    except SystemExit as end:
        return "" if end.code in (0, None) and "--help" in rest else f"{command}: refused with {end.code}"
    return f"{command}: was not read"


COMMANDS = [
    command for path in PAGES for command in commands_of(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize("page", [str(path.relative_to(ROOT)) for path in PAGES])
def test_every_command_of_a_page_is_taken_by_its_program(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = [refusal(command, monkeypatch) for command in COMMANDS if command.page == page]
    assert not any(wrong), "\n".join(filter(None, wrong))


def test_the_pages_have_commands_of_every_program() -> None:
    assert {command.words[0] for command in COMMANDS} >= {*PROGRAMS, "make"}


def test_a_planted_wrong_command_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    text = """
```console
$ .venv/bin/dphr-infer index B map.tif \\
      --tile-m 26 --stride-m 2 --out g   # right
photo  latitude
$ dphr-infer locate B g photos --headin north
```
```sh
dphr-export RUN --data D --out B
dphr-infer index B map.tif --out g --stride-m 2
dphr-train fit --out runs/x --optim.stepz 3
dphr-bench sweep match --row 1e4
make lunch
gdalwarp a b
```
```python
dphr-infer nonsense
```
"""
    found = commands_of("planted.md", text)
    assert [len(command.words) for command in found] == [10, 7, 6, 8, 6, 5, 2, 3]
    assert found[0].words[:3] == ("dphr-infer", "index", "B")
    wrong = [refusal(command, monkeypatch) for command in found]
    assert [bool(each) for each in wrong] == [False, True, True, True, True, True, True, False]
    assert wrong[1] == "planted.md: dphr-infer locate B g photos --headin north: refused with 2"


def small(words: tuple[str, ...], folder: Path) -> list[str]:
    """A command of the quickstart with a coarse grid, and its outputs in `folder`."""
    coarse = [("10" if before == "--stride-m" else word) for before, word in zip(("", *words), words, strict=False)]
    return [str(folder / word.removeprefix("runs/")) if word.startswith("runs/") else word for word in coarse]


def test_the_console_of_the_readme_runs_and_prints_what_stands_there(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (console,) = blocks(readme, "console")
    printed = ""
    for command in commands_of("README.md", f"```console\n{console}```"):
        module, *arguments = PROGRAMS[command.words[0]], *small(command.words[1:], tmp_path)
        done = subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        printed += done.stdout
    # On a coarse grid places differ by up to its stride and similarities too; all else has to be as it stands.
    claimed = re.sub(r"\\\n\s*", "", console).splitlines()
    for line in (each for each in claimed if not each.startswith(("$ ", "…"))):
        pattern = re.sub(r"\\?-?\d+\\?\.?\d*(?=\\? |$|%|\\ m)", r"-?[\\d.]+", re.escape(line))
        pattern = re.sub(r"(\\ )+", r" +", pattern)
        assert re.search(f"^{pattern}$", printed, re.MULTILINE), f"{line!r} is not printed:\n{printed}"


def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    """On three of the photos: the console above locates all."""
    (code,) = blocks((ROOT / "README.md").read_text(encoding="utf-8"), "python")
    assert len(code.splitlines()) <= 10
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in (23, 34, 35):
        (photos / f"{number}.JPG").symlink_to(ROOT / f"samples/brighton_beach/photos/DJI_00{number}.JPG")
    changed = code.replace("stride_m=2", "stride_m=10").replace('"brighton.gallery"', repr(str(tmp_path / "g")))
    changed = changed.replace('f"{area}/photos"', repr(str(photos)))
    assert str(tmp_path) in changed and "stride_m=10" in changed and str(photos) in changed
    done = subprocess.run([sys.executable, "-c", changed], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == [str(photos / f"{number}.JPG") for number in (23, 34, 35)]
    assert [row[4] for row in rows] == ["none", "verified", "verified"]
    assert all(abs(float(row[1]) - 46.842) < 0.01 for row in rows)


def test_what_the_python_of_a_page_imports_is_there() -> None:
    imports = [
        (path.name, line.strip())
        for path in PAGES
        for code in blocks(path.read_text(encoding="utf-8"), "python")
        for line in code.splitlines()
        if re.match(r"\s*(import|from) ", line)
    ]
    assert len(imports) > 5
    for page, line in imports:
        try:
            exec(compile(line, page, "exec"), {})
        except ImportError as error:
            pytest.fail(f"{page}: {line}: {error}")


@pytest.mark.skipif(util.find_spec("mkdocs") is None, reason="the docs extra is not installed")
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    api = (tmp_path / "site/api.html").read_text(encoding="utf-8")
    assert "dphr.LocationEstimate" in api and "InfoNce" in api
    foreign = re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"?(https?://[^\s\">]+)", api)
    assert not foreign, "the site loads from a network: " + ", ".join(foreign)
