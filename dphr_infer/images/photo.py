"""One picture to locate, whatever it comes as: a path, an array, a PIL image, or a camera's bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dphr_infer.errors import ImageError
from dphr_infer.images.frame_format import FrameFormat, to_rgb
from dphr_infer.images.metadata import PhotoMetadata, metadata_of
from dphr_infer.images.preprocess import MIN_SIDE_PX, check_image_size, decoded, list_images, opened_picture

PhotoLike = Any  # str | Path | NDArray[np.uint8] | Image.Image | Photo; what else is refused by `to_photo`
# By how many times a picture's file may be read coarser than it is: of its metadata, width and height.
Coarser = Callable[[PhotoMetadata, int, int], float]
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, eq=False)
class Photo:
    """A picture and what is known of it.

    Attributes:
        image: uint8 (H, W, 3), RGB; or the bytes that `frame_format` describes.
        source: for people, such as the path.
        metadata: what the drone wrote into it.
        frame_format: what the bytes mean; None is RGB without gaps.
    """

    image: NDArray[np.uint8]
    source: str = ""
    metadata: PhotoMetadata = field(default_factory=PhotoMetadata)
    frame_format: FrameFormat | None = None

    @property
    def rgb(self) -> NDArray[np.uint8]:
        """uint8 (H, W, 3), RGB; errors as in `frame_format.to_rgb`."""
        return self.image if self.frame_format is None else to_rgb(self.image, self.frame_format)

    @property
    def size_px(self) -> tuple[int, int]:
        """Height and width of the picture."""
        if self.frame_format is not None:
            return self.frame_format.height_px, self.frame_format.width_px
        return self.image.shape[0], self.image.shape[1]


def read_photo(path: str | Path, coarser: Coarser | None = None) -> Photo:
    """A picture's file decoded, with its metadata; errors as of `read_image`. The file is opened once.

    Args:
        path: of the file.
        coarser: asked how much of the resolution is of use. A JPEG is then decoded at the half, quarter or eighth that
            leaves as much, if it is stored upright and its sides can be divided so; None decodes all of it.
    """
    with opened_picture(path) as image:
        return _photo_of(image, str(path), str(path), coarser)


def _photo_of(image: Image.Image, source: str, name: str, coarser: Coarser | None = None) -> Photo:
    metadata = metadata_of(image)  # first: decoding a TIFF turns it upright and forgets that it was stored turned
    if coarser is not None and image.format == "JPEG" and not metadata.stored_turned:
        check_image_size(image.width, image.height, name)
        times = coarser(metadata, image.width, image.height)
        for part in (8, 4, 2):
            width, height = image.width // part, image.height // part
            # A part of a block at the edge would shift the geometry.
            if part <= times and (width * part, height * part) == image.size and min(width, height) >= MIN_SIDE_PX:
                image.draft(image.mode, (width, height))
                break
    return Photo(decoded(image, name), source, metadata)


def to_photo(given: PhotoLike, coarser: Coarser | None = None) -> Photo:
    """A path read, or an array or a PIL image checked.

    Args:
        given: a path (str or Path), uint8 (H, W, 3) RGB, a PIL image (turned upright by its EXIF orientation), or a
            Photo, which is returned as it is.
        coarser: of a path, as of `read_photo`.

    Raises:
        ImageError: a file that is missing or damaged; an array that is grey, RGBA or not uint8; a size out of range.
    """
    if isinstance(given, Photo):
        return given
    if isinstance(given, str | Path):
        return read_photo(given, coarser)
    if isinstance(given, Image.Image):
        return _photo_of(given, getattr(given, "filename", "") or "", "The image")
    if not isinstance(given, np.ndarray):
        raise ImageError(
            f"A photo is a path, an array uint8 (H, W, 3) or a PIL image, but {type(given).__name__} was given."
        )
    return Photo(_checked(given))


def _checked(image: NDArray[Any]) -> NDArray[np.uint8]:
    shape, how = image.shape, ""
    if image.dtype != np.uint8:
        how = "scale it to 0..255 and convert: (image * 255).round().astype(np.uint8) for values in 0..1"
    elif image.ndim == 2 or (image.ndim == 3 and shape[2] == 1):
        how = "it is grey: repeat the channel with np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)"
    elif image.ndim == 3 and shape[2] == 4:
        how = "it is RGBA: drop the alpha channel with image[..., :3]"
    elif image.ndim != 3 or shape[2] != 3:
        how = "give one picture, channels last"
    if how:
        raise ImageError(f"The image is an array {image.dtype} {shape}; expected uint8 (H, W, 3), RGB: {how}.")
    check_image_size(shape[1], shape[0], "The image")
    return np.ascontiguousarray(image)


def each_photo(source: PhotoLike | Iterable[PhotoLike]) -> Iterator[PhotoLike]:
    """The photos that a source names: those of a folder by name, those of an iterable in order, or the one given.

    Raises:
        ImageError: a folder without pictures.
    """
    if isinstance(source, str | Path) and Path(source).is_dir():
        yield from list_images(Path(source))
    elif isinstance(source, str | Path | np.ndarray | Image.Image | Photo):
        yield source
    elif isinstance(source, Iterable):
        for one in source:
            yield from each_photo(one) if isinstance(one, str | Path) else (one,)
    else:
        raise ImageError(f"Photos come from a folder, a path or an iterable, but {type(source).__name__} was given.")


def worked_ahead(items: Iterable[Item], work: Callable[[Item], Result]) -> Iterator[tuple[Item, Future[Result]]]:
    """Each item with its result to come; a thread works on the next item while the caller is busy with this one."""
    with ThreadPoolExecutor(1, "dphr decoder") as pool:
        waiting: tuple[Item, Future[Result]] | None = None
        for item in items:
            begun = item, pool.submit(work, item)
            if waiting is not None:
                waiting[1].exception()  # waits: at most one picture beside the caller's is in memory
                yield waiting
            waiting = begun
        if waiting is not None:
            yield waiting
