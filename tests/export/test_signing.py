from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import numpy as np
import onnx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from onnx import TensorProto, helper
from PIL import Image
from safetensors.numpy import save, save_file

import export.signing as signing
from dphr_infer.errors import BundleError, ConfigError, StorageError
from dphr_infer.files.bundle import Manifest, Parity, digest_files, open_bundle
from dphr_infer.files.signature import parse_signature, read_public_key, require_signature
from dphr_infer.images.preprocess import Preprocess
from export.signing import make_key, sign_bundle

PARITY = {"fp32": Parity(1.0, 1.0, 0.0, 0.0, 3)}
PEM, PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    (folder / "selftest/images").mkdir(parents=True)
    (folder / "model.fp32.onnx").write_bytes(model())
    Image.new("RGB", (32, 32)).save(folder / "selftest/images/0.png")
    save_file({"embeddings": np.eye(1, 8, dtype=np.float32)}, folder / "selftest/embeddings.safetensors")
    write_manifest(folder)
    return folder


def model() -> bytes:
    """An ONNX model of one node; nobody runs it here."""
    pixels = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 32, 32, 3])
    answer = helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, None)
    node = helper.make_node("Cast", ["images"], ["embeddings"], to=TensorProto.FLOAT)
    content: bytes = helper.make_model(helper.make_graph([node], "cast", [pixels], [answer])).SerializeToString()
    return content


@pytest.fixture
def key(tmp_path: Path) -> Path:
    make_key(tmp_path / "drone.pem")
    return tmp_path / "drone.pem"


def write_manifest(folder: Path) -> None:
    manifest = Manifest("tiny", 8, 16, Preprocess(32, 32), digest_files(folder), PARITY, {"note": "a"})
    (folder / "manifest.json").write_text(manifest.to_json())


def test_a_signed_bundle_is_accepted_by_the_public_key_of_the_pair(bundle: Path, key: Path) -> None:
    public = key.with_name("drone.pub.pem")
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    sign_bundle(bundle, key)
    manifest = (bundle / "manifest.json").read_bytes()
    require_signature(bundle, manifest, public)
    signature = parse_signature((bundle / "signature.json").read_bytes(), "x")
    assert (signature.manifest_sha256, signature.public_key) == (open_bundle(bundle).digest, read_public_key(public))
    assert {path for path in bundle.rglob("*") if path.is_file()} == {*before, bundle / "signature.json"}
    assert all(path.read_bytes() == content for path, content in before.items())
    with pytest.raises(BundleError, match="signed by the key"):
        require_signature(bundle, manifest, make_key(bundle.parent / "other.pem"))


def test_signing_twice_gives_the_same_bytes_and_another_key_replaces_the_signature(bundle: Path, key: Path) -> None:
    sign_bundle(bundle, key)
    first = (bundle / "signature.json").read_bytes()
    sign_bundle(bundle, key)
    assert (bundle / "signature.json").read_bytes() == first
    public = make_key(bundle.parent / "other.pem")
    sign_bundle(bundle, bundle.parent / "other.pem")
    require_signature(bundle, (bundle / "manifest.json").read_bytes(), public)


