from pathlib import Path
from typing import Any

import numpy as np
import pytest
from photo_files import xmp_option
from PIL import ExifTags, Image

from dphr_infer.errors import ImageError
from dphr_infer.images.metadata import read_photo_metadata
from dphr_infer.images.photo import read_photo, to_photo
from dphr_infer.images.preprocess import read_image

XMP = b'<x drone-dji:GimbalYawDegree="-45.00"/>'


def save(path: Path, image: np.ndarray) -> Path:
    """A picture that lies on its side, with a position and, where the format keeps it, a yaw."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    place = {1: "N", 2: (46.0, 30.0, 0.0), 3: "E", 4: (8.0, 0.0, 0.0), 16: "T", 17: 90.0}
    exif[ExifTags.IFD.GPSInfo] = place
    options = xmp_option(path, XMP) if path.suffix in (".jpg", ".webp") else {}
    Image.fromarray(image).save(path, exif=exif.tobytes(), **options)
    return path


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_one_opening_of_a_file_gives_its_picture_and_its_metadata(
    tmp_path: Path, texture: Any, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = save(tmp_path / f"p{suffix}", texture(40, 60))
    image, metadata = read_image(path), read_photo_metadata(path)
    assert image.shape == (60, 40, 3) and metadata.camera is not None
    assert metadata.yaw_deg == (315.0 if suffix in (".jpg", ".webp") else 90.0)
    opened, really = [], Image.open
    monkeypatch.setattr(Image, "open", lambda given: opened.append(given) or really(given))
    photo = read_photo(path)
    assert opened == [path] and photo.source == str(path)
    assert np.array_equal(photo.image, image) and photo.metadata == metadata


def test_an_image_that_the_caller_opened_keeps_its_metadata(tmp_path: Path, texture: Any) -> None:
    path = save(tmp_path / "p.jpg", texture(40, 60))
    with Image.open(path) as opened:
        photo = to_photo(opened)
    assert np.array_equal(photo.image, read_image(path))
    assert (photo.metadata, photo.source) == (read_photo_metadata(path), str(path))


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_picture_cut_short_is_one_error_of_ours_however_it_comes(tmp_path: Path, texture: Any, suffix: str) -> None:
    path = save(tmp_path / f"p{suffix}", texture(120, 160))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(ImageError, match=rf"p{suffix} is damaged or cut short"):
        to_photo(path)
    with Image.open(path) as opened, pytest.raises(ImageError, match="The image is damaged or cut short"):
        to_photo(opened)


@pytest.mark.parametrize(
    ("size", "times", "expected"),
    [
        ((160, 96), 1.9, (160, 96)),
        ((160, 96), 2.0, (80, 48)),
        ((160, 96), 7.9, (40, 24)),
        ((160, 96), 100.0, (40, 24)),  # an eighth has less than 16 px
        ((320, 128), 100.0, (40, 16)),
        ((162, 98), 100.0, (81, 49)),  # four does not divide them
        ((161, 96), 100.0, (161, 96)),
    ],
)
def test_a_jpeg_is_decoded_no_finer_than_it_is_needed(
    tmp_path: Path, size: tuple[int, int], times: float, expected: tuple[int, int]
) -> None:
    slope = np.add.outer(np.arange(size[1]), np.arange(size[0]))[..., None] * np.array([0.6, 0.5, 0.4])
    path, asked = tmp_path / "p.jpg", []
    Image.fromarray(slope.astype(np.uint8)).save(path, quality=95)
    found = read_photo(path, lambda metadata, *full: asked.append((metadata, full)) or times)
    assert asked == [(read_photo_metadata(path), size)]
    assert (found.size_px[1], found.size_px[0]) == expected
    means = np.asarray(Image.fromarray(read_photo(path).rgb).reduce(size[0] // expected[0]))
    assert np.abs(found.rgb.astype(int) - means).max() <= 3


@pytest.mark.parametrize(("name", "orientation"), [("p.png", 1), ("p.jpg", 6), ("p.jpg", 3)])
def test_what_is_no_jpeg_or_stored_turned_is_decoded_whole(tmp_path: Path, name: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.new("RGB", (160, 96)).save(tmp_path / name, exif=exif)
    assert sorted(read_photo(tmp_path / name, lambda *_: 8.0).size_px) == [96, 160]
