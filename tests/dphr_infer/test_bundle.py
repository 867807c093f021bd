import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dphr_infer.bundle import Bundle, open_bundle, parse_manifest
from dphr_infer.errors import BundleError


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


def test_a_manifest_comes_back_from_its_text(bundle) -> None:
    assert parse_manifest(bundle.manifest.to_json(), "x") == bundle.manifest


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


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        '{"format": "other", "version": 1}',
        '{"format": "dphr-bundle", "version": 99}',
        "[" * 100_000,
    ],
)
def test_a_text_that_is_no_manifest_of_this_version_is_refused(text: str) -> None:
    with pytest.raises(BundleError):
        parse_manifest(text, "manifest.json")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("preprocess", {"height_px": 1, "width_px": 1}),
        ("dim", "wide"),
        ("dim", 0),
        ("max_batch", 0),
        ("files", []),
        ("parity", {"fp32": {}}),
    ],
)
def test_a_manifest_with_a_wrong_field_is_refused(bundle, field: str, value: object) -> None:
    content = {**json.loads(bundle.manifest.to_json()), field: value}
    with pytest.raises(BundleError, match="not a bundle manifest"):
        parse_manifest(json.dumps(content), "manifest.json")


def test_a_selftest_without_embeddings_is_refused(bundle: Bundle, copy: Path) -> None:
    (copy / "selftest/embeddings.safetensors").write_bytes(b"short")
    with pytest.raises(BundleError, match="cannot be read"):
        dataclasses.replace(bundle, folder=copy).read_selftest()
    for files in ({}, {"model.fp32.onnx": "0"}):
        with pytest.raises(BundleError, match="holds no picture in selftest/images"):
            dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, files=files)).read_selftest()
    images, embeddings = bundle.read_selftest()
    assert images.shape == (3, 32, 32, 3) and embeddings.dtype == np.float32