def test_the_private_key_is_for_its_owner_alone_and_the_public_one_for_all(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        public = make_key(tmp_path / "keys" / "drone.pem")
    finally:
        os.umask(before)
    assert public == tmp_path / "keys" / "drone.pub.pem"
    assert stat.S_IMODE((tmp_path / "keys" / "drone.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE(public.stat().st_mode) == 0o644
    assert (tmp_path / "keys" / "drone.pem").read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----\n")
    assert public.read_bytes().startswith(b"-----BEGIN PUBLIC KEY-----\n")


@pytest.mark.parametrize("name", ["drone.pem", "drone.pub.pem"])
def test_a_key_is_never_overwritten_and_half_a_pair_never_left(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(StorageError, match=rf"{name} exists already, and a key is never overwritten"):
        make_key(tmp_path / "drone.pem")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_key_goes_through_no_link_to_another_file(tmp_path: Path) -> None:
    (tmp_path / "drone.pem").symlink_to(tmp_path / "target")
    with pytest.raises(StorageError, match="exists already"):
        make_key(tmp_path / "drone.pem")
    assert not (tmp_path / "target").exists()


def test_a_file_system_that_lets_others_read_the_key_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signing.os, "fchmod", lambda handle, mode: (tmp_path / "drone.pem").chmod(0o755))
    with pytest.raises(StorageError, match=r"readable by others: its file system gives it mode 755 instead of 600"):
        make_key(tmp_path / "drone.pem")
    assert not list(tmp_path.iterdir())


def test_a_path_that_no_key_can_have_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    long = tmp_path / "new" / "keys" / ("x" * 300)
    for path in (tmp_path / "file" / "drone.pem", Path("/"), tmp_path, long):
        with pytest.raises(StorageError):
            make_key(path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_damaged_bundle_is_not_signed(bundle: Path, key: Path) -> None:
    content = bytearray(model())
    content[-1] ^= 1
    (bundle / "model.fp32.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"model\.fp32\.onnx is damaged"):
        sign_bundle(bundle, key)
    assert not (bundle / "signature.json").exists()


def test_a_bundle_that_changes_between_check_and_signature_is_not_signed(
    bundle: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_and_change(folder: Path) -> object:
        opened = open_bundle(folder)
        (folder / "manifest.json").write_bytes(b"{}")
        return opened

    monkeypatch.setattr(signing, "open_bundle", open_and_change)
    with pytest.raises(BundleError, match="changed while it was being signed"):
        sign_bundle(bundle, key)
    assert not (bundle / "signature.json").exists()


def test_a_manifest_that_names_the_signature_itself_is_refused(bundle: Path, key: Path) -> None:
    (bundle / "signature.json").write_bytes(b"old")
    manifest = Manifest("t", 8, 16, Preprocess(32, 32), {"signature.json": "0" * 64}, PARITY, {})
    digest = hashlib.sha256(b"old").hexdigest()
    (bundle / "manifest.json").write_text(manifest.to_json().replace("0" * 64, digest))
    with pytest.raises(BundleError, match=r'names "signature\.json" as a part of the bundle'):
        sign_bundle(bundle, key)
    assert (bundle / "signature.json").read_bytes() == b"old"


def test_a_bundle_whose_model_or_selftest_nobody_could_read_is_not_signed(bundle: Path, key: Path) -> None:
    embeddings, outside = bundle / "selftest/embeddings.safetensors", onnx.load_from_string(model())
    outside.graph.initializer.append(TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1]))
    outside.graph.initializer[0].external_data.add(key="location", value="weights.bin")
    for path, content, words in [
        (bundle / "model.fp32.onnx", b"", "not an ONNX model, or is cut short"),
        (bundle / "model.fp32.onnx", b"no model", "not an ONNX model"),
        (bundle / "model.fp32.onnx", b"\x08\x0a", "not an ONNX model"),
        (bundle / "model.fp32.onnx", b"\xff" * 20, "not an ONNX model"),
        (bundle / "model.fp32.onnx", model()[:-3], "cut short"),
        (bundle / "model.fp32.onnx", outside.SerializeToString(), "weights in other files, which a signature would"),
        (bundle / "selftest/images/0.png", b"no picture", "self-test of .* cannot be read"),
        (embeddings, save({"embeddings": np.eye(1, 7, dtype=np.float32)}), r"holds float32 \(1, 7\), and float32"),
        (embeddings, save({"embeddings": np.zeros((1, 8), np.float32)}), "off unit length by 1"),
    ]:
        before = path.read_bytes()
        path.write_bytes(content)
        write_manifest(bundle)
        with pytest.raises(BundleError, match=words):
            sign_bundle(bundle, key)
        path.write_bytes(before)
    write_manifest(bundle)
    manifest = (bundle / "manifest.json").read_text()
    (bundle / "manifest.json").write_text(manifest.replace('"n_images": 3', '"n_images": "3"'))
    with pytest.raises(BundleError, match=r"n_images is \"3\", not an integer"):
        sign_bundle(bundle, key)
    assert not (bundle / "signature.json").exists()


def test_files_that_are_no_private_key_are_refused_by_what_they_are(bundle: Path, key: Path, tmp_path: Path) -> None:
    locked = ed25519.Ed25519PrivateKey.generate().private_bytes(
        PEM, PKCS8, serialization.BestAvailableEncryption(b"secret")
    )
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(PEM, PKCS8, serialization.NoEncryption())
    files = {
        "holds a public key; a bundle is signed with the private one": key.with_name("drone.pub.pem").read_bytes(),
        "is locked by a passphrase": locked,
        "holds a private key of another kind than Ed25519": other,
        "is not a private key in PEM form": b"nothing",
    }
    for words, content in files.items():
        (tmp_path / "key").write_bytes(content)
        with pytest.raises(ConfigError, match=words):
            sign_bundle(bundle, tmp_path / "key")
    with pytest.raises(ConfigError, match="does not exist"):
        sign_bundle(bundle, tmp_path / "none")
    assert not (bundle / "signature.json").exists()
