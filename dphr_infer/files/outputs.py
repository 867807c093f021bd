"""Where outputs may go: never over an input or over each other, and known before any work is done.

A program makes each path that a user writes by `path_of`, and each text that may go to standard output by `output_of`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dphr_infer.errors import ConfigError
from dphr_infer.files.atomic import atomic_file, check_target

MAP_PICTURE = "map.png"
STANDARD_OUTPUT = "-"


def path_of(text: str | Path) -> Path:
    """The file or folder that a user means: a `~` or `~name` in front is that home folder, whatever the shell left.

    Raises:
        ConfigError: "-", which is standard input or output where that is possible; no path; or nobody has that name.
    """
    shown = str(text)
    if shown == STANDARD_OUTPUT:
        raise ConfigError('"-" is no file here, and standard output cannot take what it holds. Give a path, or "./-".')
    if not shown:
        raise ConfigError("A path is empty: give the name of a file or folder.")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ConfigError(f"{shown} begins with a home folder that is not known here. Write the whole path.") from None


@dataclass(frozen=True, slots=True)
class Output:
    """Where a text goes.

    Attributes:
        path: a file; None is standard output.
    """

    path: Path | None = None

    def write(self, text: str) -> None:
        """Write all of the text: a file whole or not at all.

        Raises:
            StorageError: the file cannot be written.
        """
        if self.path is None:
            sys.stdout.write(text)
            return
        with atomic_file(self.path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def output_of(text: str | Path) -> Output:
    """Where a user's option sends a text: "-" is standard output, all else a file; errors as of `path_of`."""
    return Output() if str(text) == STANDARD_OUTPUT else Output(path_of(text))


def check_outputs(outputs: Mapping[str, Path], inputs: Mapping[str, Path | Iterable[Path]], bundle: Path) -> None:
    """Refuse outputs that would destroy something, or that cannot be written.

    Args:
        outputs: {the option that names it: file}.
        inputs: {what it is, for people: file or files}.
        bundle: folder that nothing may be written into.

    Raises:
        ConfigError: an output is an input, lies inside the bundle, or is another output too.
        StorageError: see `check_target`.
    """
    taken = {
        path.resolve(): name
        for name, paths in inputs.items()
        for path in ([paths] if isinstance(paths, Path) else paths)
    }
    for option, path in outputs.items():
        check_target(path)
        target = path.resolve()
        if target in taken:
            raise ConfigError(f"{option} would write {path}, which is {taken[target]} too. Choose another file.")
        if target.is_relative_to(bundle.resolve()):
            raise ConfigError(
                f"{option} would write {path} into the bundle {bundle}, whose digests it would break. "
                "Choose a file outside it."
            )
        taken[target] = option


def picture_names(photos: Sequence[Path]) -> dict[Path, str]:
    """{photo: file name of its picture}, no two alike and none that of the map.

    A photo's picture has its stem; where that is taken, by the map's or an earlier photo's, the next free of "-2",
    "-3", … is added. Case is not told apart, as some file systems do not.
    """
    taken, names = {MAP_PICTURE}, dict[Path, str]()
    for photo in dict.fromkeys(photos):
        name, number = f"{photo.stem}.png", 1
        while name.casefold() in taken:
            number += 1
            name = f"{photo.stem}-{number}.png"
        taken.add(name.casefold())
        names[photo] = name
    return names
