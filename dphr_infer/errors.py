"""Every error that a user can cause, as one tree.

    DphrError
    ├── ConfigError          settings that contradict each other or lie outside their range
    ├── ImageError           a picture that cannot be read, or whose size is refused
    ├── MapError             a raster without georeference, bands or room for one tile; a pack of another map
    ├── DatasetError         a data set folder with missing or unreadable parts
    ├── CheckpointError      weights that are damaged, not finite or of another architecture
    ├── TrainingError        a run that cannot go on (loss not finite, fewer places than a batch)
    ├── ExportError          a model that cannot be exported or fails its parity gate
    ├── BundleError          a bundle that is incomplete, damaged or of another format
    ├── GalleryError         a gallery that is damaged or does not belong to the bundle or the query
    ├── FlightError          a frame, an odometry or a saved state that a flight cannot take
    ├── EngineError          an inference engine that cannot run as asked
    ├── StorageError         an output that cannot be written (no space, no permission, exists already)
    └── MissingPackageError  an optional package that the command needs; names the pip line

A message says what is wrong with both numbers, why, and what to do. The command line prints it as one line and exits
with code 2; any other exception keeps its traceback, because it is a bug of ours.
"""

from __future__ import annotations


class DphrError(Exception):
    """Base of all errors that a user can cause and fix."""


class ConfigError(DphrError):
    """Settings that contradict each other or lie outside their range."""


class ImageError(DphrError):
    """A picture that cannot be read, or whose size is refused."""


class MapError(DphrError):
    """A raster without georeference, with too few bands, or too small for one tile; a map pack that does not serve."""


class DatasetError(DphrError):
    """A data set folder with missing or unreadable parts."""


class CheckpointError(DphrError):
    """Weights that are damaged, not finite, or of another architecture."""


class TrainingError(DphrError):
    """A training run that cannot start or go on."""


class ExportError(DphrError):
    """A model that cannot be exported, or that fails its parity gate."""


class BundleError(DphrError):
    """A bundle that is incomplete, damaged, or of another format."""


class GalleryError(DphrError):
    """A gallery that is damaged, or does not belong to the bundle or the query."""


class FlightError(DphrError):
    """A frame, an odometry or a saved state that a flight cannot take."""


class EngineError(DphrError):
    """An inference engine that cannot run as asked."""


class StorageError(DphrError):
    """An output that cannot be written: no space, no permission, or it exists already."""


class MissingPackageError(DphrError):
    """An optional package that this command needs is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package {package}, which is not installed: pip install 'dphr[{extra}]'")


def printable(text: str) -> str:
    """A text on one line: line ends, other control characters and undecodable bytes of file names are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
