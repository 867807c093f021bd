import dataclasses
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from dphr_infer.errors import BundleError
from dphr_infer.files.bundle import Bundle, digest_files, open_bundle


@pytest.fixture
def copy(bundle, tmp_path: Path) -> Path:
    """A copy of the test bundle that a test may damage."""
    shutil.copytree(bundle.folder, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_bundle_is_named_by_the_digest_of_its_manifest(bundle) -> None:
    assert bundle.digest == hashlib.sha256((bundle.folder / "manifest.json").read_bytes()).hexdigest()
    assert set(bundle.manifest.files) == {
        "model.fp32.onnx",
        "selftest/embeddings.safetensors",
        *(f"selftest/images/{i}.png" for i in range(3)),
    }


@pytest.mark.parametrize("name", ["model.fp32.onnx", "selftest/images/1.png", "selftest/embeddings.safetensors"])
def test_each_file_that_is_changed_or_missing_is_named(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(BundleError, match=rf"{name} is damaged: its sha256"):
        open_bundle(copy)
    (copy / name).unlink()
    with pytest.raises(BundleError, match=f"lacks {name}"):
        open_bundle(copy)


def test_a_folder_without_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no manifest\.json"):
        open_bundle(tmp_path)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../outside"])
def test_a_manifest_that_names_files_outside_is_refused(bundle, copy: Path, name: str) -> None:
    manifest = dataclasses.replace(bundle.manifest, files={name: "0"})
    (copy / "manifest.json").write_text(manifest.to_json())
    with pytest.raises(BundleError, match="outside the bundle"):
        open_bundle(copy)


def test_a_name_that_this_file_system_cannot_hold_is_one_line(tmp_path: Path) -> None:
    for name in ("x" * 5000, "a\0b"):
        with pytest.raises(BundleError, match=r"cannot be read|is not a bundle"):
            open_bundle(tmp_path / name)


def test_a_manifest_in_other_bytes_than_utf_8_is_refused(copy: Path) -> None:
    content = (copy / "manifest.json").read_bytes()
    (copy / "manifest.json").write_bytes(content.replace(b'"grid"', b'"gri\xff"'))
    with pytest.raises(BundleError, match="can't decode byte 0xff"):
        open_bundle(copy)


def test_a_selftest_without_embeddings_is_refused(bundle: Bundle, copy: Path) -> None:
    (copy / "selftest/embeddings.safetensors").write_bytes(b"short")
    with pytest.raises(BundleError, match="cannot be read"):
        dataclasses.replace(bundle, folder=copy).read_selftest()
    for files in ({}, {"model.fp32.onnx": "0"}):
        with pytest.raises(BundleError, match="holds no picture in selftest/images"):
            dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, files=files)).read_selftest()
    images, embeddings = bundle.read_selftest()
    assert images.shape == (3, 32, 32, 3) and embeddings.dtype == np.float32


def rewritten(folder: Path, bundle: Bundle) -> Bundle:
    """The bundle in a folder that was changed, its digests in order."""
    manifest = dataclasses.replace(bundle.manifest, files=digest_files(folder))
    (folder / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
    return open_bundle(folder)


def test_a_selftest_of_another_size_than_the_manifest_is_refused(bundle: Bundle, copy: Path) -> None:
    picture = copy / "selftest/images/1.png"
    Image.new("RGB", (32, 31)).save(picture)
    with pytest.raises(BundleError, match=r"1\.png is 32x31 px, the manifest says 32x32"):
        rewritten(copy, bundle).read_selftest()
    picture.write_bytes(b"no picture")
    with pytest.raises(BundleError, match=r"cannot be read \(.*1\.png is not a picture"):
        rewritten(copy, bundle).read_selftest()


def test_embeddings_that_do_not_belong_to_pictures_and_manifest_are_refused(bundle: Bundle, copy: Path) -> None:
    good, path = bundle.read_selftest()[1], copy / "selftest/embeddings.safetensors"
    n_images, dim = good.shape
    nan = np.where(np.arange(n_images)[:, None] == 1, np.float32(np.nan), good)
    for embeddings, words in [
        (good[:-1], rf"float32 \({n_images - 1}, {dim}\), and float32 \({n_images}, {dim}\) belongs"),
        (np.ascontiguousarray(good[:, :-1]), rf"float32 \({n_images}, {dim - 1}\)"),
        (good.astype(np.float64), "float64"),
        (good * np.float32(1.002), r"off unit length by 0\.002, at most 0\.001"),
        (nan, "off unit length by nan"),
    ]:
        save_file({"embeddings": embeddings}, path)
        with pytest.raises(BundleError, match=words):
            rewritten(copy, bundle).read_selftest()
    save_file({"others": good}, path)
    with pytest.raises(BundleError, match="cannot be read"):
        rewritten(copy, bundle).read_selftest()


def test_embeddings_that_no_digest_covers_are_not_read(bundle: Bundle) -> None:
    files = {name: digest for name, digest in bundle.manifest.files.items() if not name.endswith(".safetensors")}
    with pytest.raises(BundleError, match=r"names no selftest/embeddings\.safetensors"):
        dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, files=files)).read_selftest()
