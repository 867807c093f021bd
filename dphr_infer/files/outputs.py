"""Where outputs may go: never over an input or over each other, and known before any work is done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from dphr_infer.errors import ConfigError
from dphr_infer.files.atomic import check_target

MAP_PICTURE = "map.png"


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
