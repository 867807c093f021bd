"""Image -> uint8 (h, w, 3) at model size. Training, indexing and flight all pass here, so they cannot differ."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from dphr_infer.errors import ConfigError, ImageError

Interpolation = Literal["box", "bilinear", "bicubic"]
Fit = Literal["crop", "stretch"]

MIN_SIDE_PX = 16
MAX_PIXELS = 120_000_000
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp")

_RESAMPLING = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How any image becomes model input; it is stored in every checkpoint and bundle.

    Attributes:
        height_px, width_px: model input size.
        interpolation: an antialiased resize of Pillow.
        fit: "crop" takes the largest centred part with the model's aspect ratio; "stretch" resizes the whole image.
    """

    height_px: int
    width_px: int
    interpolation: Interpolation = "bilinear"
    fit: Fit = "crop"

    def __post_init__(self) -> None:
        if min(self.height_px, self.width_px) < MIN_SIDE_PX:
            raise ConfigError(
                f"Model input is {self.width_px}x{self.height_px} px; each side needs at least {MIN_SIDE_PX} px."
            )
        if self.interpolation not in _RESAMPLING:
            raise ConfigError(
                f"Interpolation {self.interpolation!r} is unknown; choose one of {', '.join(_RESAMPLING)}."
            )
        if self.fit not in ("crop", "stretch"):
            raise ConfigError(f"Fit {self.fit!r} is unknown; choose crop or stretch.")

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Bring one image to model size.

        Args:
            image: uint8 (H, W, 3), RGB, any size.

        Returns:
            uint8 (height_px, width_px, 3), C-contiguous.
        """
        height, width = image.shape[:2]
        resized = Image.fromarray(image).resize(
            (self.width_px, self.height_px), _RESAMPLING[self.interpolation], box=self.box(width, height)
        )
        return np.asarray(resized)

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The part of a picture of so many pixels that is resized: left, top, right, bottom."""
        if self.fit == "stretch":
            return 0.0, 0.0, float(width), float(height)
        scale = min(width / self.width_px, height / self.height_px)
        crop_w, crop_h = self.width_px * scale, self.height_px * scale
        # Rounding may put the box a hair outside the picture, which Pillow refuses.
        left, top = max(0.0, (width - crop_w) / 2), max(0.0, (height - crop_h) / 2)
        return left, top, min(float(width), left + crop_w), min(float(height), top + crop_h)


def check_image_size(width: int, height: int, name: str) -> None:
    """Refuse sizes that hold no picture or would fill the memory.

    Raises:
        ImageError: a side below 16 px, or more than 120 megapixels.
    """
    if min(width, height) < MIN_SIDE_PX:
        raise ImageError(f"{name} is {width}x{height} px; at least {MIN_SIDE_PX} px per side are needed to locate it.")
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name} is {width}x{height} px = {width * height / 1e6:.0f} megapixels, above the limit of "
            f"{MAX_PIXELS / 1e6:.0f}: reduce it first."
        )


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Say in an ImageError what Pillow cannot read; its warnings about what it can are left out."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except FileNotFoundError:
        raise ImageError(f"{name} does not exist.") from None
    except Image.DecompressionBombError as error:
        seen = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        raise ImageError(
            f"{name} has more than {seen:.0f} megapixels, above the limit of {MAX_PIXELS / 1e6:.0f}: reduce it first."
        ) from error
    except UnidentifiedImageError:
        raise ImageError(f"{name} is not a picture that Pillow can read ({', '.join(IMAGE_SUFFIXES)}).") from None
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise ImageError(f"{name} is damaged or cut short ({error}). Copy it again from its source.") from error


@contextmanager
def opened_picture(path: str | Path) -> Iterator[Image.Image]:
    """A picture's file as Pillow opens it; nothing is decoded yet.

    Raises:
        ImageError: missing, damaged, not a picture, or of more pixels than Pillow itself looks at.
    """
    with _explained(str(path)), Image.open(path) as image:
        yield image


def decoded(image: Image.Image, name: str) -> NDArray[np.uint8]:
    """A PIL image as RGB, uint8 (H, W, 3), upright by its EXIF orientation; errors as in `read_image`."""
    check_image_size(image.width, image.height, name)
    if image.mode.startswith(("I", "F")):
        raise ImageError(
            f"{name} has 16 or 32 bits per pixel (mode {image.mode}), which 8 would cut off. Convert it with "
            "a scale that suits its contrast: gdal_translate -ot Byte -scale IN.tif OUT.tif"
        )
    with _explained(name):
        # np.array copies: the result outlives the file and may be written to.
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Decode a picture to RGB, upright by its EXIF orientation.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ImageError: missing, truncated, not a picture, grey of more than 8 bits, below 16 px per side or above 120
            megapixels.
    """
    with opened_picture(path) as image:
        return decoded(image, str(path))


def list_images(folder: Path) -> list[Path]:
    """The pictures directly in a folder, by name.

    Raises:
        ImageError: the folder does not exist or holds none.
    """
    if not folder.is_dir():
        raise ImageError(f"{folder} is not a folder.")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise ImageError(f"{folder} holds no picture ({', '.join(IMAGE_SUFFIXES)}).")
    return found
