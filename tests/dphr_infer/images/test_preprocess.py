import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dphr_infer.errors import ConfigError, ImageError
from dphr_infer.images.preprocess import Preprocess, list_images, read_image


def test_crop_takes_the_centred_square_and_stretch_the_whole() -> None:
    image = np.zeros((64, 128, 3), np.uint8)
    image[:, 32:96] = 255  # white exactly where the centred square is
    assert Preprocess(32, 32, "box", "crop")(image).min() == 255
    stretched = Preprocess(32, 32, "box", "stretch")(image)
    assert stretched[:, :8].max() == 0 and stretched[:, 8:24].min() == 255


def test_box_interpolation_averages_blocks() -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    image[::2] = 100
    assert (Preprocess(16, 16, "box")(image) == 50).all()


def test_an_image_of_model_size_passes_unchanged(texture) -> None:
    image = texture(32, 32)
    for interpolation in ("box", "bilinear", "bicubic"):
        np.testing.assert_array_equal(Preprocess(32, 32, interpolation)(image), image)


@settings(max_examples=200, deadline=None)
@given(st.integers(16, 700), st.integers(16, 700), st.integers(16, 300), st.integers(16, 300))
def test_every_size_can_be_brought_to_every_model_size(
    height: int, width: int, model_height: int, model_width: int
) -> None:
    out = Preprocess(model_height, model_width)(np.full((height, width, 3), 7, np.uint8))
    assert out.shape == (model_height, model_width, 3) and (out == 7).all()


def test_a_crop_that_rounding_puts_outside_the_picture_is_taken() -> None:
    for side in range(200, 800):
        Preprocess(224, 224)(np.zeros((side, side, 3), np.uint8))


@pytest.mark.parametrize("options", [{"height_px": 8}, {"interpolation": "nearest"}, {"fit": "pad"}, {"width_px": 0}])
def test_settings_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(ConfigError):
        Preprocess(**{"height_px": 32, "width_px": 32, **options})


def test_a_picture_is_read_as_rgb_and_upright(tmp_path: Path) -> None:
    pixels = np.zeros((20, 30), np.uint8)
    pixels[0] = 255
    exif = Image.Exif()
    exif[274] = 6  # the top of the scene is at the right of the file
    Image.fromarray(pixels).save(tmp_path / "p.png", exif=exif)
    found = read_image(tmp_path / "p.png")
    assert found.shape == (30, 20, 3) and found[:, -1].min() == 255 and found[:, 0].max() == 0
    found[0] = 1  # a copy that may be written to


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1"])
def test_pictures_of_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    name = tmp_path / ("p.tif" if mode == "CMYK" else "p.png")
    Image.new(mode, (20, 30)).save(name)
    assert read_image(name).shape == (30, 20, 3)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_a_picture_of_more_than_8_bits_is_refused_with_the_command_that_converts_it(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (20, 30)).save(tmp_path / "p.tif")
    with pytest.raises(ImageError, match=rf"mode {mode}.*gdal_translate -ot Byte"):
        read_image(tmp_path / "p.tif")


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "bmp"])
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.9])
def test_a_truncated_picture_is_one_error_of_ours(tmp_path: Path, texture, suffix: str, keep: float) -> None:
    path = tmp_path / f"p.{suffix}"
    Image.fromarray(texture(100, 100)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ImageError, match=r"p\."):
        read_image(path)


def test_a_missing_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="does not exist"):
        read_image(tmp_path / "none.jpg")


def write_head(path: Path, width: int, height: int) -> None:
    """A PNG of which only the head is true to its claim."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 10)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


@pytest.mark.parametrize(
    ("width", "height", "message"),
    [
        (1, 1, "1x1 px"),
        (4000, 15, "4000x15 px"),
        (20_000, 10_000, "above the limit of 120"),
        (16_000, 8_000, "128 megapixels"),
    ],
)
def test_sizes_that_hold_no_picture_or_fill_the_memory_are_refused(tmp_path: Path, width, height, message) -> None:
    write_head(tmp_path / "p.png", width, height)
    with pytest.raises(ImageError, match=message):
        read_image(tmp_path / "p.png")


def test_pictures_of_a_folder_come_by_name_and_other_files_are_left(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in list_images(tmp_path)] == ["a.png", "b.JPG"]


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="holds no picture"):
        list_images(tmp_path)
    with pytest.raises(ImageError, match="not a folder"):
        list_images(tmp_path / "none")
