"""mkdocs hook: pages link to files of the repository as they do on GitHub, and the site gets those files.

The READMEs of the packages become pages; whatever else a page links to (examples, pictures) is copied. A link to a file
that is not there is a warning, which `mkdocs build --strict` makes an error.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
# A file of the repository -> its page on the site.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "dphr_infer/INSTALL.md": "jetson.md",
    "dphr_infer/README.md": "matcher.md",
    "dphr_train/README.md": "training.md",
    "export/README.md": "export.md",
    "bench/README.md": "bench.md",
    "samples/README.md": "samples.md",
}
_LINK = re.compile(r"(\]\()([^)#:\s]+)((?:#[^)\s]*)?\))")


def page_text(source: str, files: Files, config: Any) -> str:
    """The text of a page whose file is `source` in the repository; what it links to is added to `files`."""

    def moved(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), found[2]))
        if target.startswith("docs/"):
            place = target.removeprefix("docs/")
        elif target in PAGES:
            place = PAGES[target]
        elif (ROOT / target).is_file():
            place = f"files/{target}"
            if files.get_file_from_path(place) is None:
                files.append(File.generated(config, place, content=(ROOT / target).read_bytes()))
        else:
            return found[0]
        return f"{found[1]}{place}{found[3]}"

    return _LINK.sub(moved, (ROOT / source).read_text(encoding="utf-8"))


def on_files(files: Files, config: Any) -> Files:
    """Add the pages whose files lie elsewhere, and rewrite the links of those that lie in docs/."""
    own = {f"docs/{path.name}": path.name for path in (ROOT / "docs").glob("*.md")}
    for source, place in {**own, **PAGES}.items():
        if (old := files.get_file_from_path(place)) is not None:
            files.remove(old)
        files.append(File.generated(config, place, content=page_text(source, files, config)))
    return files
